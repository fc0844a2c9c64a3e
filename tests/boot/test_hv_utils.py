"""hv_utils and hyperv-daemons of a Debian disk, as they come up there by themselves."""

from __future__ import annotations

import time

import pytest
from conftest import BOOT_S, COMMAND_S, image

from pyhv.errors import HostError

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
    # systemd starts the daemons when udev has seen the devices
    guest.run("for n in $(seq 60); do systemctl -q is-active hv-kvp-daemon && break; sleep 1; done")
    guest.vm.kvp.timeout = COMMAND_S
    assert guest.vm.kvp["OSName"] == "Debian GNU/Linux"
    guest.vm.kvp["role"] = "database"
    assert "role" in guest.run("tr '\\0' '\\n' < /var/lib/hyperv/.kvp_pool_0")
    with guest.vm.frozen(timeout=COMMAND_S):
        pass
    with pytest.raises(HostError, match="hibernate: the guest refused"):
        guest.vm.shutdown(hibernate=True, timeout=COMMAND_S)
    guest.run("sleep 2")  # hv_utils sets the clock in a work item
    assert abs(int(guest.run("date +%s")) - time.time()) < 60
    guest.vm.shutdown(text="the test is over", timeout=COMMAND_S)
    assert guest.vm.wait(timeout=BOOT_S).kind == "poweroff"
