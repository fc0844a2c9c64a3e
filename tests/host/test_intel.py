"""hv-evmcs on an Intel CPU, which only Bochs emulates: caps, CPUID, and a Linux that uses it."""

from pathlib import Path

import intel
import pytest

pytestmark = [pytest.mark.host, pytest.mark.slow]
FLAGS = "host,kvm=off,hv_vapic,hv_vpindex,hv_time,hv_evmcs,hv_emsr_bitmap,hv_tlbflush"
FLAGS += ",hv_tlbflush_direct"
#: a hypervisor as the guest of pyhv: Debian's kvm_intel, which says what VMCS it takes
L1 = """#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read module; do insmod $module; done </modules/order
dmesg | grep -e Hypervisor -e Hyper-V: -e kvm_intel
grep -o -m1 "vmx flags.*" /proc/cpuinfo
poweroff -f
"""
SCRIPT = f"""
pyhv="python3 -m pyhv"
$pyhv caps | grep -e "^KVM" -e evmcs -e emsr -e tlbflush-direct
$pyhv caps --against host,hv_vapic,hv_evmcs
$pyhv run --hyperv kernel -m 32 -cpu {FLAGS} 2>&1
echo "status $?"
$pyhv run --hyperv kernel -m 256 --hv nested -kernel /vmlinux -initrd /initrd \\
    -append "{intel.OPTIONS}" 2>&1 | grep -v loading
"""


@pytest.fixture(scope="module")
def seen() -> str:
    """What one boot showed; about 90 s of CPU time."""
    kernel = Path(intel.debian_image.vmlinux("trixie")).read_bytes()
    extra = {"vmlinux": kernel, "initrd": intel.archive(L1, ["irqbypass", "kvm-intel"])}
    return intel.run(SCRIPT, extra, timeout=1500)


def test_caps_of_an_intel_host(seen: str) -> None:
    assert "KVM, with Hyper-V in it" in seen
    for name in ("hv-evmcs", "hv-emsr-bitmap", "hv-tlbflush-direct"):
        (line,) = [line for line in seen.splitlines() if line.startswith(name)]
        assert line.split()[1] == "yes"
    assert "yes, this host can do that" in seen


def test_a_guest_is_shown_the_enlightened_vmcs(seen: str) -> None:
    """The demo guest: 40000004.EAX[14] beside hv-vapic and hv-tlbflush, leaves up to A."""
    assert "interface Hv#1, CPUID up to 0x4000000a" in seen
    assert "hints 40000004.EAX 0x0000480c" in seen
    assert "status 0" in seen


def test_linux_uses_it(seen: str) -> None:
    """kvm_intel in a guest of --hv nested runs its own guests by the enlightened VMCS."""
    assert "Hypervisor detected: Microsoft Hyper-V" in seen
    assert "Hyper-V: Nested features: 0xa0101" in seen
    assert "kvm_intel: Using Hyper-V Enlightened VMCS" in seen
    assert "pyhv: the guest powered off" in seen
