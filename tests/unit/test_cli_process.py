"""The command line as a process of its own: what it prints, and what it imports on its way."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from pyhv import cli
from pyhv.parts import PARTS

EXIT_33 = bytes.fromhex("b010 e6f4 f4")  # mov al, 16; out 0xf4, al; hlt
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


#: what a machine that only boots does not load, in either driver; a new part of Machine is a row
#: of pyhv/parts.py
ON_FIRST_USE = {
    "collections.abc", "encodings.ascii", "importlib", "warnings",
    "pyhv.hyperv.extended", "pyhv.services", "pyhv.snapshot", "pyhv.vmbus.protocol",
    *(f"pyhv.{home.partition('.')[0]}" for home in PARTS),
}  # fmt: skip


def test_import_pyhv_loads_nothing_else_of_it():
    loaded = modules_after("import pyhv")
    assert {name for name in loaded if name.startswith("pyhv")} == {"pyhv"}


def test_a_machine_that_only_boots_loads_none_of_its_parts():
    ours = "guestcpuid, pyhv.hyperv.in_user, pyhv.hyperv.in_kernel, pyhv.boot.acpi, pyhv.machine"
    loaded = modules_after(f"import pyhv.cli, pyhv.options, pyhv.running, pyhv.report, pyhv.{ours}")
    assert "pyhv.parts" in loaded
    assert not loaded & ON_FIRST_USE


@pytest.mark.kvm
def test_nor_does_one_that_boots(tmp_path):
    guest = tmp_path / "guest.bin"
    guest.write_bytes(EXIT_33.ljust(510, b"\0") + b"\x55\xaa")
    code = "import pyhv.cli; status = pyhv.cli.main(['run', '-m', '32M', '-cpu', "
    code += f"'host,hv_time', '-kernel', {str(guest)!r}]); print(status)"
    loaded = modules_after(code)
    assert "33" in loaded
    assert not loaded & ON_FIRST_USE


def test_help_needs_no_options_table():
    loaded = modules_after("import pyhv.cli; pyhv.cli.main([])")
    assert "pyhv.cli" in loaded
    assert not loaded & (HEAVY | {"pyhv.options", "pyhv.config", "threading"})
