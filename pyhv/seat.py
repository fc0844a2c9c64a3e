"""What one sits at: the machine's keyboard, and with ``-vga hyperv`` its screen and mouse."""

from __future__ import annotations

import threading
import time

from .endings import not_running
from .errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from typing import Any

    from .board import Board
    from .events import EventLoop
    from .keyboard import Keyboard
    from .mouse import Mouse
    from .picture import Picture
    from .stop import Stop
    from .vmbus.video import Situation
    from .webscreen import WebScreen

LOOK_S = 0.05
COPY_S = 10.0


class Seat:
    """The part of Machine that one sits at; any thread but the event loop's may call."""

    board: Board | None
    display: WebScreen | None
    call: Callable[[Callable[[], None]], None]
    events: EventLoop | None
    ended: Stop | None
    started: bool

    @property
    def keyboard(self) -> Keyboard:
        """Its synthetic keyboard: ``vm.keyboard.type("root\\n")``."""
        from .keyboard import Keyboard

        return Keyboard(self)

    @property
    def mouse(self) -> Mouse:
        """Its synthetic mouse: ``vm.mouse.move(100, 200)``, ``vm.mouse.click()``."""
        from .mouse import Mouse

        return Mouse(self)

    @property
    def screen_size(self) -> tuple[int, int]:
        """Width and height, pixels, that the guest has set. Errors as of :meth:`screenshot`."""
        shown = self._shown(lambda device: device.situation)
        return shown.width, shown.height

    def screenshot(self, path: str | os.PathLike[str] | None = None) -> Picture:
        """Return what the guest's screen shows now; with *path*, write it there as a PNG.

        :raises ConfigError: the machine does not run, or has no screen.
        :raises HostError: its guest shows nothing (yet), or *path* cannot be written.
        """
        from .picture import Picture

        shown: tuple[Situation, bytes] = self._shown(lambda device: device.picture())
        picture = Picture(*shown)
        if path is not None:
            picture.save(path)
        return picture

    def serve_display(self, port: int = 0) -> str:
        """Serve the screen to browsers of this host, and return the URL; see webscreen.py.

        It ends with the machine. A second call returns the same. :param port: 0 takes a free one.
        :raises ConfigError: the machine has no screen, or is closed. HostError: no such port.
        """
        if self.events is None:
            raise ConfigError("-display web: the machine is closed")
        self._check_offered("screen")
        if self.display is None:
            from .webscreen import WebScreen

            self.display = WebScreen(self, port)
        return self.display.url

    def _shown(self, ask: Callable[[Any], Any]) -> Any:
        """Return what *ask* makes of the screen, on the event loop: there it cannot go away."""
        found: list[Any] = []
        asked = threading.Event()

        def look() -> None:
            board = self.board
            device = board.offered.get("screen") if board is not None else None
            if device is not None:
                found.append(ask(device))
            asked.set()

        reason = not_running(self)
        if reason is not None:
            raise ConfigError(f"screen: {reason}")
        self._check_offered("screen")
        self.call(look)
        deadline = time.monotonic() + COPY_S
        while not asked.wait(LOOK_S) and self.ended is None and time.monotonic() < deadline:
            pass
        if not found or found[0] is None:
            raise HostError("screen: the guest shows nothing; its driver (Linux: hyperv_drm) would")
        return found[0]

    def hand(
        self, name: str, give: Callable[[Any, Callable[[], None]], bool], timeout: float
    ) -> None:
        """Give input to the device ``board.offered[name]`` once its driver is there.

        :param give: called with the device and *taken* on the event loop, again while it returns
            False; it sees to it that ``taken()`` is called when the driver has all.
        :param timeout: seconds for both, over resets of the machine.
        :raises ConfigError: the machine has stopped, or has no such device.
        :raises TimeoutError: no driver, or it takes nothing.
        """
        done, accepted = threading.Event(), threading.Event()
        deadline = time.monotonic() + timeout
        while True:
            if self.ended is not None or self.events is None:
                raise ConfigError(f"{name}: the machine has stopped")
            if not accepted.is_set():
                self._check_offered(name)
                self._give(name, give, done, accepted, deadline)
            if done.wait(LOOK_S):
                return
            if time.monotonic() >= deadline:
                state = "does not take the input" if accepted.is_set() else "has no driver for it"
                raise TimeoutError(f"{name}: after {timeout:g} s the guest {state}")

    def _check_offered(self, name: str) -> None:
        board = self.board
        if board is None:
            return  # a reset: the next one comes
        if board.vmbus is None:
            raise ConfigError(f"{name}: it is on VMBus, which needs hv_synic")
        if board.offered.get(name) is None:
            raise ConfigError(f"{name}: this machine has none; -vga hyperv gives it one")

    def _give(
        self, name: str, give: Callable[[Any, Callable[[], None]], bool],
        done: threading.Event, accepted: threading.Event, deadline: float,
    ) -> None:  # fmt: skip
        asked = threading.Event()

        def ask() -> None:
            board = self.board
            device = board.offered.get(name) if board is not None else None
            in_time = time.monotonic() < deadline  # else nobody waits for it any more
            if in_time and device is not None and give(device, done.set):
                accepted.set()
            asked.set()

        self.call(ask)
        asked.wait(max(0.0, deadline - time.monotonic()))
