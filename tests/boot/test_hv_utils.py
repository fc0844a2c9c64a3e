"""hv_utils of a Debian disk: it has a heart, takes the host's time, and shuts down when asked."""

from __future__ import annotations

import time

import pytest
from conftest import BOOT_S, COMMAND_S, image

pytestmark = [pytest.mark.boot, pytest.mark.kvm]


def test_does_what_the_host_asks(boot, tmp_path) -> None:
    disk = tmp_path / "trixie.img"
    image("disk", "trixie", "-o", str(disk))
    guest = boot(disk=str(disk), memory="768M", smp=2)
    guest.login()
    guest.run("modprobe hv_utils; sleep 3")
    assert guest.vm.heartbeat < 60
    guest.run("date -s 2001-02-03")
    guest.vm.set_time(timeout=COMMAND_S)
    guest.run("sleep 2")  # hv_utils sets the clock in a work item
    assert abs(int(guest.run("date +%s")) - time.time()) < 60
    guest.vm.shutdown(text="the test is over", timeout=COMMAND_S)
    assert guest.vm.wait(timeout=BOOT_S).kind == "poweroff"
