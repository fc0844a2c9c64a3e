"""A shell of the guest's at the other end of a socket: faster than COM2, and nothing echoes."""

from __future__ import annotations

import socket
import threading

from ..agent.remote import Remote
from ..agent.shell import GuestShell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .sockets import Sockets

READ_BYTES = 65536


class SocketShell(Remote):
    """run, push and pull over one connection; a context manager. Made by :meth:`Sockets.shell`."""

    def __init__(self, own: socket.socket, sockets: Sockets, tail: Callable[[], str]) -> None:
        self._socket, self._sockets = own, sockets
        self._over = False
        self._shell = GuestShell(
            self._offer, self._gone, tail, "is it a shell that listens there?", stream=True
        )
        self._reader = threading.Thread(target=self._read, name="guest-shell", daemon=True)
        self._reader.start()

    def _guest_shell(self, what: str) -> GuestShell:
        return self._shell

    def _gone(self) -> str | None:
        reason = self._sockets.gone()
        return "the connection has ended" if reason is None and self._over else reason

    def _offer(self, data: bytes) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except OSError:  # full, or gone: that is noticed by the reader
            return 0

    def _read(self) -> None:
        while not self._over:
            try:
                data = self._socket.recv(READ_BYTES)
            except OSError:
                data = b""
            if data:
                self._shell.feed(data)
            else:
                self._over = True

    def close(self) -> None:
        """Close the connection, which ends the shell. Idempotent."""
        self._over = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already, or the guest's end is
        if threading.current_thread() is not self._reader:
            self._reader.join()
        self._socket.close()
        self._sockets.shells.discard(self)

    def __enter__(self) -> SocketShell:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
