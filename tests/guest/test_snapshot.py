"""Snapshots: a guest goes on from one as if nothing had been, again and again, and in clones."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator

import guestcode
import pytest
from guestcode import RESULTS
from libguest import SCALE, SECONDS, descriptors, in_nested_host, machine, rss_kib
from test_pause import TICKS, segmented

from pyhv import Machine
from pyhv.boot.acpi import GENERATION_GPA
from pyhv.config import Drive
from pyhv.errors import ConfigError
from pyhv.snapshot import Snapshot

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]

HYPERV = "host,hv_time,hv_vpindex,hv_runtime,hv_synic,hv_stimer,hv_stimer_direct"
MIB = 1 << 20


def word(vm: Machine, index: int = 0) -> int:
    return vm.memory.read_u64(RESULTS + 8 * index)


def until(vm: Machine, wanted, what: str) -> None:
    """Wait until ``wanted(vm)``."""
    deadline = time.monotonic() + SECONDS
    while not wanted(vm):
        assert vm.ended is None, vm.ended
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@contextlib.contextmanager
def running(body: str, driver: str, **options: object) -> Iterator[Machine]:
    """Run *body*, a 64-bit kernel with Hyper-V, until it has put something at RESULTS."""
    options = {"cpu": HYPERV, "memory": "16M"} | options
    with Machine(kernel=guestcode.kernel(body), hyperv=driver, **options) as vm:
        vm.start()
        until(vm, word, "it does not begin")
        yield vm


COUNTS = f"""
        xor %ebx, %ebx
1:      inc %rbx
        mov %rbx, {RESULTS}
        jmp 1b
"""


def test_goes_on_where_it_was(driver: str) -> None:
    """Registers and RAM are those of the moment, whatever the guest did since."""
    with running(COUNTS, driver) as vm:
        vm.pause()
        with vm.snapshot() as snap:
            before = word(vm), dict(vm.vcpus[0].registers)
            assert vm.paused
            vm.resume()
            until(vm, lambda vm: word(vm) > before[0] + 1000, "it does not count")
            vm.memory[0x200000:] = b"not the guest's"
            vm.pause()
            vm.restore(snap)
            assert vm.paused
            assert (word(vm), dict(vm.vcpus[0].registers)) == before
            assert vm.memory[0x200000:0x20000F] == bytes(15)
            vm.resume()
            until(vm, lambda vm: word(vm) > before[0] + 1000, "it does not count again")
            vm.restore(snap)
            assert not vm.paused
            until(vm, lambda vm: word(vm) > before[0] + 1000, "it does not count, unpaused")


SECOND = f"""
{guestcode.START_SECOND}
1:      incq {RESULTS}
        jmp 1b
ap64:   incq {RESULTS + 8}
        jmp ap64
{guestcode.second_cpu(0x620)}
"""


def test_two_cpus_and_one_that_never_ran(driver: str) -> None:
    def count(vm: Machine) -> tuple[int, int]:
        return word(vm, 0), word(vm, 1)

    with running(SECOND, driver, smp=3, cpu="host") as vm:
        until(vm, lambda vm: word(vm, 1), "the second CPU does not start")
        vm.pause()
        with vm.snapshot() as snap:
            was = count(vm)
            states = [vcpu.state for vcpu in vm.vcpus]
            for _ in range(3):
                vm.restore(snap)
                assert count(vm) == was
                assert [vcpu.state for vcpu in vm.vcpus] == states
                vm.resume()
                until(vm, lambda vm: min(a - b for a, b in zip(count(vm), was, strict=True)) > 99,
                      "one of them stands")  # fmt: skip
                vm.pause()


PIT_TICKS = """
        movw $tick, 8 * 4
        movw $0, 8 * 4 + 2
        outb 0x20, 0x11
        outb 0x21, 8
        outb 0x21, 4
        outb 0x21, 1
        outb 0x21, 0xfe
        outb 0x43, 0x34
        outb 0x40, 0x00
        outb 0x40, 0x40
        sti
1:      hlt
        jmp 1b
tick:   outb 0x3f8, '.'
        outb 0x20, 0x20
        iret
