"""What the command line attaches to a machine, and that a mistake leaves nothing attached."""

from __future__ import annotations

import pathlib
import socket
import threading
import types

import pytest
from test_gdb import ABLE, FakeMachine

from pyhv import options
from pyhv.errors import ConfigError, HostError
from pyhv.gdb import server as gdb_server
from pyhv.watching import Watch, target


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    monkeypatch.setattr(gdb_server, "probe", lambda kvm: ABLE)
    made = FakeMachine()
    made.started, made.events = False, types.SimpleNamespace(after=lambda seconds, f: None)
    yield made
    made.memory.close()


def watch(machine: FakeMachine, line: str, said: list[str] | None = None) -> Watch:
    say = said.append if said is not None else lambda text: None
    return Watch(machine, options.parse(line.split()), say)


def test_gdb_qmp_and_standing(machine: FakeMachine, tmp_path: pathlib.Path) -> None:
    """Sockets are there at once, and served from begin() on; close() takes them away."""
    said: list[str] = []
    gdb, qmp = tmp_path / "g", tmp_path / "q"
    attached = watch(machine, f"-S -gdb unix:{gdb} -qmp unix:{qmp},server=on,wait=off", said)
    assert machine.paused
    assert said == [f"gdb: target remote {gdb}"]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(qmp))
        attached.begin()
        assert client.recv(100).startswith(b'{"QMP"')
    attached.close()
    attached.close()
    assert not gdb.exists()
    assert not qmp.exists()
    assert not [t for t in threading.enumerate() if t.name in ("gdb", "qmp")]


@pytest.mark.parametrize(
    ("line", "error", "text"),
    [
        ("-qmp nonsense", ConfigError, "-qmp nonsense: write tcp::PORT"),
        ("-qmp unix:/no/such/folder/q", HostError, "-qmp unix:/no/such/folder/q"),
        ("--trace nonsense", ConfigError, "--trace nonsense: pyhv has exits"),
    ],
)
def test_a_mistake(machine: FakeMachine, tmp_path: pathlib.Path, line, error, text) -> None:
    """One line; what was attached before it is gone."""
    path = tmp_path / "g"
    with pytest.raises(error, match=text):
        watch(machine, f"-gdb unix:{path} {line}")
    assert not path.exists()


def test_what_gdb_is_told() -> None:
    assert target("tcp::1234") == "localhost:1234"
    assert target("tcp:0.0.0.0:1,server=on") == "0.0.0.0:1"
    assert target("unix:/tmp/g,server=on,wait=off") == "/tmp/g"
