"""Backends on this host: sockets to each other, passt, a tap; other ends that misbehave."""

from __future__ import annotations

import os
import pathlib
import socket
import stat
import struct
import sys
from collections.abc import Iterator

import pytest
from net_loop import Loop

from pyhv.errors import ConfigError, HostError
from pyhv.net import passt, socketpath, stream
from pyhv.net.backend import Backend
from pyhv.net.config import HostForward
from pyhv.net.frames import ETH_MAX
from pyhv.net.socketpath import SocketPath
from pyhv.net.stream import Stream
from pyhv.net.tap import Tap

FRAME = bytes(range(60))


class Sink:
    """A device: takes what it has room for."""

    def __init__(self, backend: Backend, room: int = 1 << 16) -> None:
        self.backend, self.space = backend, room
        self.frames: list[bytes] = []
        self.links: list[bool] = []
        self.writes = 0
        backend.sink = self

    def room(self) -> int:
        return self.space

    def receive(self, received: list[bytes]) -> None:
        assert len(received) <= self.space
        self.space -= len(received)
        self.frames += received

    def landing(self, large: bool) -> list[memoryview]:
        return []

    def landed_all(self) -> None:
        pass

    def writable(self) -> None:
        self.writes += 1

    def link_changed(self, up: bool) -> None:
        self.links.append(up)


@pytest.fixture
def pair(loop: Loop) -> Iterator[tuple[Stream, socket.socket]]:
    backend = Stream()
    backend.open(loop.events)
    ours, theirs = socket.socketpair()
    backend.attach(ours)
    yield backend, theirs
    backend.close()
    theirs.close()


def framed(*several: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(one)) + one for one in several)


def test_frames_in(loop: Loop, pair) -> None:
    backend, theirs = pair
    sink = Sink(backend)
    data = framed(*[FRAME + bytes([i]) for i in range(200)], bytes(ETH_MAX))
    for at in range(0, len(data), 7001):  # whatever the pieces are
        theirs.sendall(data[at : at + 7001])
        loop.turn() if at % 3 == 0 else None
    loop.until(lambda: len(sink.frames) == 201)
    assert sink.frames[:200] == [FRAME + bytes([i]) for i in range(200)]
    assert backend.received == 201


def test_nobody_there(loop: Loop, pair) -> None:
    backend, theirs = pair
    theirs.sendall(framed(*[FRAME] * 500))
    loop.until(lambda: backend.dropped == 500)
    sink = Sink(backend)
    theirs.sendall(framed(b"late" * 15))
    loop.until(lambda: sink.frames)
    assert sink.frames == [b"late" * 15]


def test_a_sink_without_room_stops_the_reading(loop: Loop, pair) -> None:
    backend, theirs = pair
    sink = Sink(backend, room=10)
    theirs.setblocking(False)
    sent = refused = 0
    data = framed(bytes(1500))
    while refused < 5:  # until nobody takes more: memory is bounded
        try:
            if theirs.send(data) != len(data):
                break
            sent += 1
        except BlockingIOError:
            refused += 1
            loop.turn()
        assert sent < 2000
    assert len(sink.frames) == 10
    loop.turn()  # and no busy loop
    sink.space = 1 << 16
    backend.resume()
    loop.until(lambda: len(sink.frames) >= sent)


def test_frames_out_wait_for_a_slow_reader(loop: Loop, pair) -> None:
    backend, theirs = pair
    sink = Sink(backend)
    theirs.setblocking(False)
    several = [bytes([i & 0xFF]) * 1500 for i in range(64)]
    rounds = 0
    while backend.send(several):
        rounds += 1
        assert rounds < 1000
    sent = (rounds + 1) * 64
    while backend.send(several) or len(backend._backlog) <= stream.LIMIT:
        sent += 64
    dropped = backend.dropped
    backend.send(several)
    assert backend.dropped == dropped + 64
    assert len(backend._backlog) < stream.LIMIT + 64 * 1504 + 1
    got = b""

    def read() -> bool:
        nonlocal got
        try:
            got += theirs.recv(1 << 20)
        except BlockingIOError:
            pass
        return not backend._backlog

    loop.until(read)
    assert sink.writes
    while len(got) < backend.sent * 1504:
        got += theirs.recv(1 << 20)
    assert got[:1504] == framed(several[0])
    assert got[-1504:] == framed(several[63])


