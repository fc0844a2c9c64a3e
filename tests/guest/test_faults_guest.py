"""Fault rules and devices of one's own in a machine: lab 14's guest asks the bus what is there."""

from __future__ import annotations

import pathlib
import subprocess

import pytest
from libguest import SECONDS, drivers, machine

from pyhv import Machine
from pyhv.errors import ConfigError
from pyhv.vmbus import protocol as p
from pyhv.vmbus.device import Device

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]
LABS = pathlib.Path(__file__).parents[2] / "docs" / "labs"
HALT = "outb 0x3f8, '>'\n sti\n 1: hlt\n jmp 1b"


class Mine(Device):
    """Never opened by anybody."""

    class_guid = "c0ffee00-1ab5-4e11-9e57-000000000014"


@pytest.fixture(scope="module")
def asks(tmp_path_factory) -> str:
    """A guest that prints the first word of each class GUID it is offered, then powers off."""
    folder = tmp_path_factory.mktemp("lab14")
    source = LABS / "14-own-device" / "guest.S"
    subprocess.run(["as", f"-I{LABS}", "-o", "guest.o", source], cwd=folder, check=True)
    subprocess.run(
        ["ld", "-Ttext=0x200000", "-o", "guest.elf", "guest.o"], cwd=folder, check=True
    )
    return str(folder / "guest.elf")


def offers(vm: Machine) -> list[str]:
    vm.start()
    assert vm.wait(SECONDS).kind == "poweroff"
    lines = vm.console.text().splitlines()
    return [line.partition("0x")[2].zfill(8) for line in lines if line.startswith("offer")]


def word(guid: str) -> str:
    return guid[:8]


@pytest.mark.parametrize("hyperv", drivers())
def test_a_rule_before_the_start(asks: str, hyperv: str) -> None:
    """One offer of all is lost; the rule knows which; removed, nothing is."""
    with Machine(kernel=asks, memory="16M", hyperv=hyperv) as vm:
        lost = vm.fault("drop", on="OFFERCHANNEL", device="heartbeat")
        kept = vm.fault("drop", on="OFFERCHANNEL", device="shutdown")
        kept.remove()
        found = offers(vm)
        assert list(vm.faults) == [lost]
    assert word(p.GUID_HEARTBEAT) not in found
    assert word(p.GUID_SHUTDOWN) in found
    assert [hit.fields["class"] for hit in lost.hits] == ["heartbeat"]


def test_own_devices(asks: str) -> None:
    """They come last, and one that was withdrawn does not."""
    with Machine(kernel=asks, memory="16M") as vm:
        gone = vm.offer(Mine())
        mine = vm.offer(Mine())
        vm.withdraw(gone)
        assert mine.instance_guid != gone.instance_guid
        assert offers(vm)[-1] == word(Mine.class_guid)


def test_rules_and_devices_outlive_a_reset() -> None:
    with machine(HALT, cpu=None) as vm:
        mine = vm.offer(Mine())
        rule = vm.fault("drop", on="REQUESTOFFERS")
        vm.start()
        vm.console.expect(">", timeout=SECONDS)
        before = vm.board.vmbus
        vm.reset()
        vm.console.expect(">", timeout=SECONDS)
        assert vm.board.vmbus is not before
        assert mine.server is vm.board.vmbus
        assert "send" in vars(vm.board.vmbus)
        with vm.fault("rescind", device=mine):
            assert mine.server is None
        assert mine.server is vm.board.vmbus
        vm.faults.clear()
        assert len(vm.faults) == 0
        assert "send" not in vars(vm.board.vmbus)
        rule.remove()  # again: nothing happens


def test_a_snapshot_has_no_rules() -> None:
    """The machine itself keeps its rules when it goes back; one cloned from it begins without."""
    with machine(HALT, cpu=None) as vm:
        vm.start()
        vm.console.expect(">", timeout=SECONDS)
        rule = vm.fault("drop", on="packet", device=Mine)
        vm.offer(Mine())
        snap = vm.snapshot()
        vm.restore(snap)
        assert list(vm.faults) == [rule]
        assert "send" in vars(vm.board.vmbus)
        (mine,) = vm.own_devices
        assert mine.server is vm.board.vmbus
        with snap.clone() as other:
            assert len(other.faults) == 0
            assert list(other.own_devices) == []


def test_a_machine_that_has_stopped() -> None:
    """A ``with`` around its end is left in peace; what is new is refused in one line."""
    with machine("exit 5", cpu=None) as vm, vm.fault("fill", device="heartbeat"):
        vm.start()
        vm.wait(SECONDS)
        with pytest.raises(ConfigError, match="fault: the machine has stopped"):
            vm.fault("drop", on="packet")
        with pytest.raises(ConfigError, match="offer: the machine has stopped"):
            vm.offer(Mine())


def test_without_vmbus() -> None:
    with machine("exit 5", cpu="host") as vm:
        for call in (lambda: vm.fault("drop"), lambda: vm.offer(Mine())):
            with pytest.raises(ConfigError, match="the guest has no VMBus; -cpu needs hv_synic"):
                call()
        assert len(vm.faults) == 0
        with pytest.raises(ConfigError, match="it has no class_guid"):
            vm.offer(Device())
