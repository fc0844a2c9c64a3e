"""vm.vsock: sockets, Unix paths and asyncio streams at the host's end of hv_sock connections."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time

import pytest
from live_guest import LiveGuest

from pyhv.errors import ConfigError
from pyhv.vsock import sockets as s
from pyhv.vsock.sockets import NobodyListens

S = 20.0
BIG = os.urandom(600_000)


@pytest.fixture
def vm():
    before = set(os.listdir("/proc/self/fd"))
    live = LiveGuest()
    live.listening.add(7)
    yield live
    live.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def timed(one: socket.socket) -> socket.socket:
    one.settimeout(S)
    return one


def read(one: socket.socket) -> bytes:
    """Read to the end."""
    data = bytearray()
    while more := one.recv(65536):
        data += more
    return bytes(data)


def until(condition, what: str = "") -> None:
    end = time.monotonic() + S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def test_the_host_calls(vm) -> None:
    with timed(vm.vsock.connect(7, S)) as one:
        one.sendall(b"hello")
        assert one.recv(100) == b"hello"
        threading.Thread(target=lambda: (one.sendall(BIG), one.shutdown(socket.SHUT_WR))).start()
        assert read(one) == BIG
    until(lambda: vm.rescinded == 1)
    assert not vm.guest.server.violation_count


def test_the_guest_calls(vm) -> None:
    with vm.vsock.listen(9) as listener:
        vm.dial(9)
        with timed(listener.accept(S)) as one:
            one.sendall(b"host")
            assert one.recv(100) == b"host"
        with pytest.raises(TimeoutError, match=r"port 9: the guest did not call in 0\.05 s"):
            listener.accept(0.05)
    with pytest.raises(ConfigError, match="the listener is closed"):
        listener.accept(S)
    vm.dial(9, 0xC0000002)  # refused: nothing is offered
    until(lambda: not vm.streams)


def test_closing_ends_what_was_sent_first(vm) -> None:
    stream_of = vm.vsock.connect(7, S)
    stream = vm.stream()
    stream.reads = False
    stream_of.sendall(BIG[:100_000])
    stream_of.close()
    time.sleep(0.05)
    stream.reads = True
    until(lambda: stream.got_end)
    assert stream.read == BIG[:100_000]
    until(lambda: not vm.streams)


def test_a_program_that_does_not_read_stops_the_guest_not_the_host(vm) -> None:
    """What the guest sends waits in its ring; here there is a socket's buffer and one batch."""
    with timed(vm.vsock.connect(7, S)) as one:
        stream = vm.stream()
        vm.do(lambda: stream.out.extend(BIG * 5))
        time.sleep(0.3)
        left = len(stream.out)
        assert left > 4 * len(BIG) - 500_000
        (bridge,) = vm.sockets._bridges
        assert 0 < len(bridge._pending) < 30_000
        found = bytearray()
        while len(found) < 5 * len(BIG):
            found += one.recv(65536)
        assert found == BIG * 5


def test_the_guest_ends_and_what_it_sent_is_read(vm) -> None:
    one = timed(vm.vsock.connect(7, S))
    stream = vm.stream()
    vm.do(lambda: (stream.out.extend(BIG[:300_000]), setattr(stream, "got_end", True)))
    time.sleep(0.1)
    assert read(one) == BIG[:300_000]
    one.sendall(b"still")  # a half is open
    until(lambda: stream.read == b"still")
    one.close()
    until(lambda: not vm.streams)


def test_a_guest_that_closes_the_channel(vm) -> None:
    one = timed(vm.vsock.connect(7, S))
    stream = vm.stream()
    vm.do(lambda: vm.guest.post(stream.channel.close_message()))
    assert one.recv(10) == b""
    one.close()


def test_nobody_listens(vm) -> None:
    begin = time.monotonic()
    with pytest.raises(NobodyListens, match=r"port 8: nobody in the guest accepted in 0\.3") as no:
        vm.vsock.connect(8, 0.3)
    assert isinstance(no.value, (ConnectionRefusedError, TimeoutError))
    assert time.monotonic() - begin < 3
    until(lambda: not vm.guest.server.channels)


def test_a_listener_that_comes_later_is_found(vm, monkeypatch) -> None:
    monkeypatch.setattr(s, "RETRY_S", 0.1)
    threading.Timer(0.3, lambda: vm.listening.add(8)).start()
    vm.vsock.connect(8, S).close()


