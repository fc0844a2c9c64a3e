"""--vsock and ``pyhv connect``: what they take, and a stream through descriptors, as ssh has it."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest
from live_guest import LiveGuest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from fake_machine import FakeMachine  # noqa: E402

from pyhv import cli  # noqa: E402
from pyhv.errors import ConfigError  # noqa: E402
from pyhv.stop import Stop  # noqa: E402
from pyhv.vsock import proxy  # noqa: E402

ROOT = pathlib.Path(__file__).parents[3]
S = 20.0
BIG = os.urandom(600_000)


@pytest.fixture
def vm():
    live = LiveGuest()
    live.listening.add(7)
    yield live
    live.close()


def connected(path: object, data: bytes = b"") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pyhv", "connect", str(path)]
    return subprocess.run(command, input=data, capture_output=True, timeout=S, cwd=ROOT)


def test_ports() -> None:
    assert proxy.parse_ports("22:/a") == [(22, "/a")]
    assert proxy.parse_ports("22:/a,4294967295:b:c") == [(22, "/a"), (4294967295, "b:c")]


@pytest.mark.parametrize(
    "text",
    ["", "22", "22:", ":/a", "x:/a", "-1:/a", "4294967296:/a", "22:/a,", "²:/a", "1:/a,2:/a"],
)
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(ConfigError, match="^--vsock "):
        proxy.parse_ports(text)


def test_run_takes_the_ports_before_it_makes_a_machine(monkeypatch, capfd) -> None:
    monkeypatch.setattr(cli, "make_machine", None)
    assert cli.main(["run", "--vsock", "ssh:/a", "-serial", "none"]) == 2
    assert capfd.readouterr().err == (
        "pyhv: --vsock ssh:/a: PORT:PATH, such as 22:/run/user/1000/guest.ssh\n"
    )


def test_run_makes_the_sockets_of_a_machine_that_runs(monkeypatch) -> None:
    made, started = [], []

    class Published(FakeMachine):
        def start(self) -> None:
            started.append(True)
            super().start()

        @property
        def vsock(self):
            assert started
            return type("Sockets", (), {"publish": lambda _, *words: made.append(words)})()

    def behave(machine: FakeMachine) -> None:
        machine.end(Stop("exit", 0, "as told", {}))

    monkeypatch.setattr(cli, "make_machine", lambda config, console: Published(
        config, console, behave))  # fmt: skip
    assert cli.main(["run", "--vsock", "22:/a,7:/b", "-serial", "none"]) == 0
    assert made == [(22, "/a"), (7, "/b")]


def test_all_bytes_both_ways_and_the_end(vm, tmp_path) -> None:
    vm.vsock.publish(7, tmp_path / "echo")
    done = connected(tmp_path / "echo", BIG)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == BIG


def test_the_guest_may_end_first(tmp_path) -> None:
    """Its end is the program's end, whatever the input does: ssh keeps it open."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "path"))
        listener.listen()
        ours, theirs = os.pipe()
        output = os.open(tmp_path / "output", os.O_WRONLY | os.O_CREAT)
        statuses = []
        thread = threading.Thread(
            target=lambda: statuses.append(proxy.connect([str(tmp_path / "path")], (ours, output)))
        )
        thread.start()
        one, _ = listener.accept()
        one.sendall(b"bye")
        one.close()
        thread.join(S)
        assert statuses == [0]
        assert (tmp_path / "output").read_bytes() == b"bye"
        os.close(theirs)  # and with it ends the thread that reads
        os.close(output)


def test_nobody_listens_in_the_guest(tmp_path) -> None:
    """The client is let go without a byte: said here, because ssh says 'Connection closed'."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "path"))
        listener.listen()
        threading.Thread(target=lambda: listener.accept()[0].close()).start()
        done = connected(tmp_path / "path")
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"pyhv: connect {tmp_path / 'path'}: closed before a byte has come; does a program in the "
        "guest listen on that port, and is hv_sock loaded?\n"
    )


def test_no_such_socket(tmp_path) -> None:
    done = connected(tmp_path / "none")
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"pyhv: connect {tmp_path / 'none'}: No such file or directory; does pyhv run?\n"
    )


@pytest.mark.parametrize("words", [[], ["a", "b"]])
def test_one_path(words: list[str], capfd) -> None:
    assert cli.main(["connect", *words]) == 2
    assert capfd.readouterr().err == f"pyhv: {proxy.USAGE}\n"


def test_help(capfd) -> None:
    assert cli.main(["connect", "--help"]) == 0
    assert capfd.readouterr().out == f"usage: {proxy.USAGE}\n"
