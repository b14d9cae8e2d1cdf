"""DROID as it was recorded, and folders of plain videos: read from HDF5 and mp4; ``check`` finds defects."""

from bench.data.droid.reader import DroidDataset, find_episodes

__all__ = ["DroidDataset", "find_episodes"]
