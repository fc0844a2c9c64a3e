"""A Unix socket by its path, to which another pyhv or a QEMU comes, or which is there already."""

from __future__ import annotations

import errno
import os
import socket
import stat

from ..errors import ConfigError, HostError
from .peer import Peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..hyperv.driver import Events

RETRY_S = 1.0
AGAIN = (errno.ENOENT, errno.ECONNREFUSED)


class SocketPath(Peer):
    """A Unix socket by its path: listens there or connects to it.

    :param server: True listens, False connects, None: whoever comes first listens.
    """

    def __init__(self, path: str, server: bool | None = None) -> None:
        super().__init__()
        self._path, self._server = path, server
        self._listener: socket.socket | None = None
        self._closed = False

    def open(self, events: Events) -> None:
        """Connect or listen.

        :raises HostError: the path cannot be bound. ConfigError: it is no socket, or in use.
        """
        super().open(events)
        if self._connect():
            if self._server is not True:
                return
            self.detach()
            raise ConfigError(f"network socket {self._path}: somebody listens there already")
        if self._server is False:
            events.after(RETRY_S, self._again)
            return
        self._listen()

    def _connect(self) -> bool:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            client.connect(self._path)
        except OSError as error:
            client.close()
            if error.errno not in AGAIN:
                raise HostError(f"network socket {self._path}: {error.strerror or error}") from None
            return False
        self.attach(client)
        return True

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if os.path.exists(self._path):
                if not stat.S_ISSOCK(os.stat(self._path).st_mode):
                    raise ConfigError(f"network socket {self._path}: a file that is no socket")
                os.unlink(self._path)  # nobody listens: left behind
            listener.bind(self._path)
            listener.listen(1)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise HostError(f"network socket {self._path}: {error.strerror or error}") from None
        except ConfigError:
            listener.close()
            raise
        self._listener = listener
        self.events.add(listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except OSError:
            return
        if self._socket is not None:
            connected.close()  # a cable has two ends
        else:
            self.attach(connected)

    def _again(self) -> None:
        """Look whether somebody listens now."""
        if self._closed or self._socket is not None:
            return
        try:
            if self._connect():
                return
        except HostError as error:
            self.say(str(error))
            return
        self.events.after(RETRY_S, self._again)

    def lost(self, why: str) -> None:
        """Wait for the next one; who connected connects again."""
        super().lost(why)
        if self._listener is None and not self._closed:
            self.events.after(RETRY_S, self._again)

    def close(self) -> None:
        """Close, and remove the path if we made it."""
        self._closed = True
        super().close()
        listener, self._listener = self._listener, None
        if listener is not None:
            self.events.remove(listener.fileno())
            listener.close()
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass
