"""vm.keyboard: text to strokes, waiting for the driver, and every way it can fail."""

from __future__ import annotations

import threading

import pytest

from pyhv.errors import ConfigError
from pyhv.keyboard import KEYS, Keyboard, _strokes
from pyhv.seat import Seat


class Board:
    """Takes strokes from the *ready*-th try on."""

    def __init__(self, ready: int = 0, take: bool = True) -> None:
        self.vmbus, self.offered = object(), {"keyboard": self}
        self.struck: list = []
        self.ready, self.take = ready, take

    def strike(self, events, sent) -> bool:
        self.ready -= 1
        if self.ready >= 0:
            return False
        self.struck += events
        if self.take:
            sent()
        return True


class Machine(Seat):
    """Its event loop is a thread for each call."""

    def __init__(self, board) -> None:
        self.board, self.events, self.ended = board, object(), None

    def call(self, function) -> None:
        threading.Thread(target=function).start()


def keyboard(board) -> Keyboard:
    return Machine(board).keyboard


def test_text_is_pressed_and_let_go_key_by_key() -> None:
    board = Board()
    keyboard(board).type("aA\n")
    assert board.struck == [
        (0x1E, 0), (0x1E, 2), (0x2A, 0), (0x1E, 0), (0x1E, 2), (0x2A, 2), (0x1C, 0), (0x1C, 2),
    ]  # fmt: skip


def test_keys_together() -> None:
    board = Board()
    keyboard(board).press("ctrl", "alt", "delete")
    assert board.struck == [(0x1D, 0), (0x38, 0), (0x53, 4), (0x53, 6), (0x38, 2), (0x1D, 2)]


def test_every_printable_character_has_its_own_strokes() -> None:
    strokes = [tuple(_strokes(chr(code))) for code in range(0x20, 0x7F)]
    assert len(set(strokes)) == len(strokes)
    assert len(set(KEYS.values())) == len(KEYS)


def test_it_waits_for_the_driver() -> None:
    board = Board(ready=3)
    keyboard(board).type("x")
    assert board.struck == [(0x2D, 0), (0x2D, 2)]


@pytest.mark.parametrize(
    ("board", "words"),
    [
        (Board(ready=1 << 30), "has no driver"),
        (None, "has no driver"),
        (Board(take=False), "does not take the input"),
    ],
)
def test_it_gives_up_in_time_and_says_why(board, words: str) -> None:
    with pytest.raises(TimeoutError, match=words):
        keyboard(board).type("x", timeout=0.2)


def test_nothing_is_typed_twice() -> None:
    board = Board(take=False)
    with pytest.raises(TimeoutError):
        keyboard(board).type("x", timeout=0.3)
    assert board.struck == [(0x2D, 0), (0x2D, 2)]


def test_what_cannot_be_typed() -> None:
    board = Board()
    with pytest.raises(ConfigError, match="'ä' is on no US keyboard"):
        keyboard(board).type("aä")
    with pytest.raises(ConfigError, match="no key 'entre'"):
        keyboard(board).press("entre")
    assert not board.struck


def test_a_machine_without_the_bus_or_that_has_stopped() -> None:
    board = Board()
    board.vmbus = None
    with pytest.raises(ConfigError, match="needs hv_synic"):
        keyboard(board).type("x")
    board.vmbus, board.offered = object(), {}
    with pytest.raises(ConfigError, match="this machine has none"):
        keyboard(board).type("x")
    stopped = Machine(Board())
    stopped.ended = object()
    with pytest.raises(ConfigError, match="has stopped"):
        stopped.keyboard.type("x")
