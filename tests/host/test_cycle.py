"""A guest's life by pyhv takes no more than by QEMU with its Python package: docs/spec.md."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.host, pytest.mark.slow]


def test_a_life_beside_qemu() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/spec.py", "--cycle"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "missed" not in done.stdout
    assert "the whole process" in done.stdout
