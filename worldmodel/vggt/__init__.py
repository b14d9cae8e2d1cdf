"""The geometry transformer: aggregator, heads, loading."""
