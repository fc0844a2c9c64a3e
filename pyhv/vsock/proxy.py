"""Streams for programs that are not Python: ``--vsock PORT:PATH``, and ``pyhv connect PATH``.

The second is for ssh's ProxyCommand: standard input and output are one end of a Unix socket, here
one that ``--vsock`` or :meth:`Sockets.publish` has made.
"""

from __future__ import annotations

import os
import socket
import threading

from ..errors import ConfigError, Exit, HostError
from .sockets import PORTS

READ_BYTES = 65536
USAGE = "pyhv connect PATH: a Unix socket that --vsock PORT:PATH has made; docs/streams.md"


def parse_ports(text: str) -> list[tuple[int, str]]:
    """Return (port, path) of each ``PORT:PATH``; commas are between them, so none is in a path.

    :raises ConfigError: something else, a port above 32 bits, a path twice.
    """
    found: list[tuple[int, str]] = []
    for one in text.split(","):
        number, _, path = one.partition(":")
        if not (number.isascii() and number.isdigit() and int(number) < PORTS and path):
            raise ConfigError(f"--vsock {one}: PORT:PATH, such as 22:/run/user/1000/guest.ssh")
        if path in (other for _, other in found):
            raise ConfigError(f"--vsock {one}: {path} is there twice")
        found.append((int(number), path))
    return found


def connect(arguments: list[str], fds: tuple[int, int] = (0, 1)) -> int:
    """Be the two directions of the Unix socket in *arguments*, until its end; return the status.

    :param fds: what is sent is read from the first, what comes is written to the second.
    :raises ConfigError: no single path. HostError: nobody listens there, or it is closed before
        a byte has come.
    """
    if len(arguments) != 1 or arguments[0] in ("-h", "-help", "--help"):
        if len(arguments) != 1:
            raise ConfigError(USAGE)
        os.write(fds[1], f"usage: {USAGE}\n".encode())
        return Exit.POWER_OFF
    path = arguments[0]
    source, target = fds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        try:
            one.connect(path)
        except OSError as error:
            raise HostError(f"connect {path}: {error.strerror or error}; does pyhv run?") from error
        threading.Thread(target=_send, args=(source, one), daemon=True).start()
        if not _receive(one, target):
            raise HostError(
                f"connect {path}: closed before a byte has come; does a program in the guest "
                "listen on that port, and is hv_sock loaded?"
            )
    return Exit.POWER_OFF


def _send(source: int, one: socket.socket) -> None:
    try:
        while data := os.read(source, READ_BYTES):
            one.sendall(data)
        one.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other direction tells


def _receive(one: socket.socket, target: int) -> int:
    """Write what comes to *target*; return how much it was."""
    total = 0
    while True:
        try:
            data = one.recv(READ_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            return total
        total += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
