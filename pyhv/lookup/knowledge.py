"""What pyhv/hyperv/flags.py does not say of a flag: since when, what for, what it does to others.

A row for every flag, none more (tests/unit/lookup compares). ``linux`` is the release whose KVM
first had it, from the kernel's history; only 6.12 was measured. ``qemu`` and ``libvirt`` are those
of libvirt's formatdomain page where it has the flag. ``tlfs`` names what the specification needs
beside it, enforced by QEMU or not; hv-vpindex is in "Requirements for Implementing the Microsoft
Hypervisor Interface" for all of them and is named by NEEDED_BY_ALL.
"""

from __future__ import annotations

from ..record import Record

#: the TLFS calls an interface Hv#1 only with these privileges; AccessHypercallMsrs is always there
NEEDED_BY_ALL = "hv-vpindex"


class Knowledge(Record):
    """``element``: where libvirt has it, a path below <domain>; "" where it has nothing."""

    linux: str
    qemu: str
    libvirt: str
    element: str
    tlfs: tuple[str, ...]
    migration: str
    apicv: str
    nesting: str
    linux_guest: str
    windows_guest: str


PLAIN = "migrates; the destination's KVM must have it too"
NOTHING = "no effect"
UNUSED = "not used"
CPUID_ONLY = "migrates: only CPUID changes"
IDENTITY = "must be the same on both sides"
L1_ONLY = "for L1 hypervisors only"
ON_VMX = "needs a nested hypervisor in the guest, and hv-evmcs on Intel"
_HV = "features/hyperv/"

