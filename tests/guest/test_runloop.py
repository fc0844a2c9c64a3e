"""The exit loop against real KVM: a few bytes of real-mode code, without a Machine around it."""

from __future__ import annotations

import threading
import time

import pytest

from pyhv.boot import entry
from pyhv.bus import Bus
from pyhv.cpustate import enter, snapshot
from pyhv.devices.uart import Uart
from pyhv.errors import GuestFault
from pyhv.kvm import requests
from pyhv.kvm.cpuid import Cpuid
from pyhv.kvm.system import Kvm
from pyhv.kvm.vcpu import Vcpu
from pyhv.kvm.vm import Vm
from pyhv.memory import GuestMemory
from pyhv.runloop import VcpuThread, install_kick_handler
from pyhv.serialring import SerialRing

pytestmark = pytest.mark.kvm
CODE = 0x1000
EXIT_PORT = 0xF4


class Recorder:
    """A device that keeps what it gets, and answers reads with a counter."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, int, int]] = []
        self.reads = 0

    def pio_out(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))

    def pio_in(self, offset: int, size: int) -> int:
        self.reads += 1
        return self.reads

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))

    def mmio_read(self, offset: int, size: int) -> int:
        self.reads += 1
        return 0x1122334455667788


class Guest:
    """A VM with one vCPU in real mode, ended by a write to EXIT_PORT."""

    def __init__(self) -> None:
        self.kvm, self.memory = Kvm(), GuestMemory(2 << 20)
        self.vm = Vm(self.kvm, self.memory)
        self.vcpu = Vcpu(self.vm, 0)
        self.bus = Bus()
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.bus.claim_pio(EXIT_PORT, 4, self)
        self.thread = VcpuThread(self.vcpu, self.bus, self.failed)
        install_kick_handler()

    def failed(self, thread: VcpuThread, error: BaseException) -> None:
        self.error = error
        self.done.set()

    def pio_in(self, offset: int, size: int) -> int:
        return 0

    def pio_out(self, offset: int, size: int, value: int) -> None:
        self.done.set()
        self.thread.leave()

    def run(self, code: str, timeout: float = 10) -> None:
        self.start(code)
        assert self.done.wait(timeout), self.thread.last_exits()
        self.thread.thread.join(timeout)
        if self.error:
            raise self.error

    def start(self, code: str) -> None:
        self.memory.write(CODE, bytes.fromhex(code) + bytes.fromhex("e6f4 f4"))
        Cpuid(self.kvm.supported_cpuid()).install(self.vcpu.fd)
        enter(self.vcpu, entry.real(0, CODE, 0x8000, {}))
        self.thread.start()

    def close(self) -> None:
        if self.thread.thread.is_alive():
            self.thread.request(self.thread.leave)
            self.thread.thread.join()
        self.thread.pio_handlers.release()
        self.vcpu.close()
        self.vm.close()
        self.kvm.close()
        self.memory.close()


@pytest.fixture
def guest():
    guest = Guest()
    yield guest
    guest.close()


def test_port_write_reaches_its_device_with_size_and_offset(guest: Guest) -> None:
    device = Recorder()
    guest.bus.claim_pio(0x80, 4, device)
    guest.run("b011 e680 66b844332211 66e780 b8cdab e782")
    assert device.writes == [(0, 1, 0x11), (0, 4, 0x11223344), (2, 2, 0xABCD)]


def test_port_read_reaches_the_guest(guest: Guest) -> None:
    device = Recorder()
    device.reads = 0x41
    guest.bus.claim_pio(0x80, 1, device)
    guest.run("e480 a20005")  # in al, 0x80; mov [0x500], al
    assert guest.memory.read(0x500, 1) == b"\x42"


def test_unclaimed_port_reads_all_ones(guest: Guest) -> None:
    guest.run("66e588 66a30005")
    assert guest.memory.read(0x500, 4) == b"\xff" * 4


def test_access_wider_than_the_claim_is_split(guest: Guest) -> None:
    device = Recorder()
    guest.bus.claim_pio(0x82, 1, device)
    guest.run("66b844332211 66e780")
    assert device.writes == [(0, 1, 0x22)]


def test_rep_outsb_keeps_the_port_and_advances_the_data(guest: Guest) -> None:
    """kvm-host and gokvm get this wrong."""
    device = Recorder()
    guest.bus.claim_pio(0x80, 1, device)
    guest.memory.write(0x600, b"hello")
    guest.run("be0006 b90500 ba8000 fc f36e")
    assert device.writes == [(0, 1, byte) for byte in b"hello"]


def test_rep_insb_fills_memory(guest: Guest) -> None:
    device = Recorder()
    guest.bus.claim_pio(0x80, 1, device)
    guest.run("bf0006 b90500 ba8000 fc f36c")
    assert guest.memory.read(0x600, 6) == b"\x01\x02\x03\x04\x05\x00"


def test_mmio_outside_ram_reaches_its_device(guest: Guest) -> None:
    device = Recorder()
    guest.bus.claim_mmio(0x400000, 4096, device)
    # real mode cannot reach 4 MiB by itself: give DS a base by hand
    guest.memory.write(CODE, bytes.fromhex("c606 1000 5a a1 2000 2e a3 0005 e6f4 f4"))
    Cpuid(guest.kvm.supported_cpuid()).install(guest.vcpu.fd)
    enter(guest.vcpu, entry.real(0, CODE, 0x8000, {}))
    sregs = guest.vcpu.sregs
    requests.GET_SREGS(guest.vcpu.fd, sregs)
    sregs.ds.base = 0x400000
    guest.vcpu.store(2)
    guest.thread.start()
    assert guest.done.wait(10), guest.thread.last_exits()
    assert device.writes == [(0x10, 1, 0x5A)]
    assert guest.memory.read(0x500, 2) == b"\x88\x77"


def test_filtered_msr_is_served_and_fault_becomes_gp(guest: Guest) -> None:
    """A GuestFault and an unknown MSR are #GP in the guest's own handler."""
    stored = []

    def write(value: int) -> None:
        if value == 0x66:
            raise GuestFault("no")
        stored.append(value)

    guest.vm.filter_msrs(0x40000000, 0x200)
    guest.thread.wrmsr[0x40000000] = write
    guest.thread.rdmsr[0x40000001] = lambda: 0x1234567890
    # #GP handler (vector 13) at 0x3000: inc word [0x700]; add the stacked IP by 2; iret
    guest.memory.write(13 * 4, bytes.fromhex("0030 0000"))
    guest.memory.write(0x3000, bytes.fromhex("ff060007 55 89e5 83460202 5d cf"))
    guest.run(
        "66b900000040 66b855000000 6631d2 0f30"  # wrmsr 0x40000000, 0x55
        "66b866000000 0f30"  # refused
        "66b901000040 0f32 66a31005 66891614 05"  # rdmsr
        "66b9ff000040 0f32"  # nobody's
    )
    assert stored == [0x55]
    assert guest.memory.read_u64(0x510) == 0x1234567890
    assert guest.memory.read(0x700, 2) == b"\x02\x00"


