"""Run a command in the guest, send a file there and get one, through a shell on COM2.

The guest needs a POSIX shell and nothing else; with ``Machine(agent=True, kernel=..., initrd=...)``
pyhv puts one on COM2, elsewhere the guest has to (docs/testing.md). See agent/shell.py.
"""

from __future__ import annotations

from .agent.remote import Remote
from .endings import not_running
from .errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading

    from .agent.shell import GuestShell
    from .board import Board
    from .console import Console
    from .stop import Stop

WHERE = (
    "in the guest, start one on COM2: sh /dev/ttyS1 </dev/null >/dev/ttyS1 2>&1 & "
    "(docs/testing.md)"
)


class Commands(Remote):
    """The part of Machine that runs commands in the guest, on COM2."""

    board: Board | None
    console: Console
    ended: Stop | None
    started: bool
    _board_lock: threading.Lock
    _shell: GuestShell | None = None  # on COM2

    # what the board asks for

    def shell_output(self, data: bytes) -> None:
        """Take what the guest sent on COM2."""
        if self._shell is not None:
            self._shell.feed(data)

    def renew_shells(self) -> None:
        """The machine is reset, or goes back: what was asked gets no answer."""
        if self._shell is not None:
            self._shell.renew()

    def _guest_shell(self, what: str) -> GuestShell:
        if not self.config.agent:
            raise ConfigError(f"{what}: no agent; make the machine with Machine(agent=True)")
        reason = self._gone()
        if reason is not None:
            raise ConfigError(f"{what}: {reason}")
        if self._shell is None:
            from .agent.shell import GuestShell

            with self._board_lock:
                if self._shell is None:
                    self._shell = GuestShell(self._shell_input, self._gone, self._tail, WHERE)
        return self._shell

    def _gone(self) -> str | None:
        return not_running(self)

    def _tail(self) -> str:
        return self.console.shown_tail()

    def _shell_input(self, data: bytes) -> int:
        with self._board_lock:
            board = self.board
            uart = None if board is None else board.agent_uart
            # what comes before the guest has opened the port, its driver throws away
            return uart.receive(data) if uart is not None and uart.listening else 0
