"""The BIOS under KVM: the few real instructions of bios.S, and the demo disk."""

from __future__ import annotations

import pathlib
import re

import pytest
from boot_sector import assemble

from pyhv import Machine
from pyhv.boot.bios import firmware_file

pytestmark = pytest.mark.kvm

SECONDS = 30


def run(folder: pathlib.Path, body: str, **options: object) -> tuple[str, object, Machine]:
    """Run a boot sector to its end; return what it printed, why it ended, and the machine."""
    options = {"memory": "16M", "cpu": "host"} | options
    with Machine(disk=assemble(folder, body), **options) as vm:
        vm.start()
        stop = vm.wait(SECONDS)
        return vm.console.text(), stop, vm


# body, what it prints
PROGRAMS = {
    "carry of a good and a bad call": (
        "mov $0x2401, %ax\n int $0x15\n call ok\n mov $0x5300, %ax\n int $0x15\n call ok", "+-",
    ),
    "flags that a service does not own survive": (
        "std\n stc\n mov $0x12, %ah\n int $0x12\n call ok\n pushf\n pop %ax\n shr $10, %ax\n"
        "and $1, %ax\n cld\n call hex", "-0001",
    ),
    "conventional memory": ("int $0x12\n call hex", "027F"),
    "zero flag of an empty keyboard": (
        "mov $1, %ah\n int $0x16\n clc\n jz 1f\n stc\n 1: call ok", "+",
    ),
    "sector by CHS": (
        "mov $0x0201, %ax\n mov $3, %cx\n mov $0, %dh\n mov $0x600, %bx\n int $0x13\n call ok\n"
        "mov 0x600, %ax\n call hex", "+0202",
    ),
    "sector that is not there": (
        "mov $0x0201, %ax\n mov $63, %cx\n mov $0, %dh\n mov $0x600, %bx\n int $0x13\n"
        "call ok", "-",
    ),
    "ticks of IRQ 0": (
        "mov 0x46c, %eax\n 1: hlt\n cmp 0x46c, %eax\n je 1b\n mov 0x46c, %ebx\n sub %eax, %ebx\n"
        "mov %bx, %ax\n call hex", "0001",
    ),
    "user's tick INT 1Ch": (
        "movw $1f, 0x1c*4\n movw $0, 0x1c*4+2\n 0: hlt\n cmpb $0, 0x500\n je 0b\n mov $'t', %al\n"
        "call print\n jmp power_off\n 1: incb %cs:0x500\n iret", "t",
    ),
    "midnight": (
        "movl $0x1800af, 0x46c\n movb $0, 0x470\n 1: hlt\n cmpl $0x1800af, 0x46c\n je 1b\n"
        "mov $0, %ah\n int $0x1a\n push %dx\n call hex\n pop %ax\n call hex", "00010000",
    ),
    "wait of 3 ms": ("mov $0x86, %ah\n xor %cx, %cx\n mov $3000, %dx\n int $0x15\n call ok", "+"),
    "unknown service": (
        "mov $0x77, %ah\n int $0x15\n call ok\n mov $0x77, %ah\n int $0x60\n call ok", "--",
    ),
    "spoilt vectors and a jump to ffff:0000": (
        "mov $'r', %al\n call print\n cmpl $0x1234, 0x500\n je power_off\n movl $0x1234, 0x500\n"
        "movl $0, 0x13*4\n movl $0, 0x19*4\n ljmp $0xffff, $0", "r\r\nr",
    ),
    "32-bit halves of registers survive": (
        "mov $0xabcd0100, %eax\n mov $0x12340000, %edx\n int $0x1a\n shr $16, %eax\n push %edx\n"
        "call hex\n pop %eax\n shr $16, %eax\n call hex", "ABCD1234",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(tmp_path: pathlib.Path, name: str) -> None:
    """A boot sector prints what it found by INT 10h, then powers off."""
    body, expected = PROGRAMS[name]
    text, stop, _ = run(tmp_path, body)
    assert (stop.kind, stop.status) == ("poweroff", 0)
    assert text.strip().replace("\r\n\r\n", "\r\n") == expected.strip()


def test_key_is_waited_for_and_read(tmp_path: pathlib.Path) -> None:
    """INT 16h AH=00h: the vCPU halts meanwhile, and answers a key within a PIT tick or two."""
    body = "mov $'?', %al\n call print\n mov $0, %ah\n int $0x16\n call hex"
    with Machine(disk=assemble(tmp_path, body), memory="16M", cpu="host") as vm:
        vm.start()
        vm.console.expect("?", timeout=SECONDS)
        vm.console.send(b"k")
        assert vm.wait(SECONDS).kind == "poweroff"
        assert "256B" in vm.console.text()


def test_write_reaches_the_image(tmp_path: pathlib.Path) -> None:
    """INT 13h AH=43h, and the file has it afterwards."""
    body = """
        movl $0x64726177, 0x600
        mov $0x4300, %ax
        mov $0x80, %dl
        mov $1f, %si
        int $0x13
        call ok
        jmp power_off
1:      .byte 16, 0
        .word 1, 0x600, 0
        .quad 2
"""
    text, _, _ = run(tmp_path, body)
    assert text == "+"
    assert (tmp_path / "a.img").read_bytes()[1024:1028] == b"ward"


@pytest.mark.parametrize(
    ("body", "what"), [("ud2", "#UD, undefined opcode"), ("int $0x0d", "#GP, general protection")]
)
def test_unhandled_exception_stops_with_a_reason(
    tmp_path: pathlib.Path, body: str, what: str
) -> None:
    """It would fault for ever; IRQ 5's vector is told from #GP's by the 8259."""
    _, stop, _ = run(tmp_path, body)
    assert stop.kind == "stuck"
    assert what in stop.text
    assert "0000:7c" in stop.text


def test_disk_without_a_boot_sector(tmp_path: pathlib.Path) -> None:
    """One line, and its own kind of ending."""
    path = tmp_path / "empty.img"
    path.write_bytes(bytes(4096))
    with Machine(disk=str(path), memory="16M", cpu="host") as vm:
        vm.start()
        stop = vm.wait(SECONDS)
    assert (stop.kind, stop.status) == ("no-boot", 1)
    assert "sector 0 ends in 00 00, not 55 aa" in stop.text


def demo(**options: object) -> str:
    """Run the demo disk; return its text."""
    with Machine(disk=firmware_file("demo.img"), **options) as vm:
        vm.start()
        stop = vm.wait(SECONDS)
        assert (stop.kind, stop.status) == ("poweroff", 0)
        assert not vm.bios.unknown_calls()
        return vm.console.text()


def test_demo_uses_all_that_it_finds() -> None:
    """The default machine: clocks, hypercalls and both kinds of timer; figures, not wishes."""
    text = demo()
    assert text.startswith("pyhv demo disk, loaded by INT 13h\r\n")
    assert "interface Hv#1" in text
    assert "virtual processor: index 0" in text
    assert "gives status 0, a round trip takes " in text
    assert re.search(r"a read by MSR takes [1-9]\d* ns", text)
    assert re.search(r"sequence [1-9]\d*, scale 0x\w{16}, offset -?\d+, a read takes \d+ ns", text)
    assert re.search(r"a read takes \d+ ns, at CPL 3 \d+ ns\r\n", text)
    assert re.search(r"clocks agree: page read \d+ x 100 ns after .* and \d+ before", text)
    timers = re.findall(r"(\d+) of 50 ticks of 2 ms in (\d+)\.\d\d ms", text)
    assert len(timers) == 2
    for ticks, elapsed_ms in timers:
        # never early; on a loaded host ticks are skipped, until the demo gives up after a second
        assert int(ticks) >= 20
        assert int(elapsed_ms) >= 2 * int(ticks) - 3
    assert text.endswith("powering off (ACPI S5)\r\n")


@pytest.mark.parametrize(
    ("cpu", "line"),
    [
        ("host", "no Hyper-V here: "),
        ("host,hv_relaxed", "no reference counter: 40000003.EAX[1] is clear"),
        ("host,hv_time", "no SynIC: 40000003.EAX[2] is clear"),
        ("host,hv_vpindex,hv_synic", "no synthetic timers: 40000003.EAX[3] is clear"),
        ("host,hv_vpindex,hv_synic,hv_time,hv_stimer", "no direct timers: 40000003.EDX[19]"),
    ],
)
def test_demo_names_what_is_missing(cpu: str, line: str) -> None:
    """Without a feature it says so, and still powers off."""
    assert line in demo(cpu=cpu)
