"""hv_utils in a small guest under every driver and kernel; and the daemons of a Debian disk."""

from __future__ import annotations

import time

import pytest
from conftest import BOOT_S, COMMAND_S, drivers, image

from pyhv.errors import HostError

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
PAIRS = [(suite, hyperv) for suite in ("trixie", "bookworm") for hyperv in drivers()]
WRONG = "2001-02-03"


@pytest.mark.parametrize(("suite", "hyperv"), PAIRS)
def test_heartbeat_time_and_endings(boot, suite: str, hyperv: str) -> None:
    """A wrong clock is put right, hibernate is refused, restart restarts, shutdown ends it."""
    guest = boot(
        kernel=image("kernel", suite)[0], initrd=image("initramfs", suite)[0],
        append="console=ttyS0 quiet", memory="256M", hyperv=hyperv,
    )  # fmt: skip
    vm, board = guest.vm, guest.vm.board
    guest.prompt()
    deadline = time.monotonic() + COMMAND_S
    while vm.heartbeat is None and time.monotonic() < deadline:
        time.sleep(0.2)
    assert vm.heartbeat < 60
    assert WRONG in guest.run(f"date -s {WRONG} >&-; date +%F")
    vm.set_time(timeout=COMMAND_S)
    guest.run("sleep 2")  # hv_utils sets the clock in a work item
    off = int(guest.run("date +%s")) - time.time()
    print(f"the guest's clock, set to {WRONG}, is {off:+.1f} s off after set_time()")
    assert abs(off) < 60
    with pytest.raises(HostError, match="hibernate: the guest refused"):
        vm.shutdown(hibernate=True, timeout=COMMAND_S)
    vm.shutdown(restart=True, text="once more", timeout=COMMAND_S)
    guest.prompt()
    assert vm.board is not board, "another life"
    assert abs(int(guest.run("date +%s")) - time.time()) < 60
    vm.shutdown(timeout=COMMAND_S)
    assert vm.wait(timeout=COMMAND_S).kind == "poweroff"




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
