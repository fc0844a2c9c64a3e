"""run, push and pull over a socket whose other end is a real shell here."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time

import pytest

from pyhv.agent.shell import GuestTimeout
from pyhv.errors import ConfigError
from pyhv.vsock.shell import SocketShell


class Vsock:
    """Stands for Sockets: a machine that runs until it is said that it does not."""

    def __init__(self) -> None:
        self.shells: set = set()
        self.reason: str | None = None

    def gone(self) -> str | None:
        return self.reason


@pytest.fixture
def vsock():
    return Vsock()


@pytest.fixture
def shell(vsock):
    host, guest = socket.socketpair()
    process = subprocess.Popen(["sh"], stdin=guest, stdout=guest, stderr=guest)
    guest.close()
    made = SocketShell(host, vsock, lambda: " nothing")
    yield made
    made.close()
    assert not [one for one in threading.enumerate() if one.name == "guest-shell"]
    process.kill()
    process.wait()


def test_commands_and_files(shell, tmp_path) -> None:
    data = os.urandom(500_000)
    assert shell.run("echo out; echo err >&2; exit 4")[:3] == (4, b"out\n", b"err\n")
    shell.push(data, str(tmp_path / "there"))
    assert (tmp_path / "there").read_bytes() == data
    assert shell.pull(str(tmp_path / "there")) == data
    done = shell.run("cat", stdin=data)
    assert done.stdout == data


def test_a_timeout_leaves_it_usable(shell) -> None:
    with pytest.raises(GuestTimeout):
        shell.run("sleep 10", 0.3)
    assert shell.run("echo next").text == "next\n"


def test_a_shell_that_ends_is_noticed(shell, vsock) -> None:
    shell.run("true")
    shell._offer(b"exit\n")
    time.sleep(0.3)
    with pytest.raises(ConfigError, match="run 'true': the connection has ended"):
        shell.run("true", 5)
    vsock.reason = "the machine does not run"
    with pytest.raises(ConfigError, match="the machine does not run"):
        shell.run("true", 5)


def test_closed_twice(shell, vsock) -> None:
    shell.close()
    with shell:
        pass
    assert not vsock.shells
