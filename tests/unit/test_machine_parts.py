"""Parts of Machine that come with their first use: the table has all, and any may be first."""

from __future__ import annotations

import importlib
import itertools
import pathlib
import subprocess
import sys

import pytest

from pyhv.machine import Machine
from pyhv.parts import PARTS

ROOT = pathlib.Path(__file__).parents[2]
NAMES = [(home, name) for home, names in PARTS.items() for name in names.split()]


def names_of(home: str) -> set[str]:
    module, _, kind = home.partition(".")
    part = getattr(importlib.import_module(f"pyhv.{module}"), kind)
    return {name for up in part.__mro__[:-1] for name in vars(up) if not name.startswith("__")}


@pytest.mark.parametrize("home", PARTS)
def test_the_table_has_every_public_name(home):
    public = {name for name in names_of(home) if not name.startswith("_")}
    listed = set(PARTS[home].split())
    assert public - {"own_devices", "sockets"} <= listed  # Machine itself sets these
    assert listed <= names_of(home)


def test_no_name_is_in_two_parts_or_in_machine():
    for one, other in itertools.combinations(PARTS, 2):
        assert not names_of(one) & names_of(other)
    for home in PARTS:
        assert not names_of(home) & set(vars(Machine))


@pytest.mark.parametrize(("home", "name"), NAMES)
def test_each_may_be_asked_for_first(home, name):
    """In a process of its own, of the class, and of a machine that was not built."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pyhv.machine import Machine\n"
        f"thing = Machine.__new__(Machine)\n"
        f"try: thing.{name}\n"
        f"except AttributeError as error: assert {name!r} not in str(error), error\n"
        f"print(type(Machine.{name}).__name__, 'pyhv.{home.split('.')[0]}' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    kind, loaded = done.stdout.split()
    assert kind in ("function", "property", "method")
    assert loaded == "True"
