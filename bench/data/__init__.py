"""Data sets in and out: readers, writers, overlays, clips.  ``bench.data.opening.open_dataset`` opens any folder."""
