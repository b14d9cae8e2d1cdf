"""CALVIN's data format: frames in compressed files or packed into memory-mapped shards, read, written and checked.

What the rest of the project needs comes through here.  Used where they are needed: ``check`` (finding defects),
``pack`` (unpacking a data set once), ``part`` and ``pack_writer`` (many processes that write one split).
"""

from bench.data.calvin.fingerprint import dataset_hash
from bench.data.calvin.reader import BLOCK_ORDER, SPLITS, CalvinDataset, describe, frame_path, relative_actions
from bench.data.calvin.writer import CalvinWriter

__all__ = [
    "BLOCK_ORDER",
    "SPLITS",
    "CalvinDataset",
    "CalvinWriter",
    "dataset_hash",
    "describe",
    "frame_path",
    "relative_actions",
]
