"""A socket that one client at a time connects to, as ``-gdb`` and ``-qmp`` name it, and its thread.

QEMU's spelling: ``tcp:HOST:PORT``, ``tcp::PORT`` (here: loopback only, not every address) and
``unix:PATH``, each with ``,server=on,wait=off`` behind it.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
from _collections import deque

from .errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ_BYTES = 65536
SEND_PATIENCE_S = 10.0


def listen(option: str, text: str) -> tuple[socket.socket, str | None]:
    """Return a listening socket, and the path to remove at the end for ``unix:``.

    :raises ConfigError: a spelling that is none, or client mode. HostError: it cannot be bound.
    """
    address, *settings = text.split(",")
    for setting in settings:
        if setting not in ("server=on", "server", "wait=off", "nowait"):
            raise ConfigError(f"{option} {text}: {setting}: pyhv has server=on and wait=off")
    kind, _, rest = address.partition(":")
    if kind == "unix" and rest:
        return _unix(option, rest), rest
    host, _, port = rest.rpartition(":")
    if kind != "tcp" or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{option} {text}: write tcp::PORT, tcp:HOST:PORT or unix:PATH")
    try:
        return socket.create_server((host or "127.0.0.1", int(port)), backlog=1), None
    except OSError as error:
        raise HostError(f"{option} {text}: {error.strerror or error}") from error


def _unix(option: str, path: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            server.bind(path)
        except OSError:
            if not _stale(path):
                raise
            os.unlink(path)  # its process has gone
            server.bind(path)
        server.listen(1)
    except OSError as error:
        server.close()
        raise HostError(f"{option} unix:{path}: {error.strerror or error}") from error
    return server


def _stale(path: str) -> bool:
    """Tell whether *path* is a socket that nobody listens at."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


class Server:
    """A thread that serves one connection after the other; subclasses fill in the four calls.

    :meth:`opened`, :meth:`received`, :meth:`closed` and :meth:`woken` run on that thread.
    """

    name = "server"

    def __init__(self, option: str, text: str) -> None:
        self.listener, self._path = listen(option, text)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ended = False
        self._waiting: deque[Callable[[], None]] = deque()
        self.connection: socket.socket | None = None
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def opened(self) -> None:
        """A client is there."""

    def received(self, data: bytes) -> None:
        """The client sent *data*. ValueError: nonsense; it is let go."""

    def closed(self) -> None:
        """The client has gone."""

    def call(self, function: Callable[[], None]) -> None:
        """Run *function* on the server's thread soon; any thread may call."""
        self._waiting.append(function)
        if not self._ended:
            os.eventfd_write(self._wake, 1)

    def send(self, data: bytes) -> None:
        """Send all of *data*; a client that takes nothing for 10 s is let go."""
        connection = self.connection
        if connection is not None:
            try:
                connection.sendall(data)
            except OSError:
                self.hang_up()

    def hang_up(self) -> None:
        """Let the client go."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()
            self.closed()

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def _run(self) -> None:
        while not self._ended:
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            source = self.connection or self.listener
            poll.register(source, select.POLLIN)
            ready = {fd for fd, _ in poll.poll()}
            if self._wake in ready:
                os.eventfd_read(self._wake)
            self._serve_calls()
            if source.fileno() in ready and source.fileno() >= 0 and not self._ended:
                if source is self.listener:
                    self._accept()
                else:
                    self._read()
        self._serve_calls()  # the last words: what was called before close
        self.hang_up()

    def _serve_calls(self) -> None:
        while self._waiting:
            self._waiting.popleft()()

    def _accept(self) -> None:
        try:
            self.connection, _ = self.listener.accept()
        except OSError:
            return  # it went away again
        self.connection.settimeout(SEND_PATIENCE_S)
        if self.connection.family != socket.AF_UNIX:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.opened()

    def _read(self) -> None:
        try:
            data = self.connection.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self.hang_up()
            return
        try:
            self.received(data)
        except ValueError:
            self.hang_up()

    def close(self) -> None:
        """Let the client go, end the thread, remove the socket. Not from its own thread."""
        self._ended = True
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)
        if self.thread.ident is not None:
            self.thread.join()
        self.listener.close()
        if self._path is not None:
            try:
                os.unlink(self._path)
            except OSError:
                pass
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1
