"""Machines on images that qemu-nbd serves: the BIOS boots them, plugged in, gone back, lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

import pytest
from libguest import SECONDS, machine

from pyhv import Machine
from pyhv.boot.bios import firmware_file
from pyhv.config import Drive
from pyhv.errors import ConfigError

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="qemu-nbd (qemu-utils) not here"),
]
HALT = "outb 0x3f8, '>'\n sti\n 1: hlt\n jmp 1b"


@pytest.fixture
def demo(tmp_path):
    """Makes the demo disk an image of a format."""

    def make(format: str) -> str:
        path = str(tmp_path / f"demo.{format}")
        source = firmware_file("demo.img")
        subprocess.run(["qemu-img", "convert", "-O", format, source, path], check=True)
        return path

    return make


@pytest.mark.parametrize("format", ["qcow2", "vpc", "vhdx"])
@pytest.mark.parametrize("snapshot", [False, True], ids=["", "snapshot"])
def test_the_demo_disk_boots(demo, format: str, snapshot: bool) -> None:
    with Machine(disk=Drive(demo(format), format=format, snapshot=snapshot)) as vm:
        vm.start()
        stop = vm.wait(SECONDS)
        assert (stop.kind, stop.status) == ("poweroff", 0)
        assert vm.console.text().startswith("pyhv demo disk, loaded by INT 13h\r\n")


def test_a_disk_whose_server_is_lost_does_not_boot(demo) -> None:
    """And the machine says both: that it was lost, and what the BIOS then had."""
    with Machine(disk=Drive(demo("qcow2"), format="qcow2")) as vm:
        vm.notice = (told := []).append
        os.kill(vm.disks[0]._server._process.pid, signal.SIGKILL)
        vm.start()
        stop = vm.wait(SECONDS)
    assert stop.kind == "no-boot"
    assert "disk 0x80: " in stop.text
    assert len(told) == 1
    assert "qemu-nbd is lost" in told[0]


def test_plugged_in_and_out(demo) -> None:
    with machine(HALT, cpu=None) as vm:
        vm.start()
        vm.console.expect(">", timeout=SECONDS)
        path = demo("qcow2")
        with pytest.raises(ConfigError, match="it looks like a qcow2 image"):
            vm.add_disk(path)
        assert vm.add_disk(Drive(path, format="qcow2")) == 0
        pid = vm.disks[0]._server._process.pid
        assert vm.board.offered["storage"].luns[0].disk.format == "qcow2"
        vm.remove_disk(0)
        assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("snapshot", [False, True], ids=["written", "snapshot"])
def test_snapshots_of_the_machine(demo, snapshot: bool) -> None:
    """As of a raw disk: it goes back with snapshot=on, or when nothing was written."""
    drive = Drive(demo("qcow2"), format="qcow2", snapshot=snapshot)
    with machine(HALT, cpu=None, drives=[drive]) as vm:
        vm.start()
        vm.console.expect(">", timeout=SECONDS)
        (disk,) = vm.disks
        disk.writev(0, [memoryview(b"before".ljust(512))])
        snap = vm.snapshot()
        vm.restore(snap)
        time.sleep(0.02)  # a tick of the file system's clock
        disk.writev(0, [memoryview(b"after".ljust(512))])
        if not snapshot:
            with pytest.raises(ConfigError, match="changed since the snapshot was taken"):
                vm.restore(snap)
            return
        vm.restore(snap)
        disk.readv(0, [view := memoryview(bytearray(512))])
        assert bytes(view).rstrip() == b"before"
        with snap.clone() as other:
            other.disks[0].readv(0, [view])
            assert bytes(view).rstrip() == b"before"
