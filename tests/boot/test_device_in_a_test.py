"""A device written in a test, and faults: Linux's storvsc, hv_utils and bus driver err rightly."""

from __future__ import annotations

import time

import pytest
from conftest import COMMAND_S, drivers, image

from pyhv.vmbus import protocol as p
from pyhv.vmbus import storvsc
from pyhv.vmbus.device import Device

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
PAIRS = [(suite, hyperv) for suite in ("trixie", "bookworm") for hyperv in drivers()]
MODULE = "/sys/bus/vmbus/drivers/hv_storvsc"
DISK = f"ls -d {MODULE}/*/host*/target*/*/block/* 2>&-"


class Obsolete(Device):
    """A SCSI controller that agrees to none of the protocols it is asked for."""

    class_guid = p.GUID_SCSI

    def __init__(self) -> None:
        self.asked: list[int] = []

    def packet(self, channel, kind, flags, transaction, batch, start, body, end) -> None:
        operation, status = batch[body], storvsc.STATUS_OK
        if operation == storvsc.QUERY_PROTOCOL_VERSION:
            self.asked.append(int.from_bytes(batch[body + 12 : body + 14], "little"))
            status = storvsc.STATUS_NOT_SUPPORTED
        words = (storvsc.COMPLETE_IO, 0, status)
        head = b"".join(word.to_bytes(4, "little") for word in words)
        channel.complete(transaction, head.ljust(storvsc.PACKET_SIZE, b"\0"))


def no_such_version(packet: bytes) -> bytes:
    """Offer framework 9.9 and message version 9.9 alone, in the place of all."""
    return packet[:36] + bytes((9, 0)) * ((len(packet) - 36) // 2)


def sector(number: int) -> bytes:
    return number.to_bytes(4, "little") * 128


def shell(boot, suite: str, **options):
    """Boot the small initramfs."""
    return boot(
        kernel=image("kernel", suite)[0], initrd=image("initramfs", suite)[0],
        append="console=ttyS0 quiet", memory="512M", smp=2, **options,
    )  # fmt: skip


def disk(guest) -> str:
    """Wait for the one disk, return its name."""
    found = guest.run(f"for n in $(seq 60); do {DISK} && break; sleep 1; done")
    return found.strip().rpartition("/")[2]


@pytest.mark.parametrize(("suite", "hyperv"), PAIRS)
def test_drivers_that_are_refused(boot, suite: str, hyperv: str) -> None:
    """They say what was wrong, leave the device, and the guest lives on."""
    guest = shell(boot, suite, hyperv=hyperv)
    vm = guest.vm
    obsolete = vm.offer(Obsolete())
    no_room = vm.fault("status", on="GPADL_CREATED", device="timesync", status=0xC000009A)
    unknown = vm.fault(
        "change", device="heartbeat", message="ICMSGTYPE_NEGOTIATE", change=no_such_version
    )
    guest.prompt()
    log = guest.run("dmesg | grep -iE 'storvsc|obsolete|GPADL|probe|hv_utils'")
    bound = guest.run(f"ls {MODULE} /sys/bus/vmbus/drivers/hv_utils | grep -e -")
    print(log, bound, sep="\n")
    assert obsolete.asked == list(storvsc.PROTOCOLS)  # from the newest on
    assert "Obsolete Hyper-V version" in log
    assert obsolete.instance_guid not in bound
    assert [hit.name for hit in no_room.hits] == ["GPADL_CREATED"]
    assert "Failed to establish GPADL: err = 0xc000009a" in log
    assert "2497f4de-e9fa-4204-80e4-4b75c46419c0" not in bound
    assert unknown.done == 1
    heartbeat = vm.board.offered["components"].heartbeat
    assert (heartbeat.busy, heartbeat.version) == (False, None)  # it said so: none of these
    assert heartbeat.instance_guid in bound
    assert guest.run("echo alive $((6*7))").strip() == "alive 42"
    guest.console.send("poweroff -f\n")
    assert vm.wait(timeout=COMMAND_S).kind == "poweroff"


@pytest.mark.parametrize("hyperv", drivers())
def test_storvsc_and_a_bad_disk(boot, tmp_path, hyperv: str) -> None:
    """One failure is tried again, failures without end are EIO, a late answer is waited for."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(map(sector, range(4096))))
    guest = shell(boot, "trixie", hyperv=hyperv, drives=[str(path)])
    vm = guest.vm
    guest.prompt()
    name = disk(guest)

    def read(lba: int) -> str:
        return guest.run(
            f"dd if=/dev/{name} bs=4096 skip={lba // 8} count=1 2>&1 >/tmp/x | grep -i error; "
            "od -An -t d4 -N 4 /tmp/x"
        ).strip()

    assert read(256) == "256"
    with vm.fault("status", device="scsi", lba=512, status=0x04, count=1) as once:
        assert read(512) == "512"
    assert once.done == 1
    with vm.fault("status", device="scsi", lba=768, status=0x04) as always:
        assert "Input/output error" in read(768)
    assert always.done > 3
    log = guest.run("dmesg | grep -iE 'storvsc|I/O error'")
    print(log)
    assert "srb 0x4" in log
    assert read(768) == "768"
    guest.run(f"echo 1 > /sys/block/{name}/device/timeout")
    with vm.fault("delay", on="answer", device="scsi", lba=1024, seconds=4, count=1) as late:
        begin = time.monotonic()
        assert read(1024) == "1024"
        assert time.monotonic() - begin >= 4
    assert late.done == 1
    guest.console.send("poweroff -f\n")
    assert vm.wait(timeout=COMMAND_S).kind == "poweroff"
