"""iPXE of Debian: another netvsc driver, and the oldest VMBus; it boots Linux over HTTP."""

from __future__ import annotations

import pathlib

import pytest
from conftest import BOOT_S, COMMAND_S, image, run_option
from test_network import passt, web  # noqa: F401

from pyhv.config import Drive
from pyhv.console import ExpectError

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
ISO = pathlib.Path("/usr/lib/ipxe/ipxe.iso")


def type_until_ok(console, command: str) -> None:
    """Type *command*, again if it fails: a passt that had not run for a while answers late.

    iPXE repeats its SYN after 0.25 s; a second SYN before its own answer has passt reset both.
    """
    for last in (False, False, True):
        console.send(f"{command}\r")
        try:
            console.expect("ok", timeout=BOOT_S, fail="http://ipxe.org/")
            return
        except ExpectError as error:
            if last or isinstance(error, TimeoutError):
                raise


def test_boots_a_kernel_over_http(boot, passt, web) -> None:  # noqa: F811
    if not ISO.exists():
        pytest.fail(f"{ISO} is missing: apt-get install ipxe (tests/run does)")
    folder, port = web
    (folder / "vmlinuz").symlink_to(image("kernel", "trixie")[0])
    (folder / "initrd").symlink_to(image("initramfs", "trixie")[0])
    guest = boot(drives=[Drive(str(ISO), snapshot=True)], memory="512M", nics=["user"])
    console = guest.console
    console.expect("Press Ctrl-B", timeout=BOOT_S)
    console.send("\x02")
    console.expect("iPXE>", timeout=COMMAND_S)
    console.send("ifstat\r")
    assert "using netvsc" in console.expect("[Link", timeout=COMMAND_S)
    options = run_option("uname -r; ls /sys/bus")
    for command in (
        "dhcp",
        f"kernel http://10.0.2.2:{port}/vmlinuz initrd=initrd {options}",
        f"initrd http://10.0.2.2:{port}/initrd",
    ):
        type_until_ok(console, command)
    server = guest.vm.board.vmbus
    version = server.version
    console.send("boot\r")
    stop = guest.vm.wait(timeout=BOOT_S)
    text = console.text()
    assert version == 0x0000000D
    assert stop.kind == "poweroff", text[-2000:]
    assert "PYHV-DONE 0" in text
    assert "vmbus" in text
    assert server.violation_count == 0
