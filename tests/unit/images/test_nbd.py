"""The NBD client against servers that break the protocol, and one that does not."""

from __future__ import annotations

import errno
import random
import socket
import struct
import threading
from contextlib import suppress

import pytest

from pyhv.errors import HostError
from pyhv.nbd import CMD_READ, CMD_WRITE, CMD_WRITE_ZEROES, MOST_BYTES, Client

SIZE = 1 << 20
GREETING = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
REPLY_HEAD = struct.pack(">QI", 0x3E889045565A9, 7)
FLAGS = 1 | 4 | 64
EXPORT = REPLY_HEAD + struct.pack(">IIHQH", 3, 12, 0, SIZE, FLAGS)
UNKNOWN_INFO = REPLY_HEAD + struct.pack(">II", 3, 14) + bytes((0, 3)) + bytes(12)
ACK = REPLY_HEAD + struct.pack(">II", 1, 0)
GOOD = GREETING + UNKNOWN_INFO + EXPORT + ACK
READ = [memoryview(bytearray(4096))]


class Server(threading.Thread):
    """Says *handshake*, then answers each request with what *answer(command, ...)* returns."""

    def __init__(self, handshake: bytes = GOOD, answer=None) -> None:
        super().__init__(daemon=True)
        self.handshake, self.answer = handshake, answer
        self.ours, self.theirs = socket.socketpair()
        self.start()

    def run(self) -> None:
        with suppress(ConnectionError):
            self._serve()

    def _serve(self) -> None:
        with self.theirs as link, link.makefile("rb") as file:
            link.sendall(self.handshake)
            if not file.read(4 + 16 + 6):
                return
            while len(head := file.read(28)) == 28 and self.answer is not None:
                magic, flags, command, cookie, offset, length = struct.unpack(">IHHQQI", head)
                assert magic == 0x25609513
                data = file.read(length) if command == CMD_WRITE else b""
                if command == 2 or not (said := self.answer(command, cookie, offset, length, data)):
                    return
                link.sendall(said)


def reply(cookie: int, error: int = 0, magic: int = 0x67446698) -> bytes:
    return struct.pack(">IIQ", magic, error, cookie)


def obey(command: int, cookie: int, offset: int, length: int, data: bytes) -> bytes:
    return reply(cookie) + bytes(length if command == CMD_READ else 0)


@pytest.fixture
def connect():
    """Makes clients with the first server for data, the second for flushes; all end."""
    clients, servers, lost = [], [], []

    def made(data: Server, flush: Server | None = None) -> Client:
        servers.extend([data, flush or Server(answer=obey)])
        clients.append(Client([one.ours for one in servers[-2:]], 2.0, lost.append))
        clients[-1].told = lost
        return clients[-1]

    yield made
    for client in clients:
        client.close()
    for server in servers:
        server.join(5)
        assert not server.is_alive()


