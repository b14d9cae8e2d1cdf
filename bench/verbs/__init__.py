"""The command line's verbs, a file for each room; ``bench/cli.py`` puts them together."""
