"""LeRobot's data format: v2.0, v2.1 and v3.0 read, v3.0 written; ``check`` finds defects.

What the rest of the project needs comes through here.  ``parquet`` and ``parquet_footer`` read its tables without
trusting them, ``meta`` its description, ``rig_file`` the mapping of a robot's cameras.
"""

from bench.data.lerobot.reader import LeRobotDataset
from bench.data.lerobot.writer import Column, Layout, LeRobotWriter, Piece

__all__ = ["Column", "Layout", "LeRobotDataset", "LeRobotWriter", "Piece"]
