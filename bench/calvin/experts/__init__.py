"""Scripted experts: how a hand that sees the simulator's state does each task; ``bench.calvin.expert`` is the door."""
