"""pyhv shell on guests of a few lines: every command, breaking in by Ctrl-C, and after the end."""

from __future__ import annotations

import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import time

import guestcode
import pytest
from libguest import SECONDS

from pyhv.shell.commands import ROWS

pytestmark = pytest.mark.kvm

ROOT = pathlib.Path(__file__).parents[2]

#: prints, arms a timer at SINT3, and counts RBX up for ever, in a place that is known
COUNTS = """
        wrmsr_of 0x40000083, 0x402001           # HV_X64_MSR_SIMP
        wrmsr_of 0x40000080, 1                  # HV_X64_MSR_SCONTROL
        wrmsr_of 0x40000093, 0x50               # HV_X64_MSR_SINT3
        wrmsr_of 0x400000b1, 100000000          # HV_X64_MSR_STIMER0_COUNT: ten seconds
        wrmsr_of 0x400000b0, 0x30001            # HV_X64_MSR_STIMER0_CONFIG
        movq $0, 0x403000
        mov $0x12345678, %ebx
        outb 0x3f8, 'h'
        outb 0x3f8, 'i'
        outb 0x3f8, '\\n'
        jmp spin
        .org 0x4000
spin:   inc %rbx
        mov $0x3fd, %dx
        in %dx, %al
        test $1, %al
        jz spin
        mov $0x3f8, %dx
        in %dx, %al                             # what is typed
        out %al, %dx
        cmp $'q', %al
        jne spin
        power_off
"""
SPIN = guestcode.KERNEL + 0x4000


