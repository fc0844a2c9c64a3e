"""The fuzzers' own rule of growth: it finds what each round keeps, not what comes and goes."""

from __future__ import annotations

import pytest
from fuzzing import MOST_BLOCKS, Fuzz

ROUNDS = 1000
#: objects a round: over the rounds between the samples, more than the limit
KEPT = 2 * MOST_BLOCKS * 10 // (3 * ROUNDS) + 2


class Node:
    """As much of a test as Fuzz asks: one that is marked, and has two variants."""

    def get_closest_marker(self, name: str) -> pytest.Mark:
        assert name == "fuzz"
        return pytest.mark.fuzz("Test").mark

    def iter_markers(self, name: str) -> list[pytest.Mark]:
        return [pytest.mark.parametrize("seed", [1, 2]).mark]


def test_growth_is_found() -> None:
    kept: list[list] = []
    rounds = Fuzz(Node()).rounds(ROUNDS)
    for _ in range(ROUNDS):
        next(rounds)
        kept.extend([0.5] for _ in range(KEPT))
    with pytest.raises(AssertionError, match=f"more objects than after half of {ROUNDS} rounds"):
        next(rounds)
    assert len(kept) == ROUNDS * KEPT


def test_what_comes_and_goes_is_not() -> None:
    """At the end ten times the limit is there, and a tenth before it nothing."""
    kept: list[list] = []
    fuzz = Fuzz(Node())
    for turn in fuzz.rounds(ROUNDS):
        if turn == 0.93 * ROUNDS:
            kept.extend([0.5] for _ in range(10 * MOST_BLOCKS))
    assert fuzz.round == ROUNDS
