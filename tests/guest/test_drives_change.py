"""Drives plugged in and out of a machine, before its start and while it runs; a CD that boots."""

from __future__ import annotations

import pathlib
import sys

import guestcode
import pytest
from libguest import SECONDS, descriptors, machine

from pyhv import Machine
from pyhv.config import Drive, cdrom
from pyhv.errors import ConfigError, HostError

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "unit" / "boot_bios"))
from iso import bootable

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]

HALT = "outb 0x3f8, '>'\n sti\n 1: hlt\n jmp 1b"


@pytest.fixture
def image(tmp_path):
    """Makes images."""

    def make(name: str, size: int = 1 << 20) -> str:
        path = tmp_path / name
        path.write_bytes(bytes(size))
        return str(path)

    return make


@pytest.mark.parametrize("started", [False, True], ids=["before start", "running"])
def test_add_and_remove(image, started: bool) -> None:
    with machine(HALT, cpu=None) as vm:
        if started:
            vm.start()
            vm.console.expect(">", timeout=SECONDS)
        assert vm.board.offered["storage"] is None
        assert vm.add_disk(image("a")) == 0
        assert vm.add_disk(Drive(image("b"), readonly=True)) == 1
        controller = vm.board.offered["storage"]
        assert sorted(controller.luns) == [0, 1]
        before = descriptors()
        vm.remove_disk(0)
        assert len(descriptors()) == len(before) - 1
        assert sorted(controller.luns) == sorted(vm.luns) == [1]
        assert vm.add_disk(image("c")) == 0
        with pytest.raises(ConfigError, match="no LUN 5; there are 0, 1"):
            vm.remove_disk(5)
        with pytest.raises(HostError, match="image in use"):
            vm.add_disk(vm.luns[0].path)
        with pytest.raises(ConfigError, match="changed while the machine ran"):
            vm.snapshot()


def test_luns_keep_their_numbers_over_a_reset(image) -> None:
    with machine(HALT, cpu=None, drives=[image("a"), image("b")]) as vm:
        vm.start()
        vm.console.expect(">", timeout=SECONDS)
        vm.remove_disk(0)
        vm.reset()
        vm.console.expect(">", timeout=SECONDS)
        assert sorted(vm.board.offered["storage"].luns) == [1]


def test_all_luns(image) -> None:
    path = image("a")
    drives = [Drive(path, readonly=True)] * 64
    with machine(HALT, cpu=None, drives=drives) as vm:
        with pytest.raises(ConfigError, match="all 64 LUNs are taken"):
            vm.add_disk(Drive(path, readonly=True))
        vm.remove_disk(17)
        assert vm.add_disk(Drive(path, readonly=True)) == 17


def test_a_stopped_machine(image) -> None:
    with machine("exit 5") as vm:
        vm.start()
        vm.wait(SECONDS)
        with pytest.raises(ConfigError, match="add_disk: the machine has stopped"):
            vm.add_disk(image("a"))


def test_another_medium(image) -> None:
    with machine(HALT, cpu=None, drives=[cdrom(image("a.iso")), image("disk")]) as vm:
        vm.start()
        vm.console.expect(">", timeout=SECONDS)
        vm.change_medium(0, image("b.iso"))
        assert vm.luns[0].path.endswith("b.iso")
        vm.change_medium(0, None)
        assert vm.luns[0] is None
        assert len(vm.disks) == 1
        vm.reset()
        vm.console.expect(">", timeout=SECONDS)
        vm.change_medium(0, image("a.iso"))
        with pytest.raises(ConfigError, match="LUN 1 is no DVD drive"):
            vm.change_medium(1, None)


def test_a_cd_boots(tmp_path) -> None:
    """Its boot image, loaded by INT 19h, reads on from the CD by INT 13h."""
    code = pathlib.Path(guestcode.sector("""
        mov $packet, %si
        mov $0x42, %ah
        int $0x13
        jc 9f
        outb 0x3f8, 'C'
        mov 0x8000, %al
        mov $0x3f8, %dx
        out %al, %dx
        exit 3
9:      exit 4
packet: .byte 16, 0
        .word 1, 0x8000, 0
        .quad 20
""")).read_bytes()
    path = tmp_path / "boot.iso"
    path.write_bytes(bootable(code) + b"D".ljust(2048, b"\0"))
    with Machine(drives=[cdrom(str(path))], memory="16M") as vm:
        vm.start()
        assert vm.wait(SECONDS).status == 7
        assert "CD" in vm.console.text()
