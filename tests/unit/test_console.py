"""The console: its tail, expect and send, and an outlet that no reader can block."""

from __future__ import annotations

import os
import re
import threading
import time

import pytest

from pyhv.console import Console, ExpectError, ExpectTimeout
from pyhv.outlet import LIMIT_BYTES, Outlet

LONG = 5.0


def later(seconds: float, function, *arguments) -> threading.Thread:
    thread = threading.Timer(seconds, function, arguments)
    thread.start()
    return thread


def test_text_is_what_the_guest_sent():
    console = Console()
    console.write(b"caf\xc3\xa9 ")
    console.write(b"\xff\r\n")
    assert console.text() == "caf\xe9 \ufffd\r\n"
    assert console.data() == b"caf\xc3\xa9 \xff\r\n"


def test_tail_is_bounded_and_keeps_the_end():
    console = Console(tail_bytes=1000)
    for i in range(5000):
        console.write(b"%06d" % i)
    assert len(console.data()) == 1000
    assert console.data().endswith(b"004998004999")
    assert len(console._tail) <= 2000


def test_last_lines_leave_out_empty_ones():
    console = Console()
    console.write(b"one\r\n\r\ntwo \r\nthree")
    assert console.last_lines(2) == ["two", "three"]


@pytest.mark.parametrize(
    "pattern", ["login: ", b"login: ", re.compile("log+in: "), re.compile(rb"l[o]gin: ")], ids=repr
)
def test_expect_finds_text_bytes_and_expressions(pattern):
    console = Console()
    console.write("caf\xe9 login: x".encode())
    assert console.expect(pattern, timeout=0) == "caf\xe9 login: "


def test_expect_goes_on_behind_the_last_match():
    console = Console()
    console.write(b"a$ b$ ")
    assert console.expect("$ ", 0) == "a$ "
    assert console.expect("$ ", 0) == "b$ "
    with pytest.raises(TimeoutError):
        console.expect("$ ", 0)


def test_expect_position_survives_the_trimming_of_the_tail():
    console = Console(tail_bytes=100)
    console.write(b"first")
    console.expect("first", 0)
    console.write(b"x" * 1000)
    console.write(b"second")
    assert console.expect("second", 0).endswith("xsecond")


def test_expect_waits_for_bytes_that_come_one_by_one():
    console = Console()

    def guest() -> None:
        for byte in b"booting ... login: ":
            console.write(bytes((byte,)))
            time.sleep(0.002)

    thread = threading.Thread(target=guest)
    thread.start()
    assert console.expect("login: ", LONG).startswith("booting")
    thread.join()


def test_expect_fails_at_once_when_the_machine_stops_and_shows_the_last_lines():
    console = Console()
    console.write(b"panic: no root\r\n")
    later(0.05, console.finish)
    start = time.monotonic()
    with pytest.raises(ExpectError, match="the machine stopped") as caught:
        console.expect("login:", LONG)
    assert time.monotonic() - start < LONG / 2
    assert "panic: no root" in str(caught.value)
    assert not isinstance(caught.value, TimeoutError)


def test_expect_still_finds_what_came_before_the_end():
    console = Console()
    console.write(b"done\n")
    console.finish()
    assert console.expect("done", 0) == "done"


def test_expect_gives_up_on_the_fail_pattern_only_if_it_comes_first():
    console = Console()
    console.write(b"ok; panic\n")
    assert console.expect("ok", 0, fail="panic") == "ok"
    with pytest.raises(ExpectError, match="'panic' came"):
        console.expect("login", LONG, fail="panic")


def test_expect_timeout_is_a_timeout_error_with_the_tail():
    console = Console()
    console.write(b"loading\n")
    with pytest.raises(ExpectTimeout, match=r"'login:': not within 0.02 s(.|\n)*loading"):
        console.expect("login:", 0.02)


def test_send_before_connect_times_out_and_after_the_end_fails():
    console = Console()
    with pytest.raises(ExpectTimeout):
        console.send(b"x", timeout=0)
    console.finish()
    with pytest.raises(ExpectError, match="stopped"):
        console.send("x")


def test_send_waits_for_a_guest_that_reads_slowly():
    got = bytearray()

    def receive(data: bytes) -> int:
        got.extend(data[:3])
        return min(3, len(data))

    console = Console()
    console.connect(receive)
    console.send("hello\n")
    assert got == b"hello\n"
    assert console.offer(b"abcdef") == 3


def test_finish_tells_its_listener_and_connect_begins_again():
    told = []
    console = Console()
    console.when_finished = lambda: told.append(1)
    console.finish()
    assert told == [1]
    console.connect(len)
    assert console.offer(b"ab") == 2
    with pytest.raises(ExpectTimeout):
        console.expect("x", 0)


