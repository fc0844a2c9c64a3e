"""The client's end of the Network Block Device protocol, as far as a disk of a machine needs it.

One request at a time on each of two connections: one for data, and one for flushes, which take
long and hold nothing up. Whatever is not as the protocol says ends both, and every request from
then on is an EIO: an answer out of step could be the answer to another request.

Source: doc/proto.md of github.com/NetworkBlockDevice/nbd; its names without NBD_.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from struct import Struct, pack, unpack

from .errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Buffers = Sequence[memoryview]

GREETING = b"NBDMAGICIHAVEOPT"
FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES = 1, 2
OPT_GO = 7
REP_MAGIC = 0x3E889045565A9
REP_ACK, REP_INFO, REP_ERR = 1, 3, 1 << 31
INFO_EXPORT = 0
FLAG_READ_ONLY, FLAG_SEND_FLUSH, FLAG_SEND_WRITE_ZEROES = 2, 4, 64
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_WRITE_ZEROES = 0, 1, 2, 3, 6
CMD_FLAG_NO_HOLE = 2
REQUEST_MAGIC, SIMPLE_REPLY_MAGIC = 0x25609513, 0x67446698
#: flags, command, cookie, offset, length
_request = Struct(">IHHQQI").pack
_reply = Struct(">IIQ").unpack
REPLY_SIZE = 16
#: the protocol's errors, which have Linux's numbers; anything else is an EIO
ERRORS = frozenset(
    (errno.EPERM, errno.EIO, errno.ENOMEM, errno.EINVAL, errno.ENOSPC, errno.EOVERFLOW,
     errno.EOPNOTSUPP)
)  # fmt: skip
MOST_BYTES = 32 << 20  # of one request, where the server says nothing else
MOST_ZEROES = 1 << 30
BATCH = 1000  # views in one system call, below IOV_MAX
REPLIES, REPLY_BYTES = 64, 4096  # more than these in a handshake is nonsense


class Broken(Exception):
    """The server went away or broke the protocol: its text says how."""


class Connection:
    """One connection, past its handshake. ``size`` and ``flags`` are the export's."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket, self.lock = connected, threading.Lock()
        self._cookie = 0
        self.size, self.flags = self._handshake()

    def _handshake(self) -> tuple[int, int]:
        """Ask for the export without a name; return its bytes and flags.

        :raises Broken: no NBD server of the newer kind, no such export. OSError: it went away.
        """
        greeting = self._exactly(18)
        if greeting[:16] != GREETING or not greeting[17] & FLAG_FIXED_NEWSTYLE:
            raise Broken("no NBD server")
        name_and_infos = pack(">IH", 0, 0)
        self.send(
            pack(">I", FLAG_FIXED_NEWSTYLE | greeting[17] & FLAG_NO_ZEROES)
            + b"IHAVEOPT" + pack(">II", OPT_GO, len(name_and_infos)) + name_and_infos
        )  # fmt: skip
        found: tuple[int, int] | None = None
        for _ in range(REPLIES):
            magic, option, kind, length = unpack(">QIII", self._exactly(20))
            if magic != REP_MAGIC or option != OPT_GO or length > REPLY_BYTES:
                raise Broken("not the NBD protocol")
            data = self._exactly(length)
            if kind & REP_ERR:
                raise Broken(data.decode(errors="replace") or f"no export, error {kind:#x}")
            if kind == REP_INFO and length == 12 and data[:2] == pack(">H", INFO_EXPORT):
                found = unpack(">2xQH", data)
            elif kind == REP_ACK:
                if found is None:
                    break
                return found
        raise Broken("not the NBD protocol: no export in its answers")

    def request(
        self, command: int, offset: int, length: int,
        flags: int = 0, out: Buffers = (), into: Buffers = (),
    ) -> int:  # fmt: skip
        """Do one request; return the error the server has, or 0. The caller has ``lock``.

        *length* is the sum of *out* or *into*, if there are any.
        """
        self._cookie += 1
        self.send(_request(REQUEST_MAGIC, flags, command, self._cookie, offset, length), out)
        head = memoryview(bytearray(REPLY_SIZE))
        # a reply with an error is the head alone, so do not wait for all
        extra = self._receive([head, *into], REPLY_SIZE)
        magic, error, cookie = _reply(head)
        if magic != SIMPLE_REPLY_MAGIC or cookie != self._cookie:
            raise Broken("an answer that no request asked for")
        if error:
            if extra:
                raise Broken("data after an error")
            return error if error in ERRORS else errno.EIO
        if into:
            self._receive(list(_after(into, extra)), length - extra)
        return 0

    def send(self, head: bytes, views: Buffers = ()) -> None:
        """Send all of it."""
        todo: list[memoryview] = [memoryview(head), *views]
        while todo:
            done = self.socket.sendmsg(todo[:BATCH], (), socket.MSG_NOSIGNAL)
            todo = list(_after(todo, done))

    def _exactly(self, count: int) -> bytes:
        data = memoryview(bytearray(count))
        self._receive([data], count)
        return bytes(data)

    def _receive(self, views: Buffers, least: int) -> int:
        """Fill *views* at least until *least* bytes have come; return how many came after those."""
        todo, got = views, 0
        while got < least:
            done = self.socket.recvmsg_into(todo[:BATCH])[0]
            if not done:
                raise Broken("it closed the connection")
            got += done
            if got < least:
                todo = list(_after(todo, done))
        return got - least


