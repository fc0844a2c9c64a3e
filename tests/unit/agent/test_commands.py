"""Machine.run, push and pull: their refusals, their files, and what is put behind an initrd."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading

import pytest
from ptyshell import PtyShell

from pyhv.agent.initramfs import with_agent
from pyhv.boot.image import Image, InitrdPath, load_initrd
from pyhv.commands import Commands
from pyhv.config import MachineConfig
from pyhv.console import Console
from pyhv.devices.uart import IER, IER_RDI, Uart
from pyhv.errors import ConfigError, HostError
from pyhv.memory import GuestMemory


class Vm(Commands):
    """A machine whose COM2 leads to a shell here."""

    def __init__(self, agent: bool = True) -> None:
        self.config, self.console = MachineConfig(agent=agent), Console()
        self.started, self.ended, self.board = True, None, None
        self._board_lock = threading.Lock()


@pytest.fixture
def vm():
    machine, shell = Vm(), PtyShell([shutil.which("sh")])
    machine._shell = shell.guest
    yield machine
    shell.close()


def test_run_checks_when_asked(vm) -> None:
    assert vm.run("exit 2").status == 2
    assert vm.run("echo out", check=True).stdout == b"out\n"
    with pytest.raises(HostError, match="run 'echo no >&2; exit 2': status 2: no"):
        vm.run("echo no >&2; exit 2", check=True)


def test_pull_makes_a_file_when_it_is_whole(vm, tmp_path) -> None:
    (tmp_path / "there").write_bytes(b"x" * 1000)
    local = tmp_path / "here"
    assert vm.pull(str(tmp_path / "there"), local) is None
    assert local.read_bytes() == b"x" * 1000
    assert vm.pull(str(tmp_path / "there")) == b"x" * 1000
    for call in (
        lambda: vm.pull(str(tmp_path / "there"), tmp_path / "other", limit=999),
        lambda: vm.pull(str(tmp_path / "there"), limit=999),
        lambda: vm.pull("/nowhere", tmp_path / "other"),
    ):
        with pytest.raises(HostError, match="pull "):
            call()
    with pytest.raises(ConfigError, match="pull /nowhere/x: No such file"):
        vm.pull(str(tmp_path / "there"), "/nowhere/x")
    assert sorted(os.listdir(tmp_path)) == ["here", "there"]


def test_who_has_no_agent_or_does_not_run() -> None:
    with pytest.raises(ConfigError, match=r"run: no agent; make the machine with Machine\(agent"):
        Vm(agent=False).run("true")
    vm = Vm()
    vm.started = False
    with pytest.raises(ConfigError, match="push: the machine does not run"):
        vm.push(b"", "/x")
    vm.shell_output(b"early")  # nobody listens
    vm.renew_shells()


def test_nothing_is_typed_before_the_guest_listens() -> None:
    vm = Vm()
    uart = Uart(vm.shell_output, lambda level: None)
    vm.board = type("Board", (), {"agent_uart": uart})()
    vm._guest_shell("run")
    assert vm._shell_input(b"x") == 0
    uart.pio_out(IER, 1, IER_RDI)
    assert vm._shell_input(b"x") == 1
    vm.board = None
    assert vm._shell_input(b"x") == 0


@pytest.mark.parametrize(
    ("append", "line", "init"),
    [
        ("", "rdinit=/.pyhv/init", "/init"),
        ("console=ttyS0 quiet", "rdinit=/.pyhv/init console=ttyS0 quiet", "/init"),
        ("a rdinit=/bin/sh b -- c", "rdinit=/.pyhv/init a b -- c", "/bin/sh"),
    ],
)
def test_the_command_line_starts_ours_which_becomes_theirs(append, line, init) -> None:
    found, archive = with_agent(append)
    assert found == line
    assert f'exec {init} "$@"\n'.encode() in archive


def members(archive: bytes) -> dict[str, tuple[int, tuple[int, int], bytes]]:
    """Return name -> (mode, device, contents) of a newc archive."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        begin = at + 110 + name_size + -(110 + name_size) % 4
        name = archive[at + 110 : at + 110 + name_size].decode().rstrip("\0")
        if name == "TRAILER!!!":
            assert begin == len(archive)
            return found
        found[name] = (fields[1], (fields[9], fields[10]), archive[begin : begin + size])
        at = begin + size + -size % 4


def test_the_archive_is_one() -> None:
    found = members(with_agent("")[1])
    assert [*found] == [
        ".pyhv", ".pyhv/tty", "dev", "dev/null", ".pyhv/init", ".pyhv/bottom",
    ]  # fmt: skip
    assert found[".pyhv"][0] == 0o040755
    assert found[".pyhv/tty"] == (0o020600, (4, 65), b"")
    assert found[".pyhv/init"][0] == 0o100755


def test_its_scripts_are_shell() -> None:
    for _, _, text in members(with_agent("")[1]).values():
        if text:
            subprocess.run(["sh", "-n"], input=text, check=True)


@pytest.mark.parametrize("size", [8, 9, 4096, 5001])
def test_the_archive_is_put_behind_the_file(tmp_path, size: int) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"i" * size)
    memory = GuestMemory(4 << 20)
    memory.write(3 << 20, b"\xff" * (1 << 20))  # of an earlier life
    with Image(str(path)) as kernel:
        plain = load_initrd(memory, str(path), 1 << 20, 1 << 32, kernel)
        both = load_initrd(memory, InitrdPath.joined(str(path), b"more"), 1 << 20, 1 << 32, kernel)
        with pytest.raises(ConfigError, match="do not fit"):
            load_initrd(memory, InitrdPath.joined(str(path), bytes(4 << 20)), 0, 1 << 32, kernel)
    assert plain[1] == size
    padded = size + -size % 4
    assert both[1] == padded + 4
    assert memory.read(both[0], both[1]) == (b"i" * size).ljust(padded, b"\0") + b"more"
    memory.close()
