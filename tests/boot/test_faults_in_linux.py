"""Linux under faults that it lives through: an older bus, lost packets, no link, a full ring."""

from __future__ import annotations

import subprocess
import time

import pytest
from conftest import COMMAND_S, drivers, image
from test_device_in_a_test import disk, sector

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
PAIRS = [("trixie", drivers()[0])]
TAP, NET = "pyhvfault0", "/sys/class/net/eth0"
#: more packets than a ring of 256 KiB has room for; hv_netvsc takes no smaller one
PACKETS, RING_PAGES = 6000, 64


def within(guest, file: str, value: str) -> str:
    """Wait a while for the *file* to have the *value*; return what it has in the end."""
    return guest.run(
        f'for n in $(busybox seq 200); do [ "$(cat {file})" = {value} ] && break; sleep 0.1; done; '
        f"cat {file}"
    ).strip()


def number(guest, file: str) -> int:
    return int(guest.run(f"cat {file}"))


@pytest.mark.parametrize(("suite", "hyperv"), PAIRS)
def test_linux_goes_on(boot, tmp_path, suite: str, hyperv: str) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(map(sector, range(4096))))
    guest = boot(
        kernel=image("kernel", suite)[0], initrd=image("initramfs", suite, "--module", "pktgen")[0],
        append="console=ttyS0 quiet", memory="512M", hyperv=hyperv, drives=[str(path)],
        nics=[f"tap,ifname={TAP}"],
    )  # fmt: skip
    with guest.vm.fault("version", version="4.1") as capped:
        guest.prompt()
    said = guest.run("dmesg | grep -i 'vmbus version'")
    asked = [hit.fields["version"] for hit in capped.hits]
    print(said, asked)
    assert "Vmbus version:4.1" in said
    assert asked == ["5.3", "5.2", "5.1", "5.0", "4.1"]
    a_link_that_comes_and_goes(guest)
    a_full_ring(guest)
    a_lost_heartbeat(guest)
    a_lost_answer_of_the_disk(guest)
    assert guest.vm.board.vmbus.violation_count == 0


def has_network(guest) -> None:
    """The first may be lost where the link has just come up."""
    said = guest.run("ping -c 4 192.168.78.1")
    assert "100% packet loss" not in said, said


def a_link_that_comes_and_goes(guest) -> None:
    """netvsc's carrier, as RNDIS tells it; a change holds two seconds at least in its view."""
    for command in (f"address add 192.168.78.1/24 dev {TAP}", f"link set {TAP} up"):
        subprocess.run(["ip", *command.split()], check=True)
    guest.run("ip addr add 192.168.78.2/24 dev eth0; ip link set eth0 up")
    assert within(guest, f"{NET}/carrier", "1") == "1"
    has_network(guest)
    before = number(guest, f"{NET}/carrier_down_count")
    with guest.vm.fault("link", device="net"):
        assert within(guest, f"{NET}/carrier", "0") == "0"
        assert " 0% packet loss" not in guest.run("ping -c 1 -W 2 192.168.78.1 2>&1")
    assert within(guest, f"{NET}/carrier", "1") == "1"
    has_network(guest)
    blinking = guest.vm.fault("link", device="net", seconds=5, count=2)
    blinking.wait(2)
    assert within(guest, f"{NET}/carrier_down_count", str(before + 3)) == str(before + 3)
    assert within(guest, f"{NET}/carrier", "1") == "1"
    blinking.remove()


def a_full_ring(guest) -> None:
    """hv_netvsc stops its queue, pktgen waits, and all that it sends goes out in the end."""
    guest.run(f"busybox rmmod hv_netvsc; insmod /modules/hv_netvsc.ko ring_size={RING_PAGES}")
    guest.run("sleep 1; ip addr add 192.168.78.2/24 dev eth0; ip link set eth0 up")
    has_network(guest)
    guest.run("insmod /modules/pktgen.ko; cd /proc/net/pktgen; echo add_device eth0 >kpktgend_0")
    for words in (f"count {PACKETS}", "pkt_size 200", "dst 192.168.78.9",
                  "dst_mac 02:00:00:00:00:09"):  # fmt: skip
        guest.run(f"echo {words} >eth0")
    before = number(guest, f"{NET}/statistics/tx_packets")
    free = f"{NET}/device/channels/*/write_avail"
    had, end = number(guest, free), time.monotonic() + COMMAND_S
    with guest.vm.fault("fill", device="net"):
        guest.run("(echo start >pgctrl &)")
        while (left := number(guest, free)) > had // 8:
            assert time.monotonic() < end, left
            guest.run("sleep 1")
        guest.run("sleep 2")
        sent = number(guest, f"{NET}/statistics/tx_packets") - before
        print(f"{sent} packets are sent; of {had} bytes of the ring {left} are free")
        assert sent < PACKETS
    while (sent := number(guest, f"{NET}/statistics/tx_packets") - before) < PACKETS:
        assert time.monotonic() < end, sent
        guest.run("sleep 1")
    print(guest.run("cat eth0; cd /"))
    assert number(guest, free) > had // 2
    has_network(guest)


def a_lost_heartbeat(guest) -> None:
    """The host waits for an answer that cannot come, until the driver comes anew."""
    vm, heartbeat = guest.vm, guest.vm.board.offered["components"].heartbeat
    with vm.fault("drop", on="answer", device="heartbeat", count=1) as lost:
        lost.wait()
    guest.run("sleep 5")
    assert heartbeat.busy
    assert vm.heartbeat >= 5
    guid = heartbeat.instance_guid
    guest.run(f"cd /sys/bus/vmbus/drivers/hv_utils; echo {guid} >unbind; echo {guid} >bind; cd /")
    end = time.monotonic() + COMMAND_S
    while vm.heartbeat is None:
        assert time.monotonic() < end
        time.sleep(0.2)


def a_lost_answer_of_the_disk(guest) -> None:
    """storvsc waits for it without end, whatever the disk's timeout; the guest goes on."""
    name = disk(guest)
    guest.run(f"echo 1 >/sys/block/{name}/device/timeout")
    with guest.vm.fault("drop", on="answer", device="scsi", lba=1024, count=1) as lost:
        guest.run(f"((dd if=/dev/{name} bs=4096 count=1 skip=128 >/lost 2>&-; echo >/came) &)")
        lost.wait()
    said = guest.run("sleep 8; grep State /proc/$(busybox pidof dd)/status; ls /came 2>&1")
    print(said, guest.run("dmesg | tail -n 5"))
    assert "disk sleep" in said
    assert "No such file" in said
