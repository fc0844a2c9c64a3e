"""How a machine comes to its end: every reason, the exit status of each, and who calls it."""

from __future__ import annotations

from .errors import Exit, PyhvError
from .stop import Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from typing import Any

    from .board import Board
    from .config import MachineConfig
    from .events import EventLoop

STATUS = {
    "poweroff": Exit.POWER_OFF,
    "reset": Exit.POWER_OFF,
    "triple-fault": Exit.TRIPLE_FAULT,
    "kvm-error": Exit.KVM_ERROR,
    "hv-crash": Exit.HV_CRASH,
    "stuck": Exit.STUCK,
    "time-limit": Exit.TIME_LIMIT,
    "quit": Exit.QUIT,
    "error": Exit.ERROR,
    "no-boot": Exit.ERROR,
}


def not_running(machine: Any) -> str | None:
    """Return why nothing can be asked of the guest of *machine*; None while it runs."""
    return None if machine.started and not machine.ended else "the machine does not run"


class Endings:
    """The part of Machine that devices, drivers and vCPU threads call when the guest ends."""

    board: Board | None
    config: MachineConfig
    events: EventLoop | None
    reset: Callable[[], None]
    _finish: Callable[[], None]
    _guest_asked: bool
    _stop_lock: Any
    _stopping: Stop | None
    _thread: threading.Thread | None

    def stop(
        self,
        kind: str,
        text: str,
        details: dict[str, object] | None = None,
        status: int | None = None,
    ) -> None:
        """End the machine; the first caller's reason counts. Any thread, returns at once."""
        if status is None:
            status = STATUS[kind]
        with self._stop_lock:
            if self._stopping is not None:
                return
            self._stopping = Stop(kind, status, text, details or {})
            if self._thread is not None:  # else _main will see it
                self.call(self._finish)

    def call(self, function: Callable[[], None]) -> None:
        """Have the loop thread run *function*; nothing once the loop is closed, from any thread."""
        with self._stop_lock:
            if self.events is not None:
                self.events.call(function)

    def _leave(self) -> None:
        """The guest ended this life of the machine: the calling vCPU does not go on."""
        board = self.board
        if board is not None:
            board.leave_here()

    def power_off(self) -> None:
        """The guest entered ACPI S5."""
        self.stop("poweroff", "the guest powered off")
        self._leave()

    def exit(self, status: int) -> None:
        """The guest wrote the debug-exit port."""
        self.stop("exit", f"the guest ended with status {status}", status=status & 0xFF)
        self._leave()

    def request_reset(self, why: str) -> None:
        """The guest asked for a reset."""
        if self.config.no_reboot:
            self.stop("reset", f"the guest reset ({why})")
        else:
            self._guest_asked = True
            self.reset()
        self._leave()

    def hv_crash(self, parameters: tuple[int, ...], control: int) -> None:
        """The guest wrote HV_X64_MSR_CRASH_CTL."""
        details: dict[str, object] = {"parameters": parameters, "control": control}
        self.stop("hv-crash", "the guest reported a crash", details)
        self._leave()

    def internal_error(self, error: BaseException) -> None:
        """Something of ours failed; the machine stops, the process lives on."""
        if isinstance(error, PyhvError):  # a sentence for people, from a reset or from KVM
            self.stop("error", str(error))
            return
        import traceback

        text = "".join(traceback.format_exception(error))
        self.stop("error", f"internal error: {error!r}", {"traceback": text})
