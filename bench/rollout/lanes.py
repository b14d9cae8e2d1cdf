"""How many chains a worker carries side by side: as many as keep its core at work while answers are on their way.

One lane waits for every answer; each further one costs memory for a world.  A quick policy needs two, a slow one all.
The number has no influence on any result.  Not here: who is given which chain (``pool.py``).
"""

from __future__ import annotations

from bench.rollout.spent import Stint

FEWEST, MOST = 2, 4
"""Where answers come from another process.  On 16 cores with forwards of 150 ms, four were still of use."""
AT_WORK = 0.9
"""A worker that is at work for this share of its time needs no further lane."""


class Lanes:
    """The number of lanes of all workers, which grows while they are found idle.

    Args:
        fixed: the number that was asked for; None to find out.
        waits: whether answers come from another process; a worker that has its own policy never waits.
        workers: how many workers there are.
        chains: how many chains there are to do.
    """

    def __init__(self, fixed: int | None, waits: bool, workers: int, chains: int) -> None:
        room = -(-chains // workers)
        self.number = min(room, fixed or (FEWEST if waits else 1))
        self._most = min(room, fixed or (MOST if waits else 1))
        self._workers, self._of_before, self._seen = workers, self.number * workers, 0
        self._busy_s = self._whole_s = 0.0

    def learn(self, stint: Stint) -> None:
        """Take note of a chain that was finished.

        What was under way when the number last changed, or when all began and policies were still loaded, says nothing.
        """
        self._seen += 1
        if self.number == self._most or self._seen <= self._of_before:
            return
        self._busy_s, self._whole_s = self._busy_s + stint.spent.get("busy", 0.0), self._whole_s + stint.seconds
        if self._seen >= self._of_before + self._workers:
            self.number += self.number * self._busy_s < AT_WORK * self._whole_s
            self._of_before, self._seen, self._busy_s, self._whole_s = self.number * self._workers, 0, 0.0, 0.0
