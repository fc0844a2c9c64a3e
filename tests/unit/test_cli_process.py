"""The command line as a process of its own: what it prints, and what it imports on its way."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from pyhv import cli

ROOT = pathlib.Path(__file__).parents[2]


def python(*arguments: str, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, **options)


def test_python_m_pyhv():
    done = python("-m", "pyhv")
    assert done.stdout.decode() == cli.HELP + "\n"
    assert done.returncode == 0
    done = python("-m", "pyhv", "run", "-smpp", "2")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"pyhv: -smpp: no such option; did you mean -smp?\n"


def test_help_into_a_closed_pipe_is_silent():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "pyhv", "run", "--help"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert done.stderr == b""


def test_file_names_that_are_no_utf8(tmp_path):
    done = python("-m", "pyhv", "run", "-serial", b"file:/nonexistent/\xff")
    assert b"/nonexistent/\xff: No such file" in done.stderr


HEAVY = {
    "argparse", "asyncio", "dataclasses", "difflib", "enum", "inspect", "json", "logging", "re",
    "pathlib", "selectors", "shutil", "signal", "socket", "subprocess", "tempfile", "traceback",
    "typing",
}  # fmt: skip


def modules_after(code: str) -> set[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}; print(*sys.modules)"
    return set(python("-I", "-S", "-c", code).stdout.decode().split())


def test_the_way_to_the_first_instruction_imports_nothing_heavy():
    """Start-up time is a feature; modules can be counted exactly, milliseconds cannot."""
    ours = "pyhv.cli, pyhv.options, pyhv.console, pyhv.outlet, pyhv.progress"
    loaded = modules_after(f"import {ours}")
    assert "pyhv.outlet" in loaded
    assert not loaded & HEAVY
    assert not loaded & {"pyhv.running", "pyhv.terminal", "pyhv.report", "termios"}


def test_nor_does_what_comes_after_it():
    loaded = modules_after("import pyhv.running, pyhv.report, pyhv.stop")
    assert "pyhv.crashes" in loaded
    assert not loaded & HEAVY


def test_run_needs_none_of_the_look_up_commands():
    loaded = modules_after("import pyhv.cli, pyhv.options, pyhv.machine, pyhv.running, pyhv.report")
    assert "pyhv.machine" in loaded
    assert not {name for name in loaded if name.startswith("pyhv.lookup")}


def test_help_needs_no_options_table():
    loaded = modules_after("import pyhv.cli; pyhv.cli.main([])")
    assert "pyhv.cli" in loaded
    assert not loaded & (HEAVY | {"pyhv.options", "pyhv.config", "threading"})