"""


def test_the_old_interrupt_chips() -> None:
    """PIC and PIT go on: a halted guest is woken and prints; the console is found from there on."""
    with machine(PIT_TICKS) as vm:
        vm.start()
        vm.console.expect("...", timeout=SECONDS)
        with vm.snapshot() as snap:
            vm.restore(snap)
            vm.console.expect("...", timeout=SECONDS)
            with snap.clone() as clone:
                clone.start()
                clone.console.expect("...", timeout=SECONDS)


#: Says "?", then waits for RESULTS + 8, reads COM1 until a newline, prints what it got.
READS = f"""
        mov ${RESULTS >> 4:#x}, %ax
        mov %ax, %fs
        outb 0x3f9, 1                           # interrupt at received data
        outb 0x3ff, 0x5a                        # the scratch register
        outb 0x3f8, '?'
1:      cmpb $0, %fs:8
        je 1b
2:      read_com1
        out %al, %dx
        cmp $10, %al
        jne 2b
        mov $0x3ff, %dx
        in %dx, %al
        mov $0xf4, %dx
        out %al, %dx
"""


def test_typed_and_not_yet_read() -> None:
    with machine(READS) as vm:
        vm.start()
        vm.console.expect("?", timeout=SECONDS)
        vm.console.send("typed before\n")
        with vm.snapshot() as snap, snap.clone() as clone:
            clone.start()
            clone.memory[RESULTS + 8] = 1
            clone.console.expect("typed before\n", timeout=SECONDS)
            assert clone.wait(SECONDS).status == (0x5A << 1 | 1) & 0xFF


def test_clones_side_by_side(driver: str) -> None:
    """Each has its own RAM and generation id; snapshot and first machine may be gone."""
    with contextlib.ExitStack() as stack:
        vm = stack.enter_context(running(COUNTS, driver))
        snap = vm.snapshot()
        began = snap.state["taken"]
        clones = [stack.enter_context(snap.clone()) for _ in range(3)]
        snap.close()
        assert time.time() - began < SECONDS
        first, ids = word(clones[0]), {vm.memory[GENERATION_GPA : GENERATION_GPA + 16]}
        for number, clone in enumerate(clones):
            assert word(clone) == first
            clone.memory[0x300000] = number + 1
            ids.add(clone.memory[GENERATION_GPA : GENERATION_GPA + 16])
            clone.start()
        assert len(ids) == 4
        assert bytes(16) not in ids
        vm.kill()
        assert vm.wait(SECONDS).kind == "quit"
        for number, clone in enumerate(clones):
            until(clone, lambda vm: word(vm) > first + 100, "a clone stands")
            assert clone.memory[0x300000] == number + 1
        with pytest.raises(ConfigError, match="snapshot: it is closed"):
            clones[0].restore(snap)


def test_again_and_again(driver: str) -> None:
    """200 times in a row (fewer where tests are scaled): the same every time, and nothing grows."""
    rounds = max(20, int(200 * SCALE))
    with running(TICKS, driver) as vm, vm.snapshot() as snap, snap.clone() as clone:
        clone.pause()
        clone.start()
        ticks = word(clone)
        clone.restore(snap)
        before, resident = descriptors(), rss_kib()
        for _ in range(rounds):
            clone.resume()
            until(clone, lambda vm: word(vm) > ticks, "no tick")
            clone.pause()
            clone.restore(snap)
            assert word(clone) == ticks
        assert descriptors().keys() == before.keys()
        assert rss_kib() - resident < 4 * MIB >> 10


def test_it_is_quick(driver: str) -> None:
    """A guest of 256 MiB, 32 of which it changes each time, is back in less than 100 ms."""
    with running(TICKS, driver, memory="256M") as vm:
        for at in range(32 * MIB, 64 * MIB, 4096):
            vm.memory[at] = 1
        with vm.snapshot() as snap:
            best = 1e9
            for _ in range(10):
                for at in range(64 * MIB, 96 * MIB, 4096):
                    vm.memory[at] = 1
                begin = time.monotonic()
                vm.restore(snap)
                best = min(best, time.monotonic() - begin)
                assert vm.memory[64 * MIB] == 0
                assert vm.memory[32 * MIB] == 1
            assert best < 0.1 or in_nested_host(), f"{best * 1000:.0f} ms"


def at_64k(vm: Machine, data: bytes | None = None) -> bytes:
    """Return (or write) a sector of the machine's disk."""
    view = memoryview(bytearray(512) if data is None else bytearray(data.ljust(512, b"\0")))
    (vm.disks[0].readv if data is None else vm.disks[0].writev)(65536, [view])
    return bytes(view).rstrip(b"\0")


def test_disks(tmp_path: pathlib.Path) -> None:
    """What a drive with snapshot=on has goes back, too; one that is written for good must not be.

    Booted by the BIOS, whose keys are a part as well.
    """
    path, file = tmp_path / "disk.img", tmp_path / "x.snap"
    # mov ax, RESULTS >> 4; mov ds, ax; 1: inc dword [0]; jmp 1b
    code = bytes.fromhex("b80080 8ed8 66ff060000 ebf9").ljust(510, b"\0") + b"\x55\xaa"
    path.write_bytes(code.ljust(MIB, b"\0"))
    with machine("", kernel=None, drives=[Drive(str(path), snapshot=True)]) as vm:
        vm.start()
        until(vm, word, "it does not boot")
        vm.console.send("keys")
        at_64k(vm, b"a")
        with vm.snapshot() as snap:
            at_64k(vm, b"b")
            for _ in range(2):
                vm.restore(snap)
                assert at_64k(vm) == b"a"
                assert [key & 0xFF for key in vm.bios.keyboard.waiting()] == list(b"keys")
                at_64k(vm, b"c")
            snap.save(file)
            with Snapshot.load(file) as loaded, snap.clone() as one, loaded.clone() as two:
                at_64k(one, b"one")
                assert [at_64k(each) for each in (vm, one, two)] == [b"c", b"one", b"a"]
                two.start()
                with two.snapshot() as again, again.clone() as three:
                    assert at_64k(three) == b"a"
            os.utime(path, ns=(1, 2))
            for act in (lambda: vm.restore(snap), snap.clone):
                with pytest.raises(ConfigError, match="disk .* changed since the snapshot"):
                    act()
            assert vm.ended is None
    assert path.read_bytes()[65536:65537] == b"\0"
    with machine("", kernel=None, disk=str(path)) as vm, vm.snapshot() as snap:
        vm.start()
        vm.restore(snap)
        at_64k(vm, b"for good")
        with pytest.raises(ConfigError, match="needs snapshot=on or readonly=on"):
            vm.restore(snap)
        assert at_64k(vm) == b"for good"


def test_refused() -> None:
    """One line each, and the machine goes on."""
    with machine(segmented("nop")) as vm:
        vm.start()
        with vm.snapshot() as snap:
            for options, what in (
                ({"memory": "4M"}, "had memory_bytes 2097152, this one 4194304"),
                ({"smp": 2}, "had smp Smp(cpus=1,"),
                ({"cpu": "host,hv_time"}, "had cpu 'host', this one 'host,hv_time'"),
            ):
                with machine(segmented("nop"), **options) as other:
                    with pytest.raises(ConfigError) as caught:
                        other.restore(snap)
                    assert what in str(caught.value)
                    other.start()
            with pytest.raises(ConfigError, match=r"memory=\.\.\.\): that is the snapshot's"):
                Machine(snapshot=snap, memory="4M")
            with Machine(snapshot=snap, time_limit=0.2) as clone:
                clone.start()
                assert clone.wait(SECONDS).kind == "time-limit"
                for act in (clone.snapshot, lambda: clone.restore(snap)):  # noqa: B023
                    with pytest.raises(ConfigError, match="the machine has stopped"):
                        act()
        assert vm.ended is None
    with machine(segmented("nop"), testdev=True) as vm:
        vm.start()
        with pytest.raises(ConfigError, match="the hyperv-testdev cannot be saved"):
            vm.snapshot()
        assert vm.ended is None
        assert not vm.paused


def test_not_from_a_hook() -> None:
    errors: list[str] = []

    def hook(event: object) -> None:
        try:
            vm.snapshot()
        except ConfigError as error:
            errors.append(str(error))

    with machine(segmented("in $0x80, %al")) as vm:
        vm.trace("pio", hook)
        vm.start()
        until(vm, lambda vm: errors, "no exit")
        assert "not on a vCPU's own thread" in errors[0]


def test_a_snapshot_of_a_machine_that_never_ran(driver: str) -> None:
    """It begins in each clone; and what it was made of is not looked at again until a reset."""
    kernel = pathlib.Path(guestcode.kernel(COUNTS))
    copy = kernel.with_name("copy-of-counts")
    copy.write_bytes(kernel.read_bytes())
    with Machine(kernel=str(copy), hyperv=driver, memory="16M") as vm, vm.snapshot() as snap:
        copy.unlink()
        with snap.clone() as clone:
            clone.start()
            until(clone, lambda vm: word(vm) > 1000, "it does not run")
            clone.reset()
            assert clone.wait(SECONDS).kind == "error"
    assert not os.path.exists(copy)
