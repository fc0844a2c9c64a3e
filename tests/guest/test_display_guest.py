"""-display web of a real machine: it ends with the machine, whatever its clients are doing."""

from __future__ import annotations

import contextlib
import gc
import http.client
import pathlib
import re
import socket
import subprocess
import sys

import guestcode
import pytest
from libguest import SECONDS

from pyhv import Machine
from pyhv.errors import ConfigError

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]
URL = r"(http://127\.0\.0\.1:(\d+)/[\w-]{43}/)"
SPIN = "        outb 0x3f8, '>'\n1: hlt\n jmp 1b"


def state(url: str) -> str | None:
    host, _, rest = url.removeprefix("http://").partition("/")
    client = http.client.HTTPConnection(host, timeout=SECONDS)
    client.request("GET", f"/{rest}frame?after=0")
    found = client.getresponse().getheader("X-State")
    client.close()
    return found


def test_it_lives_as_long_as_its_machine() -> None:
    with Machine(kernel=guestcode.kernel(SPIN), memory="16M", vga="hyperv") as vm:
        url = vm.serve_display()  # also before it runs
        assert state(url) == "nothing"
        vm.start()
        vm.console.expect(">", timeout=SECONDS)
        assert state(url) == "nothing"
        vm.reset()
        vm.console.expect(">", timeout=SECONDS)
        assert state(url) == "nothing"
        vm.kill()
        vm.wait(timeout=SECONDS)
        assert state(url) == "stopped"
        idle = socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0])))
    with idle:
        idle.settimeout(SECONDS)
        with contextlib.suppress(ConnectionResetError):  # if it was not accepted yet
            assert idle.recv(1) == b""
    with pytest.raises(ConfigError, match="closed"):
        vm.serve_display()


def test_a_machine_that_was_dropped() -> None:
    """Nothing of the display keeps it alive; see nothing_left."""
    vm = Machine(kernel=guestcode.kernel(SPIN), memory="16M", vga="hyperv")
    vm.serve_display()
    del vm
    gc.collect()  # its Control refers to it


def test_no_screen_no_display() -> None:
    with (
        Machine(kernel=guestcode.kernel(SPIN), memory="16M") as vm,
        pytest.raises(ConfigError, match="this machine has none; -vga hyperv gives it one"),
    ):
        vm.serve_display()


def test_the_command_line(tmp_path: pathlib.Path) -> None:
    """One line with the URL; a second machine finds the port taken."""
    command = [sys.executable, "-m", "pyhv", "run", "-kernel", guestcode.kernel(SPIN), "-m", "16M",
               "-vga", "hyperv", "-serial", "none", "-display"]  # fmt: skip
    with subprocess.Popen([*command, "web"], stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                found = re.fullmatch(f"pyhv: display: {URL}\n", line)
                if found:
                    break
            assert state(found[1]) == "nothing"
            other = subprocess.run(
                [*command, f"web={found[2]}"], capture_output=True, text=True, timeout=SECONDS
            )
            assert other.returncode == 1
            assert other.stderr.splitlines()[-1] == (
                f"pyhv: -display web={found[2]}: Address already in use; web takes a free port"
            )
        finally:
            process.terminate()
