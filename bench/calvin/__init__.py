"""The CALVIN world: table, robot, cameras, tasks, chains and experts.

Importing it tells gymnasium the names of ``bench.calvin.gym_ids``; no simulator is imported by that.
"""

from bench.calvin.gym_ids import register

register()