@pytest.mark.parametrize("size", [0, 13, ETH_MAX + 1, 0xFFFFFFFF])
def test_nonsense_ends_the_connection(loop: Loop, pair, size: int) -> None:
    backend, theirs = pair
    sink, said = Sink(backend), []
    backend.notice = said.append
    theirs.sendall(framed(FRAME) + struct.pack(">I", size) + bytes(100))
    loop.until(lambda: sink.links)
    assert sink.frames == [FRAME]
    assert sink.links == [False]
    assert f"a frame of {size} bytes" in said[0]
    assert backend.send([FRAME])
    assert backend.dropped == 1


def test_the_other_end_goes(loop: Loop, pair) -> None:
    backend, theirs = pair
    sink, said = Sink(backend), []
    backend.notice = said.append
    theirs.close()
    loop.until(lambda: sink.links)
    assert said == [
        "network: socket: the other end closed the connection; the guest's link is down"
    ]


# paths


def test_two_machines_and_the_first_one_listens(loop: Loop, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "cable")
    one, two = SocketPath(path), SocketPath(path)
    one.open(loop.events)
    two.open(loop.events)
    first, second = Sink(one), Sink(two)
    loop.until(lambda: one.link and two.link)
    one.send([FRAME])
    two.send([FRAME[::-1]])
    loop.until(lambda: first.frames and second.frames)
    assert (first.frames, second.frames) == ([FRAME[::-1]], [FRAME])
    two.close()
    loop.until(lambda: not one.link)
    three = SocketPath(path)
    three.open(loop.events)
    loop.until(lambda: one.link)
    third = SocketPath(path)
    third.open(loop.events)  # a cable has two ends
    sink = Sink(third)
    loop.until(lambda: sink.links[-1:] == [False])
    for backend in (third, three, one):
        backend.close()
    assert not os.path.exists(path)