def test_request_runs_on_the_vcpu_thread_while_the_guest_spins(guest: Guest) -> None:
    guest.start("ebfe")
    seen: list[str] = []
    event = threading.Event()

    def ask() -> None:
        seen.append(threading.current_thread().name)
        event.set()

    time.sleep(0.05)
    for _ in range(20):
        event.clear()
        guest.thread.request(ask)
        assert event.wait(5)
    assert seen == ["vcpu0"] * 20


def test_console_bytes_lie_in_the_ring_until_drained(guest: Guest) -> None:
    """No exit per byte: the history shows none, and order with other UART registers is kept."""
    sent = bytearray()
    uart = Uart(sent.extend, lambda level: None)
    ring = SerialRing(uart, guest.vcpu)
    guest.bus.claim_pio(0x3F8, 8, ring)
    assert guest.vm.coalesce_pio(0x3F8, 1)
    # 400 times out 0x3f8, al: the ring has 170 entries, so it also wraps and fills
    guest.run("baf803 b99001 b061 ee 40 e2fc")
    ring.drain()
    assert bytes(sent) == bytes((0x61 + i) & 0xFF for i in range(400))
    assert sum("port 0x3f8" in line for line in guest.thread.last_exits()) <= 3


def test_snapshot_has_the_registers(guest: Guest) -> None:
    guest.run("b83412 bb7856")
    values = snapshot(guest.vcpu)
    assert values["rax"] & 0xFFFF == 0x1234
    assert values["rbx"] & 0xFFFF == 0x5678


def test_a_device_that_fails_ends_the_loop_with_its_error(guest: Guest) -> None:
    class Broken(Recorder):
        def pio_out(self, offset: int, size: int, value: int) -> None:
            raise ZeroDivisionError("broken device")

    guest.bus.claim_pio(0x80, 1, Broken())
    with pytest.raises(ZeroDivisionError, match="broken device"):
        guest.run("e680")