def test_console_without_descriptor_makes_no_thread():
    before = threading.active_count()
    console = Console()
    console.write(b"x")
    console.close()
    assert threading.active_count() == before


# the outlet


def read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 65536):
        parts.append(part)
    return b"".join(parts)


def test_outlet_writes_everything_in_order():
    reader, writer = os.pipe()
    with Console(writer) as console:
        expected = bytearray()
        got: list[bytes] = []
        thread = threading.Thread(target=lambda: got.append(read_all(reader)))
        thread.start()
        for i in range(2000):
            data = b"%d\n" % i
            expected += data
            console.write(data)
    os.close(writer)
    thread.join(LONG)
    assert got == [bytes(expected)]
    assert console.dropped == 0
    os.close(reader)


def test_outlet_leaves_no_descriptor_and_no_thread():
    reader, writer = os.pipe()
    before = sorted(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(20):
        outlet = Outlet(writer)
        outlet.write(b"x")
        outlet.close()
        outlet.close()
    assert (sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before
    assert os.read(reader, 100) == b"x" * 20
    os.close(reader)
    os.close(writer)


def test_blocked_reader_does_not_block_the_guest_and_the_loss_is_counted():
    reader, writer = os.pipe()  # nobody reads
    outlet = Outlet(writer)
    start = time.monotonic()
    data = b"x" * 4096
    total = 2 * LIMIT_BYTES
    for _ in range(total // len(data)):
        outlet.write(data)
    assert time.monotonic() - start < 1
    assert outlet.dropped > 0
    outlet.close(patience=0.1)
    assert time.monotonic() - start < 2
    assert outlet.written + outlet.dropped == total
    assert len(os.read(reader, 2 * LIMIT_BYTES)) == outlet.written
    os.close(reader)
    os.close(writer)


def test_close_waits_for_a_reader_that_is_slow_but_reads():
    reader, writer = os.pipe()
    outlet = Outlet(writer)
    total = 400_000
    outlet.write(b"x" * total)
    got = bytearray()

    def slow() -> None:
        while len(got) < total:
            got.extend(os.read(reader, 30_000))
            time.sleep(0.01)

    thread = threading.Thread(target=slow)
    thread.start()
    outlet.close(patience=0.5)
    thread.join(LONG)
    assert (len(got), outlet.dropped) == (total, 0)
    os.close(reader)
    os.close(writer)


def test_reader_that_goes_away_is_an_error_kept_and_everything_later_is_counted():
    reader, writer = os.pipe()
    outlet = Outlet(writer)
    os.close(reader)
    outlet.write(b"abc")
    deadline = time.monotonic() + LONG
    while outlet.error is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert isinstance(outlet.error, BrokenPipeError)
    outlet.write(b"de")
    outlet.close()
    assert (outlet.written, outlet.dropped) == (0, 5)
    os.close(writer)


def test_the_shared_description_stays_blocking():
    reader, writer = os.pipe()
    outlet = Outlet(writer)
    outlet.write(b"x")
    outlet.close()
    assert os.get_blocking(writer)
    os.close(reader)
    os.close(writer)


def test_a_file_is_continued_where_it_stands(tmp_path):
    path = tmp_path / "log"
    with open(path, "wb") as file:
        file.write(b"before ")
        file.flush()
        with Console(file.fileno()) as console:
            console.write(b"guest ")
        file.write(b"after")
    assert path.read_bytes() == b"before guest after"


def test_a_full_disk_is_counted():
    fd = os.open("/dev/full", os.O_WRONLY)
    outlet = Outlet(fd)
    outlet.write(b"abc")
    outlet.close()
    assert outlet.error is not None
    assert outlet.dropped == 3
    os.close(fd)


def test_a_terminal_that_nobody_reads_does_not_block():
    """A pty whose master is not read takes a few KiB; then the outlet keeps and drops."""
    master, slave = os.openpty()
    outlet = Outlet(slave)
    for _ in range(300):
        outlet.write(b"y" * 4096)
    start = time.monotonic()
    outlet.close(patience=0.1)
    assert time.monotonic() - start < 1
    assert outlet.dropped > 0
    assert outlet._thread is not None
    assert not outlet._thread.is_alive()
    os.close(slave)
    os.close(master)


def test_a_master_is_not_opened_again():
    """Opening /proc/self/fd/N of a pty's master would make another pty."""
    master, slave = os.openpty()
    outlet = Outlet(master)
    assert not outlet._own
    outlet.write(b"typed\n")
    outlet.close()
    assert os.read(slave, 100) == b"typed\n"
    os.close(slave)
    os.close(master)
