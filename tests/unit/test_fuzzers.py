"""Every device has a fuzzer; a fuzzer that finds something says what to do to see it again."""

from __future__ import annotations

import importlib
import os
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

import pyhv.vmbus
from pyhv.vmbus.device import Device

TESTS = pathlib.Path(__file__).parents[1]
#: what the guest can shake that is no VMBus device
OTHERS = {"VmbusServer", "Cdrom", "MSRs", "hypercalls"}


def kinds(base: type) -> set[str]:
    """Return the names of all devices of pyhv: classes that nothing is derived from."""
    found = set()
    for one in base.__subclasses__():
        if one.__module__.startswith("pyhv.vmbus."):
            found |= kinds(one) or {one.__name__}
    return found


def test_every_device_has_a_fuzzer() -> None:
    for module in pkgutil.iter_modules(pyhv.vmbus.__path__):
        importlib.import_module(f"pyhv.vmbus.{module.name}")
    fuzzed = set()
    for path in TESTS.rglob("test_*.py"):
        for names in re.findall(r"^@pytest\.mark\.fuzz\((.*)\)$", path.read_text(), re.MULTILINE):
            fuzzed |= set(re.findall(r'"(\w+)"', names))
    assert fuzzed == kinds(Device) | OTHERS


BUGS = {
    "an exception": ("if turn == 7: raise KeyError(turn)", "round 7"),
    "a list that grows": ("kept.append(bytes(9))", "more objects than after half of 9"),
    "a buffer that grows": ("kept[0] += bytes(5000)", "KiB more than after half of 9"),
}
FUZZER = """
import pytest
from fuzzing import SEEDS

kept = [bytearray()]

@pytest.mark.fuzz('it')
@SEEDS
def test_it(fuzz, seed):
    for turn in fuzz.rounds(9000):
        BUG
"""


@pytest.mark.parametrize("name", BUGS)
def test_a_fuzzer_can_fail(tmp_path, name: str) -> None:
    bug, text = BUGS[name]
    (tmp_path / "test_it.py").write_text(FUZZER.replace("BUG", bug))
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "PYHV_FUZZ_SEED": "40"}
    command = [sys.executable, "-m", "pytest", "-p", "fuzzing", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "test_it.py::test_it[41]"], cwd=tmp_path, env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert text in done.stdout
    assert "seed 41, round " in done.stdout
    assert "PYHV_FUZZ_SEED=40 python -m pytest 'test_it.py::test_it[41]'" in done.stdout
