"""How fast each hot path is, a file for each verb of ``wristbench perf``; ratios in one run where that says more."""