def shell(text: str, kernel: str, *options: str) -> tuple[str, int]:
    """Return what a shell printed that got these lines, and its status."""
    done = subprocess.run(
        [sys.executable, "-m", "pyhv", "shell", "-kernel", kernel, "-m", "16M", *options],
        input=text, capture_output=True, text=True, timeout=2 * SECONDS, cwd=ROOT,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout, done.returncode


def answers(output: str) -> list[tuple[str, str]]:
    """Return (command line, what it answered) in order."""
    parts = re.split(r"^\(pyhv\) (.*)\n", output, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


#: a line each, and what its answer must have
SESSION = (
    ("where", r"vcpu 0 \(runnable\)  0x100000:"),
    ("step", r"^vcpu 0 \(runnable\)  0x10000\d:"),
    ("step 3", r"(vcpu 0 .*\n){3}"),
    (f"break {SPIN:#x}", f"breakpoint at {SPIN:#x}"),
    ("break", f"breakpoint at {SPIN:#x}"),
    ("continue 60", rf"hi\nvcpu 0: breakpoint\nvcpu 0 \(runnable\)  {SPIN:#x}: .* incq? +%rbx"),
    ("registers", r"rip 0+104000 .*\n.*rbx 0+12345678 "),
    ("registers rbx rip", "rbx 0x12345678\nrip 0x104000"),
    ("continue 60", r"vcpu 0: breakpoint"),
    ("r rbx", "rbx 0x12345679"),
    ("set rbx 0x100", ""),
    ("s", "0x104003"),
    ("r rbx", "rbx 0x101"),
    ("disassemble rip 2", r"0x104003: .* movw? +\$0x3fd, ?%dx\n0x104007: .* inb? "),
    ("u", r"(0x1040.*\n){8}"),
    ("memory 0x104000 16", "000000104000  48 ff c3 66 ba fd 03"),
    ("x 0xfffffffff000", "0xfffffffff000: not mapped to RAM"),
    ("physical 0x104000 3", r"000000104000  48 ff c3 .* H\.\.$"),
    ("xp 0x7fffffff0", "gpa 0x7fffffff0, 0x40 bytes: not in guest RAM"),
    ("walk rip", r"PML4E  at 0x9000: 0x.*\n(.*\n){2}gpa 0x104003, page of 0x200000 bytes: wri"),
    ("walk 0x8000000000", "is not present"),
    ("walk 0x800000000000", "is not canonical"),
    ("gdt", r"0x0010  00af9b000000ffff  code, 64-bit"),
    ("idt", r"0x06 #UD  0x10:0x10\w+, interrupt, DPL 0"),
    ("lapic", r"id 0, version 0x[0-9a-f]+\nTPR 0x0 "),
    ("exits", r"out port 0x3f8|in port 0x3fd|wrmsr"),
    ("hyperv", r"STIMER0 0x30001 enable=1"),
    ("msrs", r"0x40000093 HV_X64_MSR_SINT3 +0x50"),
    ("sints", r"SynIC on\nSINT3  vector 0x50, slot empty"),
    ("timers", r"STIMER0 enable=1 periodic=0 .* sint=3 count=100000000"),
    ("python hex(vcpu.registers.rbx), vm.config.smp.cpus, memory.read_u32(0x403000)",
     r"\('0x101', 1, 0\)"),
    ("py x = 7", ""),
    ("py x + 1", "8"),
    ("py (", "which code, in one line"),
    ("vcpu", r"\* vcpu 0: runnable, rip 0x104003"),
    ("vcpu 0", r"\* vcpu 0"),
    ("vcpu 1", "vCPUs"),
    ("delete", "no breakpoints"),
    ("delete 0x1", "0x1: no breakpoint is there"),
    ("continue 0.2", r"0\.2 s are over\nvcpu 0 "),
    ("send ab", ""),
    ("until b 60", "the console shows 'b'"),
    ("until", "which text"),
    ("c never", "never: seconds, more than 0"),
    ("walk", "walk ADDRESS"),
    ("walk there", r"there: neither a number \(0x\.\.\.\) nor a register"),
    ("set rip", "set REGISTER VALUE"),
    ("set rop 1", "rop: no such register; there are rax, "),
    ("step none", "none: a number of instructions, 1 to 100000"),
    ("stop", "stop: no such command; did you mean step"),
    ("x 'rip", "No closing quotation"),
    ("help", r"continue \[SECONDS\]  \(c\) +let it run"),
    ("reset", r"vcpu 0 \(runnable\)  0x100000:"),
    ("r rbx", "rbx 0x0"),
    ("until hi 60", "hi\n"),
    ("send q", ""),
    ("continue 60", "the guest powered off"),
    ("where", "the machine has stopped: the guest powered off"),
    ("continue", "the machine has stopped: the guest powered off"),
    ("registers", r"no registers are left"),
    ("lapic", "the machine has stopped"),
    ("physical 0x104000 3", "48 ff c3"),
    ("quit", ""),
)  # fmt: skip


def test_every_command() -> None:
    """One long session; what each line must answer stands beside it."""
    lines = "# a comment\n\n" + "\n".join(line for line, _ in SESSION) + "\n"
    output, status = shell(lines, guestcode.kernel(COUNTS), "-cpu", "host,hv_time,hv_vpindex,"
                           "hv_synic,hv_stimer")  # fmt: skip
    found = answers(output)
    assert [line for line, _ in found] == [line for line, _ in SESSION], output
    for (line, answer), (_, wanted) in zip(found, SESSION, strict=True):
        assert re.search(wanted, answer, re.MULTILINE), f"{line}: {answer}"
        assert wanted or not answer, f"{line}: {answer}"
    assert status == 0
    used = {line.split()[0] for line, _ in SESSION}
    assert all(used & set(row.names) for row in ROWS)


def test_after_a_triple_fault() -> None:
    """The registers of the end and the RAM are still there, and the status is the guest's."""
    body = "mov $0xabcdef, %ebx\n lidt 0x7000\n ud2\n"
    output, status = shell(
        "continue 60\nregisters rbx\nwalk rip\ndisassemble rip 1\nexits\ngdt\nidt\n",
        guestcode.kernel(body),
    )
    assert status == 3
    found = answers(output)
    assert "triple fault" in found[0][1]
    assert "(status 3)" in found[0][1]
    if "lost its registers" in found[0][1]:  # KVM on AMD
        assert "no registers are left" in found[1][1]
        return
    assert found[1][1] == "rbx 0xabcdef\n"
    assert "page of 0x200000 bytes" in found[2][1]
    assert "ud2" in found[3][1]
    assert "SHUTDOWN" in found[4][1]
    assert "code, 64-bit" in found[5][1]
    assert "no gate is present" in found[6][1]


def test_real_mode() -> None:
    """16-bit code: CS:IP, the IVT, no paging; the end of the input ends the machine."""
    output, status = shell(
        "w\ns\nidt\nwalk 0x7c00\nx\n", guestcode.sector("movw $5, 0\n"), "-cpu", "host"
    )
    found = [answer for _, answer in answers(output)]
    assert re.search(r"0x7c00: .* xorw? +%ax, ?%ax", found[0])
    assert "0x7c02" in found[1]
    assert "base 0x0, limit 0x3ff" in found[2]
    assert found[3] == "gpa 0x7c00: paging is off\n"
    assert found[4].startswith("00000000")
    assert status == 0


def test_two_vcpus_and_no_hyperv() -> None:
    lines = "vcpu\nvcpu 1\nw\nmsrs\nsints\ntimers\n"
    output, _ = shell(lines, guestcode.kernel("hlt"), "-smp", "2", "-cpu", "host")
    found = [answer for _, answer in answers(output)]
    assert re.search(r"\* vcpu 0: runnable.*\n  vcpu 1: uninitialized, rip 0xfff0", found[0])
    assert "* vcpu 1" in found[1]
    assert found[2].startswith("vcpu 1 (uninitialized)  0xfffffff0: not mapped to RAM")
    assert found[3] == "the guest sees no Hyper-V\n"
    assert found[4] == "no SynIC: -cpu has no hv_synic\n"
    assert found[5] == "no synthetic timers: -cpu has no hv_stimer\n"


def test_a_halted_vcpu_does_not_step() -> None:
    output, _ = shell(
        "until z 60\ns\ns\n", guestcode.kernel("outb 0x3f8, 'z'\n sti\n 1: hlt\njmp 1b\n")
    )
    found = [answer for _, answer in answers(output)]
    assert "vcpu 0 did nothing in 5 s: it is halted" in found[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-gdb", "tcp::1"], "pyhv: -gdb: not in pyhv shell: the shell stops the machine itself"),
        (["-serial", "none"], "pyhv: -serial: not in pyhv shell: the shell shows the guest's"),
        (["-kernal", "x"], "pyhv: -kernal: no such option; did you mean -kernel?"),
    ],
)
def test_refusals(options: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyhv", "shell", *options],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(message)


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ["TERM"] = "dumb"
            # who runs the tests in the background has it ignored, and a child inherits that
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.execv(sys.executable, [sys.executable, "-m", "pyhv", "shell", *arguments])
        self.seen = ""

    def expect(self, text: str) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.seen:
            assert select.select([self.fd], [], [], deadline - time.monotonic())[0], self.seen
            self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def end(self) -> int:
        """Return its status."""
        try:
            while os.read(self.fd, 4096):
                pass
        except OSError:
            pass  # EIO: it has closed the terminal
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_on_a_terminal() -> None:
    """Ctrl-C breaks in, keys go to the guest while it runs, an empty line steps, Ctrl-D quits."""
    terminal = Terminal("-kernel", guestcode.kernel(COUNTS), "-m", "16M")
    terminal.expect("(pyhv) ")
    terminal.type("\n")
    terminal.expect("vcpu 0 (runnable)  0x10000")
    terminal.expect("(pyhv) ")
    terminal.type("c\n")
    terminal.expect("hi\r\n")
    terminal.type("k")
    terminal.expect("k")
    terminal.type("\x03")
    terminal.expect("Ctrl-C\r\nvcpu 0 ")
    terminal.expect("(pyhv) ")
    time.sleep(0.5)  # between its prompt and its first read, input() does not see a signal
    terminal.type("\x03")
    terminal.expect("(pyhv) ")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_a_signal_while_it_runs() -> None:
    """SIGTERM ends it as quit does, with the terminal given back."""
    terminal = Terminal("-kernel", guestcode.kernel(COUNTS), "-m", "16M")
    terminal.expect("(pyhv) ")
    terminal.type("c\n")
    terminal.expect("hi\r\n")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.end() == 0