def _after(views: Buffers, count: int) -> Iterator[memoryview]:
    """Yield what is left of *views* after *count* bytes."""
    for view in views:
        if count < len(view):
            yield view[count:] if count else view
            count = 0
        else:
            count -= len(view)


def _pieces(views: Buffers, most: int) -> Iterator[tuple[int, list[memoryview]]]:
    """Yield *views* in groups of at most *most* bytes, with their bytes."""
    group: list[memoryview] = []
    have = 0
    for whole in views:
        view = whole
        while have + len(view) > most:
            group.append(view[: most - have])
            yield most, group
            view, group, have = view[most - have :], [], 0
        group.append(view)
        have += len(view)
    if have:
        yield have, group


class Client:
    """An export over *connected*, two sockets to one server.

    :param patience_s: how long the handshakes may take; a request waits as long as it takes, as
        for a file.
    :param lost: called once, on any thread, with the reason, when the server is lost.
    :raises HostError: a server that will not serve this; the sockets are closed then.
    """

    def __init__(
        self, connected: Sequence[socket.socket], patience_s: float, lost: Callable[[str], None]
    ) -> None:
        self._sockets = connected
        self._lost = lost
        self._why = ""
        self._why_lock = threading.Lock()
        try:
            for one in connected:
                one.settimeout(patience_s)
            self._data, self._flush = map(Connection, connected)
            for one in connected:
                one.settimeout(None)
        except (Broken, OSError) as error:
            self.close()
            raise HostError(str(error)) from error
        except BaseException:
            self.close()
            raise
        self.size, self.flags = self._data.size, self._data.flags

    def read(self, offset: int, views: Buffers) -> None:
        """Fill *views* from *offset* on."""
        for length, group in _pieces(views, MOST_BYTES):
            self._do(self._data, CMD_READ, offset, length, into=group)
            offset += length

    def write(self, offset: int, views: Buffers) -> None:
        """Write *views* from *offset* on."""
        for length, group in _pieces(views, MOST_BYTES):
            self._do(self._data, CMD_WRITE, offset, length, out=group)
            offset += length

    def write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        """Make the range read as zeros; with *unmap* preferably without blocks."""
        flags = 0 if unmap else CMD_FLAG_NO_HOLE
        for at in range(0, length, MOST_ZEROES):
            part = min(MOST_ZEROES, length - at)
            self._do(self._data, CMD_WRITE_ZEROES, offset + at, part, flags)

    def flush(self) -> None:
        """Return when what was answered on either connection is on the medium."""
        self._do(self._flush, CMD_FLUSH, 0, 0)

    def _do(
        self, connection: Connection, command: int, offset: int, length: int,
        flags: int = 0, out: Buffers = (), into: Buffers = (),
    ) -> None:  # fmt: skip
        try:
            with connection.lock:
                code = connection.request(command, offset, length, flags, out, into)
        except (Broken, OSError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            self._break(why)
            raise OSError(errno.EIO, f"the NBD server is lost: {self._why}") from None
        except BaseException:  # out of step, whatever it is
            self._break("a request was interrupted")
            raise
        if code:
            raise OSError(code, os.strerror(code))

    def _break(self, why: str) -> None:
        with self._why_lock:
            first, self._why = not self._why, self._why or why
        if first:
            self._shut()
            self._lost(why)

    def _shut(self) -> None:
        """Wake who waits in either connection; nothing more comes or goes."""
        for one in self._sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other end did

    def close(self) -> None:
        """Take leave. Nobody may be in a request. Idempotent."""
        with self._why_lock:
            self._why = self._why or "closed"
        for one in self._sockets:
            if one.fileno() >= 0:
                try:
                    one.settimeout(1.0)
                    one.send(_request(REQUEST_MAGIC, 0, CMD_DISC, 0, 0, 0), socket.MSG_NOSIGNAL)
                except OSError:
                    pass
            one.close()
