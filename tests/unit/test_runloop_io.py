"""Port and MMIO exits without KVM: what the tables keep, and what the report says of them."""

from __future__ import annotations

import pytest

from pyhv import runloop
from pyhv.bus import CACHE_LIMIT, Bus, io_word
from pyhv.runloop import VcpuThread

IO, MMIO = 2, 6
CLAIMED, HOLE, HIGH_HOLE = 0xFED00000, 0xFE000000, 0x1_0000_0101


class FakeVcpu:
    """A kvm_run page of two pages, zero."""

    def __init__(self) -> None:
        self.fd, self.index = -1, 0
        self.m8 = memoryview(bytearray(8192))
        self.m32, self.m64 = self.m8.cast("I"), self.m8.cast("Q")


class Device:
    def __init__(self) -> None:
        self.log: list[tuple[int, ...]] = []

    def pio_in(self, offset: int, size: int) -> int:
        raise KeyError("a bug")

    def pio_out(self, offset: int, size: int, value: int) -> None:
        self.log.append((offset, size, value))

    def mmio_read(self, offset: int, size: int) -> int:
        return 0x1234

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        self.log.append((offset, size, value))


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def thread(device: Device) -> VcpuThread:
    bus = Bus()
    bus.claim_mmio(CLAIMED, 4096, device)  # type: ignore[arg-type]
    bus.claim_pio(0x100, 1, device)  # type: ignore[arg-type]
    return VcpuThread(FakeVcpu(), bus, lambda thread, error: None)  # type: ignore[arg-type]


def loop(monkeypatch: pytest.MonkeyPatch, thread: VcpuThread, exits: list) -> list[int]:
    """Let the loop see (reason, 64-bit words from byte 32 on); return word 40 after each exit."""
    vcpu, left, seen = thread.vcpu, iter(exits), []

    def run(fd: int, request: int) -> int:
        seen.append(vcpu.m64[5])
        reason, words = next(left, (0, ()))
        if not reason:
            raise InterruptedError
        vcpu.m32[2] = reason
        for at, word in enumerate(words, 4):
            vcpu.m64[at] = word
        return 0

    monkeypatch.setattr(runloop, "run_call", lambda: run)
    with pytest.raises(InterruptedError):
        thread._run()
    return seen[1:]


def store(gpa: int, value: int, size: int = 4) -> tuple[int, tuple[int, ...]]:
    return MMIO, (gpa, value, size | 1 << 32)


def load(gpa: int, size: int = 4) -> tuple[int, tuple[int, ...]]:
    return MMIO, (gpa, 0, size)


def test_mmio(monkeypatch: pytest.MonkeyPatch, thread: VcpuThread, device: Device) -> None:
    """Twice each: the second comes from the table."""
    exits = [
        store(CLAIMED + 8, 0xAABBCCDD_11223344),
        store(HOLE, 1),
        store(HIGH_HOLE, 1),
        load(CLAIMED),
        load(HOLE),
    ]
    seen = loop(monkeypatch, thread, exits * 2)
    assert device.log == [(8, 4, 0x11223344)] * 2
    assert seen[3:5] == seen[8:10] == [0x1234, 0xFFFFFFFF]
    assert thread.last_exits()[5:] == [
        "mmio write 0xfed00008",
        "mmio write 0xfe000000",
        "mmio write 0x100000101",
        "mmio read 0xfed00000",
        "mmio read 0xfe000000",
    ]


def test_leftovers_of_another_exit_beside_is_write(
    monkeypatch: pytest.MonkeyPatch, thread: VcpuThread, device: Device
) -> None:
    """msr.data lies over mmio.len, is_write and their padding: the guest chose those bytes."""
    exits = [(MMIO, (CLAIMED, 5, 0xFFFFFF01_00000002)), (MMIO, (CLAIMED, 0, 0xFFFFFF00_00000002))]
    assert loop(monkeypatch, thread, exits)[1] == 0x1234
    assert device.log == [(0, 2, 5)]


def test_ports_in_the_report(monkeypatch: pytest.MonkeyPatch, thread: VcpuThread) -> None:
    words = [io_word(0x80, 1, True), io_word(0x81, 2, False), io_word(0xFFFF, 4, True, count=3)]
    loop(monkeypatch, thread, [(IO, (word,)) for word in words])
    assert thread.last_exits() == [
        "out port 0x80, 1 bytes",
        "in port 0x81, 2 bytes",
        "out port 0xffff, 4 bytes, 3 times",
    ]


def test_a_guest_cannot_fill_our_memory(
    monkeypatch: pytest.MonkeyPatch, thread: VcpuThread
) -> None:
    """The tables stop growing; a string access, which has a word for each count, is not kept."""
    ports = [(IO, (io_word(port, 1, True),)) for port in range(CACHE_LIMIT + 10)]
    strings = [(IO, (io_word(0x80, 1, True, count=n),)) for n in range(2, 20)]
    stores = [store(HOLE + n, 0) for n in range(CACHE_LIMIT + 10)]
    loop(monkeypatch, thread, [*strings, *ports[: CACHE_LIMIT - 5]])
    assert len(thread.pio) == CACHE_LIMIT - 5
    loop(monkeypatch, thread, [*ports, *stores])
    assert len(thread.pio) == len(thread.mmio_stores) == CACHE_LIMIT


def test_a_devices_key_error_is_not_taken_for_a_new_port(
    monkeypatch: pytest.MonkeyPatch, thread: VcpuThread
) -> None:
    with pytest.raises(KeyError, match="a bug"):
        loop(monkeypatch, thread, [(IO, (io_word(0x100, 1, False),))])
