"""The nested host keeps its promises: what a command sees, and what comes back."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

NESTED = Path(__file__).with_name("nested")
TRICKY = ["a  b", "it's", 'say "hi"', "$HOME `id` \\", "*", "", "new\nline", "é"]

# Runs inside, with the Python of this machine.
PROBE = """
import ctypes, json, os, sys, time
KVM_CHECK_EXTENSION, KVM_CAP_HYPERV = 0xAE03, 44
kvm = os.open("/dev/kvm", os.O_RDWR)
with open(os.environ["TMPDIR"] + "/file", "w") as file:
    file.write("x")
print(json.dumps({
    "arguments": sys.argv[1:],
    "hyperv": ctypes.CDLL(None).ioctl(kvm, ctypes.c_ulong(KVM_CHECK_EXTENSION), KVM_CAP_HYPERV),
    "folder": os.getcwd(),
    "variables": [os.environ.get(name) for name in ("PYHV_TEST", "HOME", "PATH", "OTHER")],
    "input": sys.stdin.read(),
    "time": time.time(),
}))
sys.stdout.flush()
print("to stderr", file=sys.stderr)
open("/dev/stdout", "w").write("to /dev/stdout\\n")
os.system("sleep 1000 &")  # a daemon left behind must not hold up the end
sys.exit(37)
"""


def leftovers() -> set[str]:
    return {str(path) for path in Path(tempfile.gettempdir()).glob("pyhv-nested-*")}


@pytest.mark.host
def test_a_command_runs_as_it_would_here(tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    variables = {**os.environ, "PYHV_TEST": "two  words", "OTHER": "stays outside"}
    done = subprocess.run(
        [sys.executable, NESTED, "--timeout", "120", sys.executable, "-c", PROBE, *TRICKY],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 37, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1:] == ["to stderr", "to /dev/stdout"]
    seen = json.loads(lines[0])
    assert seen["arguments"] == TRICKY
    assert seen["hyperv"] > 0
    assert seen["folder"] == str(folder)
    assert seen["variables"] == ["two  words", os.environ["HOME"], os.environ["PATH"], None]
    assert seen["input"] == ""
    assert abs(seen["time"] - time.time()) < 60


@pytest.mark.host
def test_the_time_limit_ends_everything() -> None:
    before = leftovers()
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, NESTED, "--timeout", "20", "sh", "-c", "echo started; exec sleep 1000"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 124, done.stderr
    assert done.stdout == "started\n"
    assert done.stderr == "nested: killed after 20 s\n"
    assert time.monotonic() - started < 30
    assert leftovers() <= before


def test_apt_sources_of_both_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.path.insert(0, str(NESTED.parent))
    import debian

    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://no/debian trixie main\n"
        "deb-src http://no/debian trixie main\n"
        "deb [arch=amd64 signed-by=/k] http://one/debian trixie main # comment\n"
    )
    (tmp_path / "sources.list.d/x.sources").write_text(
        textwrap.dedent("""\
        Types: deb deb-src
        # http://no/debian
        URIs: http://two/debian
         http://three/debian
        Suites: trixie trixie-updates
        Components: main

        Enabled: no
        Types: deb
        URIs: http://no/debian
        Suites: trixie
        """)
    )
    assert list(debian._sources(tmp_path)) == [
        ("http://one/debian", ["trixie"]),
        ("http://two/debian", ["trixie", "trixie-updates"]),
        ("http://three/debian", ["trixie", "trixie-updates"]),
    ]
