"""What kvm-unit-tests' Hyper-V tests ask of a VMM, asked by small flats of our own (conformance/).

They are started as those are: ``pyhv run -kernel x.flat -smp N -device hyperv-testdev``, and
their verdict is the exit status. Under --hyperv user everywhere; under the kernel's Hyper-V
where this KVM has one.
"""

from __future__ import annotations

import functools
import pathlib
import subprocess
import sys

import guestcode
import pytest
from libguest import SCALE

from pyhv.kvm.system import Kvm

pytestmark = pytest.mark.kvm

HERE = pathlib.Path(__file__).parent / "conformance"
ROOT = HERE.parents[2]
#: isa-debug-exit makes 2 * n + 1 of what a flat writes, as kvm-unit-tests have it
PASSED, FAILED, ABORTED = 1, 3, 127
LINES = {"synic": 7, "connections": 19, "stimer": 14, "clock": 6}  # a CPU


@functools.cache
def flat(name: str, before: str = "") -> str:
    """Return the path of a flat; *before* goes ahead of its source."""
    source = before + (HERE / "flat.S").read_text() + (HERE / f"{name}.S").read_text()
    return guestcode._build(source, "32", "-m", "elf_i386", f"-Ttext={0x200000:#x}")


@functools.cache
def kernel_has_hyperv() -> bool:
    """Tell whether the in_kernel driver can run here."""
    kvm = Kvm()
    try:
        return kvm.has_hyperv()
    finally:
        kvm.close()


@pytest.fixture(params=["user", "kernel"])
def driver(request: pytest.FixtureRequest) -> str:
    """A value for --hyperv."""
    if request.param == "kernel" and not kernel_has_hyperv():
        pytest.skip("this host's KVM has no Hyper-V")
    return str(request.param)


def run(path: str, driver: str, cpus: int, *more: str) -> tuple[int, list[str], str]:
    """Return the exit status, the lines of the guest and what pyhv said."""
    line = (
        f"-m pyhv run --hyperv {driver} -smp {cpus} -cpu host,hv_passthrough --time-limit 100 "
        f"-no-reboot -device isa-debug-exit,iobase=0xf4,iosize=0x4 -kernel {path}"
    )
    done = subprocess.run(
        [sys.executable, *line.split(), *more],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("name", LINES)
def test_flat(name: str, cpus: int, driver: str) -> None:
    """The flat passes: status 1, every CPU said all its lines, none of them FAIL."""
    before = f".set ROUNDS, {int(10000 * SCALE)}\n.set TICKS, {int(200 * SCALE)}\n"
    status, lines, said = run(flat(name, before), driver, cpus, "-device", "hyperv-testdev")
    assert not [line for line in lines if not line.startswith("PASS: ")], said
    assert len(lines) == len(set(lines)) == LINES[name] * cpus
    assert status == PASSED


def test_a_failed_check_is_status_3(driver: str) -> None:
    """Without the device nobody echoes a message: the same flat says FAIL, and the status is 3."""
    hurry = ".set LIMIT, 0\n"  # do not wait for what cannot come
    status, lines, _ = run(flat("connections", hurry), driver, 1)
    assert status == FAILED
    assert "FAIL: post to self: status, vcpu 0" in lines
    assert "PASS: destroyed event connection: 0x12, vcpu 0" in lines


def test_a_fault_is_status_127(driver: str) -> None:
    """The value 63, with which kvm-unit-tests abort."""
    body = (HERE / "flat.S").read_text() + "\ntest: ud2\n"
    path = guestcode._build(body, "32", "-m", "elf_i386", f"-Ttext={0x200000:#x}")
    assert run(path, driver, 1)[0] == ABORTED


def test_without_a_synic_the_device_is_silent(driver: str) -> None:
    """Port 0x3000 swallows every command; the guest goes on."""
    commands = "".join(
        f"mov ${control << 16 | 0x05:#x}, %eax\n mov $0x3000, %dx\n out %eax, %dx\n in %dx, %eax\n"
        for control in range(9)
    )
    path = guestcode.flat(f"{commands} mov $0xf4, %dx\n out %eax, %dx\n 1: hlt\n jmp 1b")
    line = ["-device", "hyperv-testdev", "-cpu", "host"]
    assert run(path, driver, 1, *line)[0] == PASSED


def test_the_device_takes_anything(driver: str) -> None:
    """Random commands, and random bytes of each width: the guest comes to its end."""
    body = f"""
        mov $0x9e3779b97f4a7c15, %r15
        mov $0x40000080, %ecx                   # the SynIC on, its pages in RAM
        mov $1, %eax
        xor %edx, %edx
        wrmsr
        mov $0x40000083, %ecx
        mov $0x300001, %eax
        wrmsr
        mov $0x40000082, %ecx
        mov $0x301001, %eax
        wrmsr
        mov ${int(50000 * SCALE)}, %ebp
1:      call random
        mov $0x3000, %dx
        out %eax, %dx                           # mostly nonsense
        and $0xff070f0f, %eax                   # mostly sense
        out %eax, %dx
        out %al, %dx
        out %ax, %dx
        in %dx, %eax
        dec %ebp
        jnz 1b
        exit 0
"""
    status, _, said = run(guestcode.kernel(body), driver, 2, "-device", "hyperv-testdev")
    assert status == PASSED, said