def test_a_machine_that_stops_ends_all(vm) -> None:
    one = timed(vm.vsock.connect(7, S))
    listener = vm.vsock.listen(9)
    threading.Timer(0.2, lambda: setattr(vm, "ended", "stopped")).start()
    with pytest.raises(ConfigError, match="accept on port 9: the machine does not run"):
        listener.accept(S)
    with pytest.raises(ConfigError, match="connect to port 7: the machine does not run"):
        vm.vsock.connect(7, S)
    vm.ended = None
    listener.close()
    vm.close()
    assert one.recv(10) == b""
    one.close()
    vm.close = lambda: None


def test_refusals(vm) -> None:
    vsock = vm.vsock
    listener = vsock.listen(9)
    with pytest.raises(ConfigError, match="listen 9: that port is served already"):
        vsock.listen(9)
    listener.close()
    vsock.listen(9).close()
    with pytest.raises(ConfigError, match="listen 4294967296: a port has 32 bits"):
        vsock.listen(1 << 32)
    with pytest.raises(ConfigError, match="connect -1: a port"):
        vsock.connect(-1)
    vm.features.synic = False
    with pytest.raises(ConfigError, match="no VMBus"):
        vsock.connect(7)
    vm.features.synic = True


def test_a_flood_of_calls_waits_in_vain(vm) -> None:
    with vm.vsock.listen(9) as listener:
        for number in range(s.BACKLOG + 10):
            vm.dial(9, 0xC0000000 + number)
        until(lambda: len(listener._waiting) == s.BACKLOG)
        listener.accept(S).close()
    until(lambda: not vm.streams)


def test_a_program_behind_a_unix_path_serves_the_guest(vm, tmp_path) -> None:
    path = str(tmp_path / "service")
    vm.vsock.serve(9, path)
    vm.dial(9)  # nobody is there: refused
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.settimeout(S)
        vm.dial(9)
        one = timed(server.accept()[0])
        one.sendall(b"over a path")
        assert one.recv(100) == b"over a path"
        one.close()
    until(lambda: not vm.streams)


def test_a_unix_path_leads_to_the_guest(vm, tmp_path) -> None:
    path = str(tmp_path / "echo")
    vm.vsock.publish(7, path)
    ones = []
    for number in range(3):
        one = timed(socket.socket(socket.AF_UNIX))
        one.connect(path)
        one.sendall(b"%d" % number)
        ones.append(one)
    for number, one in enumerate(ones):
        assert one.recv(100) == b"%d" % number
        one.close()
    until(lambda: not vm.streams)
    with pytest.raises(ConfigError, match="publish"):
        vm.vsock.publish(1 << 32, path)


def test_a_unix_client_whose_call_nobody_takes_is_let_go(vm, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(s, "CONNECT_S", 0.3)
    monkeypatch.setattr(s, "RETRY_S", 0.1)
    path = str(tmp_path / "nobody")
    vm.vsock.publish(8, path)
    with timed(socket.socket(socket.AF_UNIX)) as one:
        one.connect(path)
        assert one.recv(10) == b""


def test_asyncio(vm) -> None:
    async def both() -> None:
        reader, writer = await vm.vsock.open_connection(7, S)
        writer.write(b"streams\n")
        assert await asyncio.wait_for(reader.readline(), S) == b"streams\n"
        writer.close()
        with vm.vsock.listen(9) as listener:
            vm.dial(9)
            reader, writer = await listener.accept_streams(S)
            writer.write(b"called\n")
            assert await asyncio.wait_for(reader.readline(), S) == b"called\n"
            writer.close()
            with pytest.raises(TimeoutError):
                await listener.accept_streams(0.05)
            waiting = asyncio.create_task(listener.accept_streams())
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        with pytest.raises(NobodyListens):
            await vm.vsock.open_connection(8, 0.3)

    asyncio.run(both())
    until(lambda: not vm.streams)


def test_many_at_once(vm) -> None:
    failed: list[object] = []

    def one(number: int) -> None:
        with timed(vm.vsock.connect(7, S)) as it:
            data = BIG[number : number + 50_000]
            it.sendall(data)
            it.shutdown(socket.SHUT_WR)
            if read(it) != data:
                failed.append(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    until(lambda: not vm.streams)
    assert not vm.guest.server.violation_count
