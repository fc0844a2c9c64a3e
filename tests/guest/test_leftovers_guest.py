"""The pytest plugin with real machines on pytest-xdist's workers: what a failed test leaves."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import guestcode
import pytest
from libguest import SECONDS

pytestmark = pytest.mark.kvm

ROOT = pathlib.Path(__file__).parents[2]
#: says its flags, then waits for what is typed
BODY = """
        wrmsr_of 0x40000000, 0x1234             # HV_X64_MSR_GUEST_OS_ID
        outb 0x3f8, 'o'
        outb 0x3f8, 'k'
        outb 0x3f8, '\\n'
        mov $0xabcdef, %ebx
1:      mov $0x3fd, %dx
        in %dx, %al
        test $1, %al
        jz 1b
        power_off
"""
TEST = """
import pytest

@pytest.mark.pyhv(kernel=KERNEL, memory="16M", smp=2, hyperv="user", time_limit=SECONDS)
def test_it(vm):
    vm.start()
    vm.console.expect("ok", timeout=SECONDS)
    assert False, "as it must"
"""


def test_what_is_left(tmp_path: pathlib.Path) -> None:
    """Console, registers of both vCPUs, the trace; and the command runs the same guest again."""
    kernel = guestcode.kernel(BODY)
    text = TEST.replace("KERNEL", repr(kernel)).replace("SECONDS", str(SECONDS))
    (tmp_path / "test_one.py").write_text(text)
    (tmp_path / "bin").mkdir()
    pyhv = tmp_path / "bin" / "pyhv"
    pyhv.write_text(f'#!/bin/sh\nexec {sys.executable} -m pyhv "$@"\n')
    pyhv.chmod(0o755)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "pyhv.pytest_plugin", "-p", "no:cacheprovider",
         "-n", "2", "--pyhv-artifacts=kept", "--pyhv-trace=msr", "--pyhv-budget=1G", "."],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3 * SECONDS,
    )  # fmt: skip
    assert "1 failed" in done.stdout, done.stdout + done.stderr
    (place,) = (tmp_path / "kept").iterdir()
    assert (place / "console.log").read_text() == "ok\n"
    registers = (place / "registers.txt").read_text()
    assert "rbx 0000000000abcdef" in registers
    assert "registers of vcpu 1:" in registers
    assert "HV_X64_MSR_GUEST_OS_ID" in (place / "trace.txt").read_text()
    assert "it still ran when the test ended" in (place / "report.txt").read_text()
    again = subprocess.run(
        [place / "command.sh"], input="x", cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=2 * SECONDS,
    )  # fmt: skip
    assert (again.returncode, again.stdout) == (0, "ok\n"), again.stderr
