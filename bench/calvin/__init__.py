"""The CALVIN world: table, robot, cameras, tasks, chains and experts."""
