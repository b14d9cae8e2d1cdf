"""Chains rolled out in parallel, one ledger row per chain."""
