"""Pausing a machine: its vCPUs stand outside the guest, and so does the partition's time.

What stands still: every vCPU, the reference time (kvmclock, HV_X64_MSR_TIME_REF_COUNT, the
reference TSC page, synthetic timers) and the ACPI PM timer. What goes on, as under QEMU: the TSC
(on resume the reference TSC page gets a new offset and a new sequence), the LAPIC timer, PIT and
RTC, and I/O that had begun. The time limit counts paused time, too.
"""

from __future__ import annotations

import threading
import time

from .errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .board import Board
    from .machine import Machine

PATIENCE_S = 10.0


class Control:
    """What pauses one machine. Any thread may call; the event loop does the work.

    ``paused`` is true from the call of :meth:`pause` on, also before ``start``: the machine then
    starts paused, before its first instruction. ``listeners`` are called with "STOP" and
    "RESUME" and, by the machine, "RESET" and "SHUTDOWN", on the event loop; they must not wait.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine: Machine | None = machine
        self.paused = False
        self.ran = False  # a vCPU was let into the guest
        self.listeners: list[Callable[[str, dict[str, Any]], None]] = []
        self._stood_ns = 0  # how long the machine was paused
        self._since_ns: int | None = None

    def now_ns(self) -> int:
        """Return CLOCK_MONOTONIC less the time that the machine was paused."""
        since = self._since_ns
        return (time.monotonic_ns() if since is None else since) - self._stood_ns

    def close(self) -> None:
        """Let go of the machine, which refers to this: no collector shall be needed."""
        self._machine = None
        self.listeners.clear()

    def notify(self, event: str, **data: Any) -> None:
        """Tell the listeners."""
        for listener in list(self.listeners):
            listener(event, data)

    def pause(self, timeout: float = PATIENCE_S) -> None:
        """Return when every vCPU stands outside the guest; nothing to do if they do.

        On a vCPU's own thread (a hook) it returns at once, and the vCPU stands after this exit.

        :raises ConfigError: the machine has stopped. HostError: a vCPU did not come out in time.
        """
        board = self._machine and self._machine.board
        thread = board.thread_here() if board else None
        if thread is not None:  # nobody waits for the loop here, so the guest must not go on
            thread.hold = True
            thread.kick()
        self.on_loop(lambda: self._pause(timeout), timeout)

    def resume(self, timeout: float = PATIENCE_S, only: frozenset[int] | None = None) -> None:
        """Let it go on where it stood; nothing to do if it runs.

        :param only: indexes of the vCPUs that go on; the others stand until the next resume, and
            time runs. A debugger steps so.
        :raises ConfigError: the machine has stopped.
        """
        self.on_loop(lambda: self._resume(only), timeout)

    def on_loop(
        self, function: Callable[[], None], timeout: float, what: str = "pause"
    ) -> None:
        """Do *function* on the event loop, or here before start; *what* begins its errors.

        On a vCPU's own thread it returns before that is done.
        """
        machine = self._machine
        if machine is None or machine.events is None:
            raise ConfigError(f"{what}: this machine is closed")
        board = machine.board
        if machine.ended:
            raise ConfigError(f"{what}: the machine has stopped: {machine.ended.text}")
        if threading.current_thread() is machine.events.thread or not machine.started:
            function()
            return
        done, errors = threading.Event(), []

        def call() -> None:
            try:
                function()
            except Exception as error:
                errors.append(error)
            done.set()

        machine.call(call)
        if board is not None and board.thread_here() is not None:
            return
        deadline = time.monotonic() + timeout + 1
        while not done.wait(0.05):
            if machine.ended is not None and not done.is_set():
                raise ConfigError(f"{what}: the machine has stopped: {machine.ended.text}")
            if time.monotonic() > deadline:
                raise HostError(f"{what}: the event loop did not answer in {timeout:g} s")
        if errors:
            raise errors[0]

    def _pause(self, timeout: float) -> None:
        if self.paused:
            return
        self.paused = True
        machine = self._machine
        if not machine.started or machine.board is None:
            return  # the board starts paused
        try:
            self.hold(machine.board, timeout)
        except HostError:
            self.paused = False
            raise
        self.notify("STOP")

    def hold(self, board: Board, timeout: float = PATIENCE_S) -> None:
        """Bring the vCPUs of *board* to a stand, then its time; on the event loop.

        :raises HostError: a vCPU did not come out in time; all go on.
        """
        try:
            board.hold(time.monotonic() + timeout)
        except HostError:
            board.let_go()
            raise
        if not (board.restored and board.vm.frozen):  # as a snapshot's board begins
            board.driver.freeze()
        self.stand()

    def stand(self) -> None:
        """Let :meth:`now_ns` stand, if it does not yet."""
        if self._since_ns is None:
            self._since_ns = time.monotonic_ns()

    def _resume(self, only: frozenset[int] | None) -> None:
        if not self.paused:
            return
        machine = self._machine
        self.paused = False
        if machine.board is None or not machine.started:
            return
        self.ran = True
        self.thaw(machine.board)
        machine.board.let_go(only)
        self.notify("RESUME")

    def go_on(self, board: Board) -> None:
        """Undo :meth:`hold`."""
        self.thaw(board)
        board.let_go()

    def thaw(self, board: Board) -> None:
        """Let time go on; before the first vCPU does: what it reads must be right already."""
        if self._since_ns is not None:
            self._stood_ns += time.monotonic_ns() - self._since_ns
            self._since_ns = None
        board.driver.thaw()
