"""Snapshots of a machine, and going back to one; what is saved is in boardstate.py."""

from __future__ import annotations

import os
import time

from .board import Board
from .boot import acpi
from .control import PATIENCE_S
from .devices.pm import GPE_GENERATION
from .errors import ConfigError, PyhvError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .console import Console
    from .control import Control
    from .disk import Disk
    from .machine import Machine
    from .memory import GuestMemory
    from .snapshot import Snapshot


class Restoring:
    """The part of Machine that does it; any thread may call, but not a hook of the guest's."""

    board: Board | None
    clock_zero_ns: int | None
    console: Console
    disks: list[Disk]
    generation_id: bytes
    control: Control
    memory: GuestMemory | None
    started: bool
    paused: bool
    pause: Callable[..., None]
    resume: Callable[..., None]
    _bury: Callable[[], None]
    renew_shells: Callable[[], None]
    stop: Callable[..., None]

    def snapshot(self, timeout: float = PATIENCE_S) -> Snapshot:
        """Return the machine as it is now. It stands while that is taken, and goes on after.

        :raises ConfigError: it has stopped, or a part of it cannot be saved.
        :raises HostError: no memory for it; a vCPU did not come out of the guest in *timeout* s.
        """
        from .snapshot import Snapshot

        return self._standing("snapshot", timeout, lambda: Snapshot.of(self))  # type: ignore[arg-type]

    def restore(self, snapshot: Snapshot, timeout: float = PATIENCE_S) -> None:
        """Go back to *snapshot*; the machine then runs or stands as it did before the call.

        What it was is lost. Its console is the same: what the guest wrote stays to be read, but
        ``expect`` does not find it.

        :raises ConfigError: it has stopped (make a new one: ``snapshot.clone()``), or is not the
            snapshot's kind of machine.
        """
        from . import snapshot as snapshots

        snapshots.check(self, snapshot)  # type: ignore[arg-type]
        self._standing("restore", timeout, lambda: self._restore(snapshot))

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot, console: Console | None = None) -> Machine:
        """Return a machine that goes on from *snapshot* when it is started."""
        return snapshot.clone(console)

    def _standing(self, what: str, timeout: float, act: Callable[[], Any]) -> Any:
        """Return ``act()``, done on the event loop (or here, before start) while it all stands."""
        board = self.board
        if board is not None and board.thread_here() is not None:
            raise ConfigError(f"{what}: not on a vCPU's own thread")
        done: list[Any] = []

        def call() -> None:
            if not self.started:
                done.append(act())
                return
            held = None if self.paused else self.board
            if held is not None:
                self.control.hold(held, timeout)
            try:
                done.append(act())
            finally:
                if held is not None and held is self.board:
                    self.control.go_on(held)

        self.control.on_loop(call, timeout, what)
        return done[0]

    def _restore(self, snapshot: Snapshot) -> None:
        board = self.board
        if board is not None and self.started:
            board.halt()
        self._bury()
        try:
            self.take_up(snapshot)
            if self.started:
                self.console.forget()
                self.board.start()
        except BaseException as error:
            # the old life is buried: without a new one there is nothing to go on with
            if self.started and isinstance(error, Exception):
                self.stop("error", str(error) if isinstance(error, PyhvError) else repr(error))
            raise

    def take_up(self, snapshot: Snapshot) -> None:
        """Make the board of *snapshot*; there is none now."""
        self.control.stand()
        self.renew_shells()
        snapshot.adopt(self.memory)
        snapshot.go_back(self.disks)
        state = snapshot.state["board"]
        self.clock_zero_ns = time.monotonic_ns() - state["clock_ns"]
        try:
            self.board = Board(self, state)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"restore: a snapshot of another pyhv: {error!r}") from error
        # who has keys or numbers that nobody else may have makes new ones (Linux: its crng)
        self.generation_id = os.urandom(16)
        if acpi.regenerate(self.memory, self.generation_id):
            self.board.pm.raise_event(GPE_GENERATION)
