"""How long a fuzzer runs, whether memory grows meanwhile, and how what it found is seen again.

``@pytest.mark.fuzz("Netvsc")`` tells what a test shakes; the test makes its rounds by the fixture:
``for _ in fuzz.rounds(400)``. That is 400 rounds, or with PYHV_FUZZ_S=60 as many as take 60 s; the
seeds and variants of the test share them. PYHV_FUZZ_SEED=1000 takes other seeds.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import time
from collections.abc import Iterator

import pytest

SECONDS = float(os.environ.get("PYHV_FUZZ_S", "0"))
FIRST_SEED = int(os.environ.get("PYHV_FUZZ_SEED", "0"))
SEEDS = pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + 4))
#: What the second half of the rounds may add: a guest may have us keep more than it did before, but
#: not more with each round. What it has us keep goes up and down (GPADLs, channels), so the most of
#: EARLY is compared with the least of LATE, in parts of all rounds.
MOST_BLOCKS, MOST_KIB = 2500, 8192
EARLY, LATE = (0.5, 0.6), (0.9, 1.0)


class Fuzz:
    """The rounds of one test; ``round`` is the one it is in, ``seconds`` its share of the time."""

    def __init__(self, node: pytest.Item) -> None:
        self.round = 0
        marker = node.get_closest_marker("fuzz")
        assert marker is not None, "a fuzzer says what it shakes"
        variants = [len(list(one.args[1])) for one in node.iter_markers("parametrize")]
        self.seconds = SECONDS * marker.kwargs.get("share", 1) / math.prod(variants)
        self._samples: list[tuple[int, int]] = []

    def rounds(self, least: int) -> Iterator[int]:
        """Count from 0 to *least* or for as long as there is time, and look at memory."""
        start = time.monotonic()
        for part in EARLY + LATE:
            while self.round < part * least or time.monotonic() - start < part * self.seconds:
                yield self.round
                self.round += 1
            self._samples.append(memory())
        blocks, kib = (
            min(found[len(EARLY) :]) - max(found[: len(EARLY)])
            for found in zip(*self._samples, strict=True)
        )
        assert blocks < MOST_BLOCKS, f"{blocks} more objects than after half of {self.round} rounds"
        assert kib < MOST_KIB, f"{kib} KiB more than after half of {self.round} rounds"


def memory() -> tuple[int, int]:
    """Return how many small blocks Python has in use, and the resident set in KiB."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return sys.getallocatedblocks(), int(file.read().split()[1]) * 4


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Fuzz:
    """The rounds of a test that is marked ``fuzz``."""
    return Fuzz(request.node)


def repeat(item: pytest.Item) -> str:
    """Say what a failed fuzzer's seed and round were, and the command that comes there again."""
    found = item.funcargs.get("fuzz")  # type: ignore[attr-defined]
    callspec = getattr(item, "callspec", None)
    seed = callspec.params.get("seed") if callspec else None
    where = f", round {found.round}" if found is not None else ""
    settings = {name: os.environ[name] for name in ("PYHV_FUZZ_S", "PYHV_FUZZ_SEED", "PYHV_SCALE")
                if name in os.environ}  # fmt: skip
    words = [*(f"{name}={value}" for name, value in settings.items()), "python -m pytest"]
    return f"seed {seed}{where}; again:\n{' '.join(words)} '{item.nodeid}'"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add to a failed fuzzer's report how to come there again."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and item.get_closest_marker("fuzz"):
        report.sections.append(("fuzzer", repeat(item)))
