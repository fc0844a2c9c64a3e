"""vm.mouse and vm.screenshot(): pixels to motions, and every way a screen can fail."""

from __future__ import annotations

import threading

import pytest

from pyhv.errors import ConfigError, HostError
from pyhv.mouse import BUTTONS
from pyhv.seat import Seat
from pyhv.vmbus.mouse import RANGE, Motion
from pyhv.vmbus.video import Situation

SHOWN = Situation(0, 1000, 500, 4000)


class Board:
    """A screen of 1000x500 and a mouse that takes what it gets."""

    def __init__(self, situation: Situation | None = SHOWN) -> None:
        self.vmbus = object()
        self.offered = {"screen": self, "mouse": self}
        self.situation, self.motions = situation, []

    def picture(self):
        return self.situation and (self.situation, b"\1\2\3\0" * (1000 * 500))

    def move(self, motions, taken) -> bool:
        self.motions += motions
        taken()
        return True


class Machine(Seat):
    """Its event loop is a thread for each call."""

    def __init__(self, board) -> None:
        self.board, self.events, self.ended, self.started = board, object(), None, True

    def call(self, function) -> None:
        threading.Thread(target=function).start()


def test_pixels_and_buttons() -> None:
    board = Board()
    mouse = Machine(board).mouse
    mouse.move(0, 0)
    mouse.move(999, 499)
    mouse.click()
    mouse.press("right")
    mouse.release("right")
    mouse.wheel(-3)
    first, last, *others = board.motions
    assert (first.x * 1000 // (RANGE + 1), first.y * 500 // (RANGE + 1)) == (0, 0)
    assert (last.x * 1000 // (RANGE + 1), last.y * 500 // (RANGE + 1)) == (999, 499)
    assert others == [
        Motion(press=1), Motion(release=1), Motion(press=2), Motion(release=2), Motion(wheel=-3),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1), (640, 480), (1024, 768), (1920, 1080)])
def test_every_pixel_is_hit(size: tuple[int, int]) -> None:
    width, height = size
    board = Board(Situation(0, width, height, 4 * width))
    mouse = Machine(board).mouse
    for x in (0, 1, width // 3, width - 1):
        if x < width:
            mouse.move(x, height - 1)
            assert board.motions[-1].x * width // (RANGE + 1) == x
            assert board.motions[-1].y * height // (RANGE + 1) == height - 1


def test_buttons_have_a_bit_each() -> None:
    assert sorted(BUTTONS.values()) == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("at", [(-1, 0), (0, -1), (1000, 0), (0, 500)])
def test_a_pixel_beside_the_screen(at: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="is not on the screen of 1000x500"):
        Machine(Board()).mouse.move(*at)


def test_what_a_mouse_has_not() -> None:
    with pytest.raises(ConfigError, match="no button 'lefft'; there are left, right"):
        Machine(Board()).mouse.click("lefft")
    with pytest.raises(ConfigError, match="128 steps"):
        Machine(Board()).mouse.wheel(128)


def test_screenshot(tmp_path) -> None:
    machine = Machine(Board())
    assert machine.screen_size == (1000, 500)
    picture = machine.screenshot(tmp_path / "x.png")
    assert (picture.width, picture.height) == (1000, 500)
    assert picture.pixel(999, 499) == (3, 2, 1)
    assert (tmp_path / "x.png").read_bytes() == picture.png()


@pytest.mark.parametrize("board", [Board(None), None])
def test_a_guest_that_shows_nothing(board) -> None:
    """None: between two lives of the machine."""
    with pytest.raises(HostError, match="the guest shows nothing"):
        Machine(board).screenshot()
    with pytest.raises(HostError, match="the guest shows nothing"):
        Machine(board).mouse.move(0, 0)


def test_a_machine_without_a_screen() -> None:
    board = Board()
    board.offered = {"screen": None, "mouse": None}
    with pytest.raises(ConfigError, match="this machine has none; -vga hyperv gives it one"):
        Machine(board).screenshot()
    board.vmbus = None
    with pytest.raises(ConfigError, match="needs hv_synic"):
        Machine(board).screenshot()


@pytest.mark.parametrize("state", [{"started": False}, {"ended": object()}])
def test_a_machine_that_does_not_run(state: dict) -> None:
    machine = Machine(Board())
    vars(machine).update(state)
    with pytest.raises(ConfigError, match="the machine does not run"):
        machine.screenshot()
