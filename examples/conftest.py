"""Which Debian guest the examples run: options, or Debian's own kernel and an initramfs for it."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --kernel and --initrd."""
    parser.addoption("--kernel", metavar="FILE", help="a bzImage; default: Debian trixie's")
    parser.addoption("--initrd", metavar="FILE", help="an initramfs that has /modules/brd.ko")


def made(*words: str) -> str:
    """Return the first path that tools/debian_image.py prints."""
    command = [sys.executable, ROOT / "tools" / "debian_image.py", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


@pytest.fixture(scope="session")
def linux(pytestconfig: pytest.Config) -> dict[str, object]:
    """Options of a machine with that guest, and a shell in it for ``vm.run``."""
    option = pytestconfig.getoption
    return {
        "kernel": option("--kernel") or made("kernel", "trixie"),
        "initrd": option("--initrd") or made("initramfs", "trixie", "--module", "brd"),
        "append": "console=ttyS0 quiet", "memory": "256M", "agent": True,
    }  # fmt: skip
