"""The plugin under pytest-xdist: workers of this host, and two behind sockets."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import pytest
from fake_plugin import FAKE

pytest_plugins = ["pytester"]

ROOT = pathlib.Path(__file__).parents[2]
#: each notes when its machine was there, on a clock that all processes share
NOTES = """
import time
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(vm_factory, number):
    vm = vm_factory(memory="64M")
    begin = time.monotonic()
    vm.start()
    time.sleep(0.3)
    with open(FILE, "a") as file:
        print(begin, time.monotonic(), file=file)
"""
FAILS = """
def test_it(vm):
    vm.start()
    assert False
"""
FOUR = """
import pytest
@pytest.mark.parametrize("number", range(4))
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Run pytest on *tests*."""

    def go(tests: str, *options: str) -> pytest.RunResult:
        pytester.makeconftest(FAKE.replace("WHY", "''"))
        pytester.makepyfile(tests)
        return pytester.runpytest_subprocess("-p", "pyhv.pytest_plugin", *options)

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return go


def spans(path: pathlib.Path) -> list[tuple[float, float]]:
    """Return when machines were there, in order."""
    lines = path.read_text().splitlines()
    return sorted((float(begin), float(end)) for begin, end in map(str.split, lines))


def most_at_once(found: list[tuple[float, float]]) -> int:
    return max(sum(begin <= at < end for begin, end in found) for at, _ in found)


@pytest.mark.parametrize(("budget", "most"), [("100M", 1), ("200M", 2)])
def test_workers_share_the_budget(run, pytester, budget: str, most: int) -> None:
    """Four workers with a machine of 64 MiB each, and 32 beside it: as many as fit are there."""
    path = pytester.path / "spans"
    text = NOTES.replace("FILE", repr(str(path)))
    run(text, "-n", "4", f"--pyhv-budget={budget}").assert_outcomes(passed=4)
    found = spans(path)
    assert len(found) == 4
    assert most_at_once(found) <= most


def test_what_workers_leave(run, pytester: pytest.Pytester) -> None:
    """The controller writes the files and the properties."""
    found = run(FAILS, "-n", "2", "--pyhv-artifacts=kept", "--pyhv-trace=msr", "--junitxml=j.xml",
                "-o", "junit_family=xunit1")  # fmt: skip
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(["*machine 0*", "command: pyhv run*", "*| hello from the guest*"])
    (place,) = (pytester.path / "kept").iterdir()
    assert {path.name for path in place.iterdir()} == {
        "console.log", "report.txt", "command.sh", "registers.txt", "trace.txt"
    }  # fmt: skip
    properties = {
        item.get("name") for item in ElementTree.parse(pytester.path / "j.xml").iter("property")
    }
    assert {"pyhv_command", "pyhv_driver", "pyhv_stop"} <= properties


@contextlib.contextmanager
def server(folder: pathlib.Path) -> Iterator[int]:
    """Serve execnet on a port of this host, from another folder: a remote machine."""
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "execnet.script.socketserver", "127.0.0.1:0"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        yield int(line.rpartition(",")[2].strip(" )\n"))
    finally:
        process.kill()
        process.communicate()


def test_two_remote_workers(run, pytester: pytest.Pytester, tmp_path_factory) -> None:
    """Their machines run there; what they leave is written here."""
    theirs = [tmp_path_factory.mktemp("remote") / "there" for _ in range(2)]
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(server(there)) for there in theirs]
        places = zip(ports, theirs, strict=True)
        workers = [f"--tx=socket=127.0.0.1:{port}//chdir={there}" for port, there in places]
        found = run(
            FAILS.replace("def test_it(vm)", FOUR + "def test_it(vm, number)"),
            "-W", "ignore::DeprecationWarning", "-d", *workers,
            "--rsyncdir", str(pytester.path), "--pyhv-artifacts=kept", "--pyhv-budget=1G",
            str(pytester.path / "test_two_remote_workers.py"),
        )  # fmt: skip
    found.assert_outcomes(failed=4)
    kept = list((pytester.path / "kept").iterdir())
    assert len(kept) == 4
    for place in kept:
        assert (place / "console.log").read_bytes().startswith(b"hello from the guest")
    for there in theirs:  # the machines were there
        assert set((there / "closed").read_text().split()) == {"256"}
    assert not (pytester.path / "closed").exists()
