"""What in_kernel switches on in KVM for which flags, and the debugger's exits, on a fake KVM."""

from __future__ import annotations

import ctypes

import pytest
from test_presets import table

from pyhv.cpu_options import parse_cpu
from pyhv.errors import HostError
from pyhv.hyperv.choose import choose
from pyhv.hyperv.cpuid import features
from pyhv.hyperv.in_kernel import InKernel, enable_evmcs
from pyhv.kvm import uapi
from pyhv.memory import GuestMemory

SYNIC, SYNIC2 = uapi.KVM_CAP_HYPERV_SYNIC, uapi.KVM_CAP_HYPERV_SYNIC2
ENFORCE, EVMCS = uapi.KVM_CAP_HYPERV_ENFORCE_CPUID, uapi.KVM_CAP_HYPERV_ENLIGHTENED_VMCS


class FakeVcpu:
    """A vCPU and its thread: notes the capabilities, answers with an eVMCS version."""

    def __init__(self, evmcs: int = 0x0101) -> None:
        self.index, self.exits, self.evmcs = 0, {}, evmcs
        self.caps: list[int] = []
        self.vcpu, self.valid_regs = self, 0
        page = memoryview(bytearray(4096))
        self.m32, self.m64 = page.cast("I"), page.cast("Q")

    def enable_cap(self, capability: int, *args: int) -> None:
        self.caps.append(capability)
        if capability == EVMCS:
            ctypes.c_uint16.from_address(args[0]).value = self.evmcs

    def set_msr(self, index: int, value: int) -> bool:
        return True


def driver(cpu: str, vcpu: FakeVcpu) -> InKernel:
    shown = features(choose(parse_cpu(cpu).hv, table(user=False, intel=True), user=False))
    return InKernel(None, [vcpu], GuestMemory(1 << 20), shown, None, print, print)  # type: ignore


@pytest.mark.parametrize(
    ("cpu", "caps"),
    [
        ("host", []),
        ("host,hv_time", []),
        ("host,hv_vpindex,hv_synic", [SYNIC2]),
        ("host,hv_synic,x-hv-synic-kvm-only", [SYNIC]),
        ("host,hv_time,x-hv-synic-kvm-only", []),
        ("host,hv_vapic,hv_evmcs", [EVMCS]),
        ("host,hv_time,hv_enforce_cpuid", [ENFORCE]),
        ("host,hv_enforce_cpuid", []),
        ("host,hv_vpindex,hv_synic,hv_vapic,hv_evmcs,hv_enforce_cpuid", [SYNIC2, EVMCS, ENFORCE]),
    ],
)
def test_capabilities(cpu: str, caps: list[int]) -> None:
    vcpu = FakeVcpu()
    driver(cpu, vcpu)
    assert vcpu.caps == caps


@pytest.mark.parametrize("version", [0x0101, 0x0201])
def test_evmcs_version_is_in_the_range(version: int) -> None:
    enable_evmcs(FakeVcpu(version))  # type: ignore[arg-type]


@pytest.mark.parametrize(("version", "words"), [(0, r"\[0\.\.0\]"), (0x0302, r"\[2\.\.3\]")])
def test_another_evmcs_version_is_refused_in_qemus_words(version: int, words: str) -> None:
    with pytest.raises(HostError, match=rf"version range \[1..1\] is not supported.*{words}"):
        enable_evmcs(FakeVcpu(version))  # type: ignore[arg-type]


def test_a_debugger_transfer_fails() -> None:
    """KVM hands status @56 to the guest's SYNDBG_STATUS: nobody is there, as in QEMU."""
    vcpu = FakeVcpu()
    driver("host,hv_relaxed,hv_vpindex,hv_synic,hv_syndbg", vcpu).attach([vcpu])  # type: ignore
    vcpu.m32[8] = uapi.KVM_EXIT_HYPERV_SYNDBG
    vcpu.m64[7] = 0x55
    vcpu.exits[uapi.KVM_EXIT_HYPERV]()
    assert vcpu.m64[7] == 0


@pytest.mark.parametrize(
    ("cpu", "laid"), [("host,hv_vpindex,hv_synic", 2), ("host,hv_synic,x-hv-synic-kvm-only", 0)]
)
def test_kvms_own_synic_has_no_overlay(
    cpu: str, laid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages stay the guest's RAM, as under QEMU without its own SynIC."""
    vcpu, places = FakeVcpu(), []
    made = driver(cpu, vcpu)
    made.attach([vcpu])  # type: ignore[list-item]
    monkeypatch.setattr(made.overlays, "place", lambda *words: places.append(words))
    vcpu.m32[8] = uapi.KVM_EXIT_HYPERV_SYNIC
    vcpu.m64[6:9] = memoryview((1).to_bytes(8, "little") * 3).cast("Q")
    vcpu.exits[uapi.KVM_EXIT_HYPERV]()
    assert len(places) == laid
