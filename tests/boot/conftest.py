"""What the boot tests share: Debian images from the cache, and a guest that is typed at."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from pyhv.console import Console
from pyhv.kvm.system import Kvm
from pyhv.machine import Machine

ROOT = pathlib.Path(__file__).parents[2]
IMAGE_TOOL = ROOT / "tools" / "debian_image.py"
# alone on two cores the slowest boot takes 100 s; a lost one must leave time for another try
BOOT_S = float(os.environ.get("PYHV_BOOT_S", "300"))
COMMAND_S = BOOT_S / 2


def drivers() -> list[str]:
    """Return the --hyperv values this host can run; both where KVM has Hyper-V."""
    try:
        kvm = Kvm()
    except Exception:
        return ["user"]
    has = kvm.has_hyperv()
    kvm.close()
    return ["kernel", "user"] if has else ["user"]


def image(*arguments: str) -> list[str]:
    """Return the lines that tools/debian_image.py prints: paths in the cache."""
    done = subprocess.run(
        [sys.executable, IMAGE_TOOL, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def run_option(command: str) -> str:
    """Return the kernel command line that makes the small initramfs run *command*."""
    return f"console=ttyS0 quiet pyhv.run={quote(command)}"


class Guest:
    """A machine whose shell is typed at."""

    def __init__(self, vm: Machine) -> None:
        self.vm, self.console, self.commands = vm, vm.console, 0

    def login(self) -> None:
        """Wait for the login prompt, log in as root, get a shell that neither edits nor echoes."""
        self.console.expect("login: ", timeout=BOOT_S)
        self.console.send("root\n")
        self.console.expect(re.compile(r"root@\S+ ?[#$] "), timeout=COMMAND_S)
        self.console.send("exec dash\n")
        self.run("stty -echo; PS1=; dmesg -n 1; echo")

    def prompt(self) -> None:
        """Wait for the shell of a small initramfs, which then neither edits nor echoes."""
        self.console.expect("PYHV-USERSPACE", timeout=BOOT_S)
        self.console.expect("# ", timeout=COMMAND_S)
        self.run("stty -echo; PS1=; dmesg -n 1; echo")

    def run(self, command: str) -> str:
        """Run a shell command, return what it printed.

        The end is a number that the shell computes, so an echo of the command is not taken for it.
        """
        self.commands += 1
        self.console.send(f"{command}; echo =$(({self.commands}*7))=\n")
        end = f"={self.commands * 7}=\r\n"
        text = self.console.expect(end, timeout=COMMAND_S)
        return text.removesuffix(end).replace("\r\n", "\n")


@pytest.fixture
def boot() -> Iterator[object]:
    """Return a function(**options) -> started Guest; every machine is closed at the end."""
    machines: list[Machine] = []
    log = os.environ.get("PYHV_BOOT_LOG")  # a file to watch a slow boot in
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if log else None

    def start(**options: object) -> Guest:
        vm = Machine(console=Console(fd), **options)
        machines.append(vm)
        vm.start()
        return Guest(vm)

    yield start
    for vm in machines:
        tail = vm.console.last_lines(25)
        vm.close()
        vm.console.close()
        print("\n".join([f"stopped: {vm.result}", "last console lines:", *tail]))
        if fd is not None:
            os.write(fd, f"\nstopped: {vm.result}\n".encode())
    if fd is not None:
        os.close(fd)