def test_a_client_waits_for_its_server(loop: Loop, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(socketpath, "RETRY_S", 0.02)
    path = str(tmp_path / "cable")
    client = SocketPath(path, server=False)
    client.open(loop.events)
    loop.turn()
    assert not client.link
    server = SocketPath(path, server=True)
    server.open(loop.events)
    loop.until(lambda: client.link and server.link)
    server.close()
    loop.until(lambda: not client.link)
    server = SocketPath(path, server=True)
    server.open(loop.events)
    loop.until(lambda: client.link and server.link)
    client.close()
    server.close()


def test_a_socket_left_behind_is_replaced(loop: Loop, tmp_path) -> None:
    path = str(tmp_path / "cable")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(path)
    backend = SocketPath(path)
    backend.open(loop.events)
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    backend.close()


def test_bad_paths(loop: Loop, tmp_path) -> None:
    plain = tmp_path / "file"
    plain.write_text("mine")
    for path, error in ((plain, (ConfigError, HostError)), (tmp_path / "no" / "x", HostError),
                        ("x" * 200, (HostError, OSError))):  # fmt: skip
        backend = SocketPath(str(path))
        with pytest.raises(error):
            backend.open(loop.events)
        backend.close()
    assert plain.read_text() == "mine"
    busy = SocketPath(str(tmp_path / "s"))
    busy.open(loop.events)
    other = SocketPath(str(tmp_path / "s"), server=True)
    with pytest.raises(ConfigError, match="listens there already"):
        other.open(loop.events)
    other.close()
    loop.turn()
    busy.close()


# passt


def fake_passt(monkeypatch, tmp_path: pathlib.Path, text: str) -> pathlib.Path:
    """Put a program called passt into PATH; return the file its arguments go to."""
    program, said = tmp_path / "passt", tmp_path / "arguments"
    program.write_text(
        f"#!{sys.executable}\nimport os, socket, sys, time\n"
        f"open({str(said)!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        "s = socket.socket(fileno=int(sys.argv[sys.argv.index('--fd') + 1]))\n" + text
    )
    program.chmod(0o755)
    monkeypatch.setattr(passt, "SEARCH", str(tmp_path))
    return said


ANSWER = "a = s.recv(100)\ns.sendall(a)\nb = s.recv(2000)\ns.sendall(b)\ns.recv(1)\n"


def test_passt_is_started_with_our_addresses(loop: Loop, tmp_path, monkeypatch) -> None:
    said = fake_passt(monkeypatch, tmp_path, ANSWER)
    backend = passt.User((HostForward("tcp", "127.0.0.1", 2222, 22), HostForward("udp", "", 5, 6)))
    backend.open(loop.events)
    assert backend.link
    sink = Sink(backend)
    assert backend.send([FRAME])
    loop.until(lambda: sink.frames == [FRAME])
    process = backend._process
    backend.close()
    assert process.poll() is not None
    words = said.read_text()
    assert "-t 127.0.0.1/2222:22" in words
    assert "-u 5:6" in words
    assert "-a 10.0.2.15 -n 24 -g 10.0.2.2" in words


def test_passt_that_will_not_run(loop: Loop, tmp_path, monkeypatch) -> None:
    text = "sys.stderr.write('Failed to send 1 bytes to syslog\\nExternal interface not usable\\n')"
    fake_passt(monkeypatch, tmp_path, text + "\nsys.exit(1)\n")
    with pytest.raises(HostError, match="External interface not usable; it needs an interface"):
        passt.User().open(loop.events)


def test_passt_that_is_silent(loop: Loop, tmp_path, monkeypatch) -> None:
    fake_passt(monkeypatch, tmp_path, "time.sleep(60)\n")
    monkeypatch.setattr(passt, "PATIENCE_S", 0.5)
    with pytest.raises(HostError, match="it said nothing, and was silent for 0.5 s"):
        passt.User().open(loop.events)


@pytest.mark.parametrize(
    ("end", "how"),
    [("sys.exit(7)", "ended with status 7"), ("os.kill(os.getpid(), 31)", "was ended by SIGSYS")],
)
def test_passt_that_ends_without_a_word(loop: Loop, tmp_path, monkeypatch, end, how) -> None:
    """Its seccomp filter does not speak either."""
    fake_passt(monkeypatch, tmp_path, f"import os\n{end}\n")
    with pytest.raises(HostError, match=f"passt would not run: it said nothing, and {how}"):
        passt.User().open(loop.events)


def test_passt_is_not_there(loop: Loop, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(passt, "SEARCH", str(tmp_path))
    with pytest.raises(HostError, match="install the package passt"):
        passt.User().open(loop.events)


def test_passt_dies(loop: Loop, tmp_path, monkeypatch) -> None:
    fake_passt(monkeypatch, tmp_path, "a = s.recv(100)\ns.sendall(a)\n")
    backend, said = passt.User(), []
    backend.notice = said.append
    backend.open(loop.events)
    sink = Sink(backend)
    loop.until(lambda: sink.links == [False])
    assert "network: user: the other end closed" in said[0]
    backend.close()


# tap


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/net/tun"), reason="needs root and /dev/net/tun"
)
def test_a_tap(loop: Loop) -> None:
    """Frames out of the guest arrive at a raw socket on the interface; the kernel makes sums."""
    from pyhv.net import frames

    backend = Tap("pyhvtest0")
    try:
        backend.open(loop.events)
    except HostError as error:
        pytest.skip(f"no tap here: {error}")
    sink = Sink(backend)
    assert os.system("ip link set pyhvtest0 up") == 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
        raw.bind(("pyhvtest0", 0))
        raw.settimeout(5)
        segment = struct.pack(">HHIIBBHHH", 9, 9, 0, 0, 0x50, 0x18, 512, 0, 0) + bytes(3000)
        head = struct.pack(">BBHHHBBH", 0x45, 0, 0, 7, 0, 64, 6, 0) + bytes.fromhex(
            "c0000201c0000202"
        )
        large = bytes.fromhex("ffffffffffff525400123456") + b"\x08\x00" + head + segment
        backend.send(backend.prepare(large, 0, 1000))
        backend.send(backend.prepare(large[:12] + b"\x08\x06" + bytes(40), 0, 0))
        total = 0
        while total < 3000:
            frame = raw.recv(70000)
            if frame[12:14] == b"\x08\x00" and frame[6:12] == large[6:12]:
                at = frames.layout(frame)
                assert at is not None
                total += at.end - at.transport - 20
        raw.send(bytes.fromhex("525400123456") + bytes(6) + b"\x88\xb5" + bytes(46))
        loop.until(lambda: any(one[12:14] == b"\x88\xb5" for one in sink.frames))
    assert backend.prepare(large, 0, 40) == []
    assert backend.prepare(FRAME, 0, 1000) == []
    backend.close()


def test_a_tap_that_cannot_be(loop: Loop, monkeypatch) -> None:
    from pyhv.net import tap

    with pytest.raises(ConfigError, match="at most 15"):
        Tap("x" * 16).open(loop.events)
    monkeypatch.setattr(tap, "DEVICE", "/nonexistent")
    with pytest.raises(HostError, match="modprobe tun"):
        Tap("x").open(loop.events)
    monkeypatch.setattr(tap, "DEVICE", "/dev/null")
    with pytest.raises(HostError, match="ip tuntap add"):
        Tap("x").open(loop.events)


def test_no_other_end(loop: Loop) -> None:
    backend = Backend()
    backend.open(loop.events)
    assert backend.send([FRAME])
    assert not backend.link
    backend.resume()
    backend.close()
