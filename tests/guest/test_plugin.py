"""The pytest plugin with real machines: a pass, a failure with what it leaves, a hang."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import guestcode
import pytest
from libguest import SECONDS

pytestmark = pytest.mark.kvm
ROOT = pathlib.Path(__file__).parents[2]

TESTS = """
import pytest

@pytest.mark.pyhv(kernel={ends!r}, cpu="host", memory="2M")
def test_ends(vm):
    vm.start()
    assert vm.wait(60).status == 7

@pytest.mark.pyhv(kernel={faults!r}, cpu="host", memory="2M")
def test_faults(vm):
    vm.start()
    assert vm.wait(60).status == 7

@pytest.mark.pyhv(kernel={hangs!r}, cpu="host", memory="2M", smp=2)
def test_hangs(vm):
    vm.start()
    vm.console.expect("never", timeout=0.5)
"""


def test_plugin(tmp_path: pathlib.Path) -> None:
    ends = guestcode.sector("outb 0x3f8, 'x'\n exit 3")
    faults = guestcode.flat("ud2")
    hangs = guestcode.sector("outb 0x3f8, 'h'\n outb 0x3f8, 'i'\n 1: jmp 1b")
    (tmp_path / "test_it.py").write_text(TESTS.format(ends=ends, faults=faults, hangs=hangs))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "pyhv.pytest_plugin", "-p", "no:cacheprovider",
         "--strict-markers", "--pyhv-artifacts", str(tmp_path / "kept"), str(tmp_path)],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYHV_REQUIRE_KVM": "1"},
        capture_output=True, text=True, timeout=2 * SECONDS,
    )  # fmt: skip
    text = done.stdout
    assert re.search(r"2 failed, 1 passed", text), text + done.stderr
    assert "triple fault" in text
    assert "it still ran when the test ended" in text
    assert "registers of vcpu 0:" in text
    assert f"-kernel {hangs}" in text
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert len(kept) == 2, kept
    (hung,) = (tmp_path / "kept").glob("*hangs*")
    assert (hung / "console.log").read_bytes() == b"hi"
