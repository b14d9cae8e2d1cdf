"""Wrist-view generation from anchor views; knows neither the harness nor the policies."""
