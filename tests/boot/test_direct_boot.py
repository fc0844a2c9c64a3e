"""Debian's kernels without a disk: bzImage and ELF, to a shell, under both drivers."""

from __future__ import annotations

import pytest
from conftest import BOOT_S, COMMAND_S, drivers, image, run_option

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
REPORT = (
    "dmesg | grep 'Hypervisor detected'; grep HVS: /proc/interrupts; "
    "cat /sys/devices/system/clocksource/clocksource0/current_clocksource; nproc; "
    "ls /sys/bus/vmbus/drivers"
)


@pytest.mark.parametrize("hyperv", drivers())
@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_bzimage_runs_a_command_and_powers_off(boot, suite: str, hyperv: str) -> None:
    guest = boot(
        kernel=image("kernel", suite)[0], initrd=image("initramfs", suite)[0],
        append=run_option(REPORT), memory="512M", smp=2, hyperv=hyperv,
    )  # fmt: skip
    stop = guest.vm.wait(timeout=BOOT_S)
    text = guest.console.text()
    assert stop.kind == "poweroff", text[-2000:]
    assert "PYHV-DONE 0" in text
    assert "Hypervisor detected: Microsoft Hyper-V" in text
    assert "hyperv_clocksource_tsc_page" in text
    assert "hv_storvsc" in text
    assert "\n2\r\n" in text


def test_elf_vmlinux_by_its_pvh_entry(boot) -> None:
    guest = boot(
        kernel=image("vmlinux", "trixie")[0], initrd=image("initramfs", "trixie")[0],
        append=run_option("uname -r"), memory="512M",
    )  # fmt: skip
    stop = guest.vm.wait(timeout=BOOT_S)
    assert stop.kind == "poweroff"
    assert "PYHV-DONE 0" in guest.console.text()


def test_shell_in_the_initramfs(boot) -> None:
    """Typed at: the serial console works both ways."""
    guest = boot(
        kernel=image("kernel", "trixie")[0], initrd=image("initramfs", "trixie")[0],
        append="console=ttyS0 quiet", memory="512M",
    )  # fmt: skip
    guest.console.expect("PYHV-USERSPACE", timeout=BOOT_S)
    guest.console.expect("# ", timeout=COMMAND_S)
    guest.console.send("echo $((6*7)) $(uname -s)\n")
    guest.console.expect("42 Linux", timeout=COMMAND_S)
    guest.console.send("reboot -f\n")
    guest.console.expect("PYHV-USERSPACE", timeout=BOOT_S)
    guest.console.expect("# ", timeout=COMMAND_S)
    guest.console.send("poweroff -f\n")
    assert guest.vm.wait(timeout=COMMAND_S).kind == "poweroff"
