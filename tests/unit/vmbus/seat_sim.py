"""A machine that one sits at, without KVM: screen, keyboard and mouse, each with its driver."""

from __future__ import annotations

import threading
import types

import test_synth_keyboard
import test_synth_mouse
import test_synth_video

from pyhv.seat import Seat


class SeatSim(Seat):
    """``draw`` is the guest's hand, ``strokes`` and ``reports`` are what its drivers got."""

    def __init__(self, make_guest) -> None:
        self.screen = test_synth_video.Driver(make_guest)
        self.keys = test_synth_keyboard.Driver(make_guest)
        self.pointer = test_synth_mouse.Driver(make_guest)
        self.events, self.ended, self.started, self.display = object(), None, True, None
        self.screenshots, self._loop = 0, threading.Lock()
        self.board = types.SimpleNamespace(
            vmbus=object(),
            offered={"screen": self.screen.video, "keyboard": self.keys.keyboard,
                     "mouse": self.pointer.mouse},
        )  # fmt: skip
        self.screen.begin()
        self.keys.negotiate()
        self.pointer.begin()

    def call(self, function) -> None:
        with self._loop:
            function()

    def screenshot(self, path=None):
        self.screenshots += 1
        return super().screenshot(path)

    def draw(self, width: int, height: int, rgb: bytes) -> None:
        """Set that mode, fill it with *rgb* again and again, tell what is dirty."""
        with self._loop:
            self.screen.vram.filled = b"".join(
                bytes((rgb[at + 2], rgb[at + 1], rgb[at], 0)) for at in range(0, len(rgb), 3)
            )
            self.screen.ask(test_synth_video.situation(width, height, 4 * width))
            self.screen.ask(test_synth_video.message(10, bytes((0, 1)) + bytes(16)))

    def strokes(self) -> list[tuple[int, int]]:
        """Return (make code, bits) of each event that came to the guest's driver since."""
        with self._loop:
            found = self.keys.channel.receive()
        words = [test_synth_keyboard.struct.unpack("<IHHI", one.data[:12]) for one in found]
        assert {kind for kind, *_ in words} <= {3}
        return [(code, info) for _, code, _, info in words]

    def reports(self) -> list[tuple[int, ...]]:
        """Return (buttons, x, y, wheel) of each report that came since."""
        with self._loop:
            return self.pointer.reports()