KNOWLEDGE: dict[str, Knowledge] = {
    "hv-relaxed": Knowledge(
        "2.6.34", "2.0", "1.0.0", _HV + "relaxed", (), CPUID_ONLY, NOTHING, NOTHING, UNUSED,
        "switches its watchdog timeouts off; without it a busy host ends in a blue screen"),
    "hv-vapic": Knowledge(
        "2.6.34", "2.0", "1.1.0", _HV + "vapic", (), PLAIN,
        "APIC access by MSR exits although APICv would not; hv-avic takes the recommendation back",
        "the VP assist page, where evmcs and direct flush are switched on, is part of it",
        "writes VP_ASSIST_PAGE on every CPU even without it; lazy EOI only if recommended",
        "EOI without an exit where the host has no APICv"),
    "hv-time": Knowledge(
        "3.14, the TSC page 4.10", "2.0", "1.2.2", "clock/timer[@name='hypervclock']",
        ("hv-vpindex",),
        "the page is rewritten after migration; set the clock before the vCPUs run",
        NOTHING, "L1's page is stale while L1 is migrated: see hv-reenlightenment",
        "clocksource hyperv_clocksource_tsc_page, rating 500",
        "QueryPerformanceCounter from the page; without hv-vpindex the page is never enabled and "
        "each read of the counter exits"),
    "hv-crash": Knowledge(
        "4.3", "2.5", "1.3.0", "devices/panic[@model='hyperv']", (), PLAIN, NOTHING, NOTHING,
        "panic() writes version, RIP and RSP",
        "the stop code and its parameters; the guest may then not write its own dump"),
    "hv-reset": Knowledge(
        "4.4", "2.5", "1.3.3", _HV + "reset", (), PLAIN, NOTHING, NOTHING, UNUSED,
        "only if leaf 4 recommends it, which QEMU never does"),
    "hv-vpindex": Knowledge(
        "4.4, set by the VMM 4.13", "2.5", "1.3.3", _HV + "vpindex", (),
        "indexes must be the same on both sides; QEMU sets them", NOTHING, NOTHING,
        "mandatory: without it no enlightenment is used",
        "mandatory for the TSC page, flushes and IPIs"),
    "hv-runtime": Knowledge(
        "4.4", "2.5", "1.3.3", _HV + "runtime", (), PLAIN, NOTHING, NOTHING, UNUSED,
        "scheduler accounting; some drivers crash without the MSR"),
    "hv-synic": Knowledge(
        "4.5, SYNIC2 4.13", "2.6", "1.3.3", _HV + "synic", ("hv-vpindex",), PLAIN,
        "before Linux 5.15 the capability, since then a guest that uses AutoEOI, switches APICv "
        "and AVIC off for the whole VM: add hv-avic",
        NOTHING, "used by VMBus and by message-mode timers only",
        "VMBus, timers by message"),
    "hv-stimer": Knowledge(
        "4.5", "2.6", "1.3.3", _HV + "stimer", ("hv-synic", "hv-time", "hv-vpindex"), PLAIN,
        "through hv-synic", NOTHING,
        "clockevent of each CPU: at boot with hv-stimer-direct, else once VMBus is up",
        "no RTC ticks any more: an idle guest costs 1-3 % of a CPU instead of 30-40 %"),
    "hv-frequencies": Knowledge(
        "4.14", "2.12", "4.7.0", _HV + "frequencies", (),
        "frequencies are fixed per VM; the destination must offer the same or scale the TSC",
        NOTHING, "recommended with hv-reenlightenment",
        "no TSC and no APIC calibration at boot", "no calibration loops at boot"),
    "hv-reenlightenment": Knowledge(
        "4.17", "3.0", "4.7.0", _HV + "reenlightenment", ("hv-time", "hv-frequencies"),
        "once the guest enabled it QEMU demands tsc-frequency= on both sides",
        NOTHING, "a nested Hyper-V otherwise gives its guests no TSC page",
        "used by KVM on Hyper-V", "used by Hyper-V and WSL2 inside the guest"),
    "hv-tlbflush": Knowledge(
        "4.18", "3.0", "4.7.0", _HV + "tlbflush", ("hv-vpindex",), PLAIN, NOTHING,
        "flushes of L1; for those of L2 see hv-tlbflush-direct",
        "flushes of several CPUs by hypercall",
        "flushes by hypercall; needed above 64 vCPUs"),
    "hv-evmcs": Knowledge(
        "4.20", "3.1", "4.10.0", _HV + "evmcs", ("hv-vapic",),
        "only to hosts that have it: Intel, same version",
        "posted interrupts and APICv are not available to L1: measure both",
        "VMREAD and VMWRITE of L1 do not exit; Intel only", "KVM in the guest uses it",
        "Hyper-V in the guest uses it; with VBS some Windows 11 stopped booting"),
    "hv-ipi": Knowledge(
        "4.20", "3.1", "4.10.0", _HV + "ipi", ("hv-vpindex",), PLAIN,
        "worse than APICv and AVIC, which send IPIs without an exit", NOTHING,
        "used when not in x2APIC mode, or for many targets", "used; needed above 64 vCPUs"),
    "hv-stimer-direct": Knowledge(
        "5.0", "4.1", "5.7.0", _HV + "stimer/direct", ("hv-stimer",), PLAIN,
        "avoids AutoEOI of the timer's SINT", "wanted by Hyper-V in the guest",
        "the clockevent from the first moment on", "used by Hyper-V and newer Windows"),
    "hv-avic": Knowledge(
        "5.15", "6.2", "8.10.0", _HV + "avic", (), CPUID_ONLY,
        "what makes APICv and AVIC survive hv-synic", NOTHING,
        "no AutoEOI: it writes EOI itself", "no AutoEOI, no APIC MSRs"),
    "hv-syndbg": Knowledge(
        "5.8", "7.1", "", "", ("hv-synic",), "QEMU's device cannot migrate", NOTHING, NOTHING,
        UNUSED, "WinDbg without a network card; only with a debugger attached; QEMU needs "
        "-device vmbus-bridge and -device hv-syndbg too"),
    "hv-emsr-bitmap": Knowledge(
        "5.17 Intel, 5.18 AMD", "7.1", "10.7.0", _HV + "emsr_bitmap", (), PLAIN, NOTHING,
        "L0 need not merge the MSR bitmaps at each entry of L2; on Intel needs hv-evmcs",
        L1_ONLY, L1_ONLY),
    "hv-xmm-input": Knowledge(
        "5.14", "7.1", "10.7.0", _HV + "xmm_input", (), PLAIN, NOTHING, NOTHING,
        UNUSED, "shorter flushes and IPIs"),
    "hv-tlbflush-ext": Knowledge(
        "6.2", "7.1", "11.0.0", _HV + "tlbflush/extended", ("hv-tlbflush",), PLAIN, NOTHING,
        NOTHING, "flushes of ranges", "flushes of ranges"),
    "hv-tlbflush-direct": Knowledge(
        "6.2", "7.1", "11.0.0", _HV + "tlbflush/direct", ("hv-vapic", "hv-tlbflush"), PLAIN,
        NOTHING, "flushes of L2 go to KVM without waking L1; on Intel needs hv-evmcs",
        L1_ONLY, L1_ONLY),
    "hv-spinlocks": Knowledge(
        "2.6.34", "2.0", "1.1.0", _HV + "spinlocks", (), CPUID_ONLY, NOTHING, NOTHING, UNUSED,
        "tells the hypervisor after so many tries; 8191 is usual, libvirt takes 4095 and up"),
    "hv-vendor-id": Knowledge(
        "any", "2.5", "1.3.3", _HV + "vendor_id", (), IDENTITY, NOTHING, NOTHING,
        "anything but 'Microsoft Hv' and Linux uses no enlightenment",
        "does not look; drivers that refuse to run in a VM do"),
    "hv-version-id-build": Knowledge(
        "any", "6.2", "", "", (), IDENTITY, NOTHING, NOTHING, "printed at boot", "not looked at"),
    "hv-version-id-major": Knowledge(
        "any", "6.2", "", "", (), IDENTITY, NOTHING, NOTHING, "printed at boot", "not looked at"),
    "hv-version-id-minor": Knowledge(
        "any", "6.2", "", "", (), IDENTITY, NOTHING, NOTHING, "printed at boot", "not looked at"),
    "hv-version-id-spack": Knowledge(
        "any", "6.2", "", "", (), IDENTITY, NOTHING, NOTHING, "printed at boot", "not looked at"),
    "hv-version-id-sbranch": Knowledge(
        "any", "6.2", "", "", (), IDENTITY, NOTHING, NOTHING, "printed at boot", "not looked at"),
    "hv-version-id-snumber": Knowledge(
        "any", "6.2", "", "", (), IDENTITY, NOTHING, NOTHING, "printed at boot", "not looked at"),
    "hv-no-nonarch-coresharing": Knowledge(
        "5.5", "4.2", "", "", (), "auto blocks migration; on migrates, and is then your promise",
        NOTHING, "Hyper-V in the guest may then pair its own vCPUs by core", UNUSED,
        "Hyper-V in the guest chooses its scheduler by it"),
    "hv-passthrough": Knowledge(
        "5.0", "4.1", "8.0.0", "features/hyperv[@mode='passthrough']", (), "blocks migration",
        "hv-avic is among what it switches on", "switches the nested flags on where KVM has them",
        "sees the vendor 'Linux KVM Hv' and uses no enlightenment",
        "works; some QEMUs before 8.2 let hv-syndbg in and hung"),
    "hv-enforce-cpuid": Knowledge(
        "5.14", "6.2", "", "", (), PLAIN, NOTHING, NOTHING,
        "without hv-vapic: a warning for its write to VP_ASSIST_PAGE",
        "whatever it uses must be shown"),
    "x-hv-max-vps": Knowledge(
        "any", "2.11", "", "", (), IDENTITY, NOTHING, NOTHING, UNUSED,
        "an upper bound of its vCPUs"),
    "x-hv-synic-kvm-only": Knowledge(
        "4.5", "3.1", "", "", (), "for guests that came from a QEMU before 3.1",
        "as hv-synic", NOTHING, "no VMBus", "no VMBus"),
}  # fmt: skip
