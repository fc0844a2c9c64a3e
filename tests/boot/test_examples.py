"""examples/: each runs as its README says, in a process of its own, and nothing is skipped."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import BOOT_S, ROOT, drivers, image

pytestmark = [pytest.mark.boot, pytest.mark.kvm]

EXAMPLES = ROOT / "examples"
TEXT = (EXAMPLES / "README.md").read_text()
COMMANDS = re.findall(r"^\$ python3 (.*)$", TEXT, re.MULTILINE)
PLUGIN = ("-m", "pytest", "-p", "pyhv.pytest_plugin")


def run(*words: str) -> str:
    """Return what ``python3 WORDS`` in the checkout printed, stderr too; it must succeed."""
    path = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=os.environ | {"PATH": path}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=3 * BOOT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme(command: str) -> None:
    text = run(*command.split())
    assert "1 passed" in text or "Ran 1 test" in text, text
    assert "skipped" not in text


def test_a_kernel_of_ones_own() -> None:
    """The README's options name the guest."""
    assert "examples/test_module.py --kernel bzImage --initrd initrd.img" in TEXT
    initrd = image("initramfs", "trixie", "--module", "brd")[0]
    text = run(*PLUGIN, "examples/test_module.py", "--kernel", image("kernel", "trixie")[0],
               "--initrd", initrd)  # fmt: skip
    assert "1 passed" in text


@pytest.mark.parametrize("flags", ["none", "direct"])
def test_matrix(flags: str) -> None:
    """The first and the last set of flags, under every driver that is here."""
    file = "examples/test_module_matrix.py"
    tests = [f"{file}::test_brd[{driver}-{flags}]" for driver in drivers()]
    assert f"{len(drivers())} passed" in run(*PLUGIN, *tests)


def test_they_are_all_named() -> None:
    assert all(f"]({path.name})" in TEXT for path in EXAMPLES.glob("*.py"))