@pytest.mark.parametrize(
    ("handshake", "words"),
    [
        (b"", "timed out"),
        (b"SSH-2.0-OpenSSH_9.2 this is no NBD server", "no NBD server"),
        (b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53" + bytes(16), "no NBD server"),
        (GREETING[:16] + bytes(2), "no NBD server"),
        (GREETING[:9], "timed out"),
        (GREETING + random.Random(1).randbytes(4000), "not the NBD protocol"),
        (GREETING + REPLY_HEAD + struct.pack(">II", 3, 0xFFFFFFFF), "not the NBD protocol"),
        (GREETING + REPLY_HEAD + struct.pack(">II", (1 << 31) + 6, 4) + b"gone", "gone"),
        (GREETING + REPLY_HEAD + struct.pack(">II", (1 << 31) + 6, 0), "no export"),
        (GREETING + ACK, "no export"),
        (GREETING + EXPORT * 70, "no export"),
    ],
    ids=["silence", "another protocol", "old style", "not fixed", "half a greeting", "noise",
         "4 GiB of answer", "error with words", "error", "ACK alone", "no end"],
)  # fmt: skip
def test_bad_handshakes(handshake: bytes, words: str) -> None:
    server, lost = Server(handshake), []
    with pytest.raises(HostError, match=words):
        Client([server.ours, socket.socketpair()[0]], 0.3, lost.append)
    server.join(5)
    assert not server.is_alive()
    assert server.ours.fileno() == -1
    assert not lost


ANSWERS = {
    "closes": lambda c, cookie, o, n, d: b"",
    "half a reply": lambda c, cookie, o, n, d: reply(cookie)[:7],
    "garbage": lambda c, cookie, o, n, d: random.Random(2).randbytes(5000),
    "wrong magic": lambda c, cookie, o, n, d: reply(cookie, magic=0x668E33EF) + bytes(n),
    "wrong cookie": lambda c, cookie, o, n, d: reply(cookie + 1) + bytes(n),
    "an old answer": lambda c, cookie, o, n, d: reply(cookie - 1) + bytes(n),
    "data after an error": lambda c, cookie, o, n, d: reply(cookie, 5) + bytes(n),
    "short data": lambda c, cookie, o, n, d: reply(cookie) + bytes(n - 1),
}


class Once:
    """Answers once, then closes."""

    def __init__(self, answer) -> None:
        self.answer, self.done = answer, False

    def __call__(self, *request) -> bytes:
        said = b"" if self.done else self.answer(*request)
        self.done = True
        return said


@pytest.mark.parametrize("name", ANSWERS)
def test_a_broken_read_is_an_error_and_so_is_all_after_it(connect, name: str) -> None:
    server = Server(answer=Once(ANSWERS[name]))
    client = connect(server)
    if name in ("half a reply", "short data"):  # it stays silent, until it goes
        threading.Timer(0.2, lambda: server.theirs.shutdown(socket.SHUT_RDWR)).start()
    before = threading.active_count()
    for call in (
        lambda: client.read(0, READ), lambda: client.read(0, READ), client.flush,
        lambda: client.write(0, READ), lambda: client.write_zeroes(0, 512, True),
    ):  # fmt: skip
        with pytest.raises(OSError, match="lost") as caught:
            call()
        assert caught.value.errno == errno.EIO
    assert len(client.told) == 1
    assert threading.active_count() <= before


def test_a_lost_flush_ends_the_data_too(connect) -> None:
    client = connect(Server(answer=obey), Server(answer=ANSWERS["wrong cookie"]))
    client.read(0, READ)
    with pytest.raises(OSError, match="an answer that no request asked for"):
        client.flush()
    with pytest.raises(OSError, match="lost"):
        client.read(0, READ)


@pytest.mark.parametrize(
    ("code", "found"),
    [(1, errno.EPERM), (5, errno.EIO), (12, errno.ENOMEM), (22, errno.EINVAL), (28, errno.ENOSPC),
     (75, errno.EOVERFLOW), (95, errno.EOPNOTSUPP), (108, errno.EIO), (0xFFFFFFFF, errno.EIO)],
)  # fmt: skip
def test_errors_of_the_server_leave_the_connection(connect, code: int, found: int) -> None:
    codes = [code, code, 0]

    def answer(command, cookie, offset, length, data) -> bytes:
        now = codes.pop(0)
        return reply(cookie, now) + bytes(length if command == CMD_READ and not now else 0)

    client = connect(Server(answer=answer))
    for call in (client.read, client.write):
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            call(0, READ)
        assert caught.value.errno == found
    client.read(0, READ)
    assert not client.told


def test_many_views_and_large_requests_are_cut(connect) -> None:
    """A model of 80 MiB: more than one request takes, and more views than one system call."""
    disk, sizes = bytearray(80 << 20), []

    def answer(command, cookie, offset, length, data) -> bytes:
        sizes.append((command, length))
        if command == CMD_WRITE:
            disk[offset : offset + length] = data
        elif command == CMD_WRITE_ZEROES:
            return reply(cookie)
        else:
            return reply(cookie) + disk[offset : offset + length]
        return reply(cookie)

    client, rng = connect(Server(answer=answer)), random.Random(4)
    data = rng.randbytes(70 << 20)
    cuts = [0, *sorted(rng.randrange(len(data)) for _ in range(3000)), len(data)]
    out = [memoryview(data)[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    client.write(512, out)
    assert disk[512 : 512 + len(data)] == data
    into = memoryview(bytearray(len(data)))
    client.read(512, [into[a:b] for a, b in zip(cuts, cuts[1:], strict=False)])
    assert into == data
    assert max(length for _, length in sizes) == MOST_BYTES
    client.write_zeroes(0, 5 << 30, unmap=True)
    assert [length for command, length in sizes if command == CMD_WRITE_ZEROES] == [1 << 30] * 5
    client.read(0, [])
    assert not client.told
