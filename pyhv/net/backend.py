"""What a network device asks of the other end of its cable, and the cable with no other end.

A backend belongs to the machine and outlives resets; a device connects itself as its *sink*. All
calls are on the event loop.
"""

from __future__ import annotations

from . import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from ..hyperv.driver import Events

    class Sink(Protocol):
        """A device on the cable."""

        def room(self) -> int:
            """Return how many frames it can take now."""

        def receive(self, received: list[bytes]) -> None:
            """Take frames; those beyond :meth:`room` are lost."""

        def landing(self, large: bool) -> list[memoryview]:
            """Return where the next frame is to be put; empty: use receive.

            :param large: pieces for a frame of any size; else only the first ones of them.
            """

        def landed(self, start: bytes, size: int, checked: bool) -> None:
            """A frame of *size* bytes is there.

            :param start: a private copy of its first 64. *checked*: its sums are right, or need
                not be: the frame never left this host.
            """

        def landed_all(self) -> None:
            """Pass on what landed."""

        def writable(self) -> None:
            """What :meth:`Backend.send` kept is gone: send again."""

        def link_changed(self, up: bool) -> None:
            """The cable was plugged in or out."""


READ_FRAMES = 64  # at most per call of the sink; then other descriptors get their turn


class Backend:
    """No other end: frames vanish.

    ``checked``: the sums of what comes from it were computed on this host, so a guest need not
    look. ``coalesces``: large frames may come from it (:meth:`coalesce`). ``link``: the cable is
    in. ``sent``, ``received``, ``dropped`` count frames.
    """

    kind = "none"
    checked = False
    coalesces = False
    link = False

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.events: Events | None = None
        self.notice: Callable[[str], None] | None = None  # told in a sentence when the link fails
        self.sent = self.received = self.dropped = 0

    def open(self, events: Events) -> None:
        """Begin; any thread, before the event loop runs.

        :raises HostError: this host cannot do it. ConfigError: what was asked for is not there.
        """
        self.events = events

    def close(self) -> None:
        """Give everything back. Idempotent."""
        self.sink = None

    def prepare(self, frame: bytes, requested: int, mss: int) -> list[bytes]:
        """Return *frame* in the form that :meth:`send` takes; parameters: frames.finished."""
        return frames.finished(frame, requested, mss)

    def prepare_pieces(
        self, begin: bytes, pieces: list[memoryview], size: int, requested: int, mss: int
    ) -> list:
        """Return a frame as :meth:`prepare` does: *size* bytes, *begin* and then *pieces*.

        :param pieces: slices of guest RAM, which the guest may change meanwhile; good until the
            send is completed.
        """
        return self.prepare(b"".join((begin, *pieces)), requested, mss)

    def send(self, prepared: list) -> bool:
        """Send frames; False: some wait, send no more until ``sink.writable`` is called."""
        self.dropped += len(prepared)
        return True

    def coalesce(self, on: bool) -> None:
        """Let TCP frames of up to 64 KiB come, with sums not filled in, or (at first) not."""

    def resume(self) -> None:
        """The sink has room again."""

    def say(self, text: str) -> None:
        """Tell whoever runs the machine."""
        if self.notice is not None:
            self.notice(text)

    def set_link(self, up: bool) -> None:
        """Plug the cable in or out, and tell the sink."""
        if up != self.link:
            self.link = up
            if self.sink is not None:
                self.sink.link_changed(up)
