"""Data sets in and out: readers, writers, overlays, clips."""
