"""The user's terminal while a guest has it: raw mode, given back on every way out, and Ctrl-A."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PREFIX = 0x01  # Ctrl-A
#: key behind Ctrl-A -> command, what the help says
KEYS = {
    ord("x"): ("quit", "quit"),
    ord("s"): ("save", "write a snapshot, and go on"),
    ord("z"): ("save and quit", "write a snapshot, and quit"),
    ord("h"): ("help", "this help"),
    PREFIX: ("literal", "send Ctrl-A to the guest"),
}


class Escape:
    """Picks the Ctrl-A commands out of what is typed."""

    def __init__(self) -> None:
        self._armed = False

    def feed(self, data: bytes) -> tuple[bytes, list[str]]:
        """Return what is for the guest, and the commands: values of KEYS, or ``unknown KEY``."""
        guest, commands = bytearray(), []
        for byte in data:
            if not self._armed:
                if byte == PREFIX:
                    self._armed = True
                else:
                    guest.append(byte)
                continue
            self._armed = False
            command = KEYS.get(byte, ("", ""))[0]
            if command == "literal":
                guest.append(PREFIX)
            else:
                commands.append(command or f"unknown {_key(byte)}")
        return bytes(guest), commands


def _key(byte: int) -> str:
    return f"Ctrl-{chr(byte + 0x40)}" if byte < 0x20 else bytes((byte,)).decode("latin-1")


def keys_help() -> str:
    """Return one line a key, as Ctrl-A h shows them."""
    return "\n".join(f"Ctrl-A {_key(key):6}  {text}" for key, (_, text) in KEYS.items())


class RawMode:
    """The terminal *fd* in raw mode, output processing left on; nothing if *fd* is no terminal."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.is_terminal = os.isatty(fd)
        self._saved: list[Any] | None = None

    def foreground(self) -> bool:
        """Tell whether the terminal is ours to read and change (job control)."""
        try:
            return os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:  # not our controlling terminal: no job control
            return True

    def enter(self) -> None:
        """Go raw. In the background not: the shell has the terminal."""
        if not self.is_terminal or self._saved is not None or not self.foreground():
            return
        import termios as t

        try:
            saved = t.tcgetattr(self.fd)
            mode = list(saved)
            breaks = t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP
            mode[0] &= ~(breaks | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
            mode[2] = mode[2] & ~(t.CSIZE | t.PARENB) | t.CS8
            mode[3] &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
            mode[6] = list(mode[6])
            mode[6][t.VMIN], mode[6][t.VTIME] = 1, 0
            # saved first: a signal between the two lines must find something to give back
            self._saved = saved
            t.tcsetattr(self.fd, t.TCSANOW, mode)
        except t.error:  # hung up
            self.is_terminal = False

    def leave(self) -> None:
        """Give the terminal back as it was; at once, whatever waits to be written. Idempotent."""
        saved, self._saved = self._saved, None
        if saved is None or not self.foreground():
            return
        import termios as t

        try:
            t.tcsetattr(self.fd, t.TCSANOW, saved)
        except t.error:
            pass  # hung up: nobody to give it to
