"""Debian's gdb at a real guest: breakpoints of every kind, steps, registers, memory, monitor."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
import time

import guestcode
import pytest
from guestcode import RESULTS
from libguest import SECONDS

from pyhv import Machine

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(not shutil.which("gdb"), reason="gdb is not installed: apt install gdb"),
]
GDB_S = 4 * SECONDS  # where the guest is stepped on an emulated host
ROOT = pathlib.Path(__file__).parents[2]

LOOP = f"""
        mov $0x1122334455667788, %rbx
        xor %r15d, %r15d
        movq $0, {RESULTS}
again:  incq {RESULTS}
spot:   nop
        nop
hard:   mov $0x5a, %eax
        mov %rax, {RESULTS + 8}
after:  nop
        {{own}}                                 # its own INT3: its handler skips nothing
        nop
        cmp $0x77, %r15
        jne again
        exit 9
"""


def loop() -> str:
    """Return the guest's code. Its handler for #BP returns behind its INT3."""
    with Machine(kernel=guestcode.kernel("movq $0, skip\nint3\nexit 9"), memory="2M") as vm:
        vm.start()
        stop = vm.wait(SECONDS)
    # a software KVM may emulate no INT3 at all: KVM_INTERNAL_ERROR_EMULATION
    assert stop.status == 19 or stop.kind == "kvm-error", stop
    return "movq $0, skip\n" + LOOP.format(own="int3" if stop.status == 19 else "nop")


class Gdb:
    """pyhv run -S -gdb, and what gdb's *script* printed."""

    def __init__(self, folder: pathlib.Path, kernel: str, *options: str) -> None:
        self.kernel, self.socket = kernel, str(folder / "gdb")
        self.symbols = pathlib.Path(kernel).read_bytes()[:4] == b"\x7fELF"
        command = [sys.executable, "-m", "pyhv", "run", "-kernel", self.kernel, "-m", "16M",
                   "-gdb", f"unix:{self.socket}", *options]  # fmt: skip
        self.process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        deadline = time.monotonic() + SECONDS
        while not pathlib.Path(self.socket).exists():
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)

    def run(self, script: str) -> str:
        symbols = [f"file {self.kernel}"] if self.symbols else []
        commands = ["set pagination off", "set confirm off", *symbols,
                    f"target remote {self.socket}", *script.strip().splitlines()]  # fmt: skip
        words = [word for line in commands for word in ("-ex", line.strip())]
        gdb = shutil.which("gdb")
        assert gdb is not None, "gdb is not installed: apt install gdb"
        done = subprocess.run(
            [gdb, "-nx", "-batch", *words], capture_output=True, text=True, timeout=GDB_S
        )
        return done.stdout + done.stderr

    def end(self) -> tuple[int, str]:
        try:
            _, said = self.process.communicate(timeout=SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
        return self.process.returncode, said


def test_a_session(tmp_path: pathlib.Path, driver: str) -> None:
    """All that the documentation promises, in one go; the guest's own INT3 stays the guest's."""
    gdb = Gdb(tmp_path, guestcode.kernel(loop()), "-S", "-smp", "2", "--hyperv", driver)
    shown = gdb.run(f"""
        info threads
        break spot
        continue
        info registers rip rbx
        x/2i $pc
        continue
        print *(long*){RESULTS}
        delete
        stepi
        print/x $pc - (long)&spot
        hbreak hard
        continue
        print/x $pc - (long)&hard
        delete
        watch *(long*){RESULTS + 8}
        set var *(long*){RESULTS + 8} = 1
        continue
        print/x $pc - (long)&after
        delete
        monitor hyperv
        monitor walk 0x100000
        monitor exits
        monitor nonsense
        print $cr0 & 1
        thread 2
        info registers rip
        thread 1
        set var $r15 = 0x77
        continue
    """)
    status, said = gdb.end()
    assert status == 19, shown + said
    assert "Thread 1.2 (vCPU 1, uninitialized)" in shown.replace("Thread 2 ", "Thread 1.2 "), shown
    assert "rbx            0x1122334455667788" in shown
    assert re.search(r"=> 0x[0-9a-f]+ <spot>:\s+nop", shown), shown
    values = re.findall(r"^\$\d+ = (\S+)$", shown, re.MULTILINE)
    assert values == ["2", "0x1", "0x0", "0x0", "1"], shown
    assert "Hardware watchpoint" in shown
    assert "Hyper-V by in_" in shown
    assert "gpa 0x100000" in shown
    assert "nonsense: no such command" in shown
    assert "exited with code 023" in shown, shown


def test_interrupt_detach_and_come_back(tmp_path: pathlib.Path) -> None:
    """A running guest stops for a debugger, runs on when it leaves, and stops for the next."""
    gdb = Gdb(tmp_path, guestcode.kernel("nop\nagain: incq 0x80000\n jmp again"))
    try:
        first = gdb.run("print *(long*)0x80000\n break again\n continue\n detach")
        assert re.search(r"Breakpoint 1, 0x\w+ in again", first), first
        time.sleep(0.2)
        second = gdb.run("print *(long*)0x80000\n x/i &again\n monitor quit")
        counts = [int(n) for n in re.findall(r"^\$1 = (\d+)$", first + second, re.MULTILINE)]
        assert counts[1] > counts[0], first + second
        assert "int3" not in second
    finally:
        status, said = gdb.end()
    assert status == 130, said


def test_real_mode(tmp_path: pathlib.Path) -> None:
    """A boot sector: breakpoints by linear address, and memory without page tables."""
    gdb = Gdb(tmp_path, guestcode.sector("mov $0x1234, %bx\n nop\n exit 4"), "-S", "-cpu", "host")
    shown = gdb.run("x/1xh 0x7dfe\n hbreak *0x7e03\n continue\n print/x $rbx & 0xffff\n continue")
    status, said = gdb.end()
    assert status == 9, shown + said
    assert "0xaa55" in shown
    assert "$1 = 0x1234" in shown, shown
