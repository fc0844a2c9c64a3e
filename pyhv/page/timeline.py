"""Counts over time when nobody knows how long it will take: bins that double their width."""

from __future__ import annotations

BINS = 120
FIRST_NS = 1_000_000


class Timeline:
    """Counts by name in at most BINS bins of ``width_ns``."""

    def __init__(self) -> None:
        self.width_ns = FIRST_NS
        self.counts: dict[str, list[int]] = {}

    def add(self, name: str, time_ns: int) -> None:
        """Count one *name* at *time_ns*."""
        at = max(0, time_ns) // self.width_ns
        while at >= BINS:
            self._double()
            at = max(0, time_ns) // self.width_ns
        row = self.counts.get(name)
        if row is None:
            row = self.counts[name] = [0] * BINS
        row[at] += 1

    def _double(self) -> None:
        self.width_ns *= 2
        for name, row in self.counts.items():
            half = [row[i] + row[i + 1] for i in range(0, BINS, 2)]
            self.counts[name] = half + [0] * (BINS - len(half))

    def used(self) -> int:
        """Return how many bins there is something in, from the first on."""
        last = (i + 1 for row in self.counts.values() for i, n in enumerate(row) if n)
        return max(last, default=0)
