"""Why an advertised thing is not used, as rules: each looks at CPUID and the evidence."""

from __future__ import annotations

from collections.abc import Callable

from ..hyperv import tlfs as t
from ..hyperv.flags import FLAGS, LEAF_FEATURES, LEAF_HINTS, MICROSOFT_HV, Flag
from ..trace.names import msr_name
from .cpuid import is_hyperv, kvm_leaves, signature, value_of
from .dumps import Dump
from .evidence import Evidence

#: reads of the counter that a guest with a working page does not make
MANY = 1000
STIMERS = range(t.HV_X64_MSR_STIMER0_CONFIG, t.HV_X64_MSR_STIMER0_CONFIG + 8, 2)
SINTS = range(t.HV_X64_MSR_SINT0, t.HV_X64_MSR_SINT0 + t.HV_SYNIC_SINT_COUNT)
REMOTE = ("hv-tlbflush", "hv-ipi")


class Case:
    """What a rule may ask: *dump* is the guest's CPUID, *evidence* what it did."""

    def __init__(self, dump: Dump, evidence: Evidence) -> None:
        self.dump, self.evidence = dump, evidence
        self.kvm = bool(kvm_leaves(dump))
        self.vendor = signature(dump, 0x40000000) if (0x40000000, 0) in dump else MICROSOFT_HV

    def has(self, leaf: int, register: str, mask: int) -> bool:
        """Tell whether all bits of *mask* are shown."""
        return not mask & ~(value_of(self.dump, leaf, register) or 0)

    def shows(self, flag: str) -> bool:
        """Tell whether the guest is shown a flag: its bits, without those another takes away."""
        row = FLAGS[flag]
        if flag == "hv-spinlocks":
            tries = value_of(self.dump, LEAF_HINTS, "ebx")
            return tries not in (None, 0, 0xFFFFFFFF) and is_hyperv(self.dump)
        bits = [field for field in row.bits if not field.unless]
        shown = all(self.has(field.leaf, field.register, field.mask) for field in bits)
        return bool(bits) and is_hyperv(self.dump) and shown

    def touched(self, row: Flag) -> bool:
        """Tell whether an MSR or a hypercall of a flag was used; hv-xmm-input is a way to call."""
        if row.name == "hv-xmm-input":
            return False
        return any(self.evidence.used(number) for number in row.msrs) or any(
            self.evidence.calls[code] for code in row.hypercalls
        )

    def timer_armed(self) -> bool:
        """Tell whether a synthetic timer was ever set; a disabled one keeps its count."""
        evidence = self.evidence
        return any(
            evidence.writes[number] or evidence.last.get(number)
            for config in STIMERS
            for number in (config, config + 1)
        )

    @property
    def os(self) -> str:
        """Return ``Linux``, ``Windows``, ``another`` by GUEST_OS_ID (TLFS 2.6), "" if unwritten."""
        value = self.evidence.last.get(t.HV_X64_MSR_GUEST_OS_ID, 0)
        if not value:
            return ""
        return {0x8100: "Linux", 0x0001: "Windows"}.get(value >> 48, "another")

    def written(self, number: int, mask: int) -> bool:
        """Tell whether one of the bits was ever written to, or found in, an MSR."""
        return bool(self.evidence.ever.get(number, 0) & mask)


def missing_minimum(case: Case) -> list[str]:
    """Return which privileges without which the TLFS knows no Hv#1 are not shown."""
    eax = value_of(case.dump, LEAF_FEATURES, "eax") or 0
    named = ((5, "AccessHypercallMsrs (40000003.EAX[5])"),
             (6, "AccessVpIndex (40000003.EAX[6], hv-vpindex)"))  # fmt: skip
    return [name for bit, name in named if not eax >> bit & 1]


def nobody_there(case: Case) -> str:
    """The guest never said who it is: it uses nothing at all."""
    identity = case.evidence.used(t.HV_X64_MSR_GUEST_OS_ID) or case.os
    if not is_hyperv(case.dump) or identity:
        return ""
    if case.evidence.used(t.HV_X64_MSR_TIME_REF_COUNT):
        return ""  # the trace began after the guest's boot
    if case.vendor != MICROSOFT_HV:
        why = f"the vendor is '{case.vendor}': Linux knows 'Microsoft Hv' only"
    elif case.kvm:
        why = "KVM's leaves are visible, and Linux prefers them: add kvm=off"
    elif missing_minimum(case):
        why = "Linux wants " + " and ".join(missing_minimum(case))
    else:
        why = "an operating system that knows Hyper-V did not start, or the trace began too late"
    return f"the guest uses nothing of Hyper-V (GUEST_OS_ID was never written): {why}"


def slow_clock(case: Case) -> str:
    """The reference TSC page is advertised, and the guest reads the counter MSR instead."""
    evidence = case.evidence
    reads = evidence.reads[t.HV_X64_MSR_TIME_REF_COUNT]
    if not case.has(LEAF_FEATURES, "eax", 1 << 9) or reads < MANY:
        return ""
    rate = f", {reads / evidence.seconds:,.0f} a second" if evidence.seconds else ""
    head = f"{reads:,} reads of HV_X64_MSR_TIME_REF_COUNT{rate}, each with an exit"
    if not case.written(t.HV_X64_MSR_REFERENCE_TSC, t.HV_PAGE_ENABLE):
        lacks = missing_minimum(case)
        if evidence.writes[t.HV_X64_MSR_REFERENCE_TSC] and not lacks:
            return head + ", and the reference TSC page was enabled at some time"
        if lacks:
            return (f"{head}: the reference TSC page is advertised (40000003.EAX[9]) and was never "
                    f"enabled, because {' and '.join(lacks)} are not advertised. Windows takes "
                    "the page only from a hypervisor that has both; advertise them.")  # fmt: skip
        return (f"{head}: the reference TSC page is advertised and was never enabled. Its "
                "privileges are there; the guest may lack a TSC it trusts (invtsc)")  # fmt: skip
    return (f"{head}, although the reference TSC page is enabled: it is invalid (sequence 0). The "
            "host's clocksource is not tsc, vCPUs have different TSC offsets, or the clock was "
            "set after the vCPUs ran")  # fmt: skip


def auto_eoi(case: Case) -> str:
    """A SINT with AutoEOI switches APICv and AVIC off."""
    used = [number for number in SINTS if case.written(number, t.HV_SYNIC_SINT_AUTO_EOI)]
    if not used:
        return ""
    names = ", ".join(msr_name(number).removeprefix("HV_X64_MSR_") for number in used)
    if case.shows("hv-avic"):
        return (
            f"{names} use AutoEOI although hv-avic asks not to: APICv and AVIC are off for the VM"
        )
    return f"{names} use AutoEOI: APICv and AVIC are off for the whole VM; hv-avic prevents it"


def timers(case: Case) -> str:
    """Synthetic timers are advertised and none was armed."""
    if not case.shows("hv-stimer") or case.timer_armed() or not case.os:
        return ""
    if not case.shows("hv-stimer-direct") and case.os == "Linux":
        return ("hv-stimer is not used: without hv-stimer-direct Linux takes its timers only once "
                "VMBus is up")  # fmt: skip
    return "hv-stimer is not used: the guest has another timer it likes better (TSC deadline, APIC)"


def remote(case: Case) -> str:
    """Flush and IPI calls are advertised and none came."""
    evidence = case.evidence
    shown = [name for name in REMOTE if case.shows(name)]
    idle = [name for name in shown if not any(evidence.calls[c] for c in FLAGS[name].hypercalls)]
    if not idle or not case.os or not evidence.counted:
        return ""
    names = " and ".join(idle)
    if not case.written(t.HV_X64_MSR_HYPERCALL, t.HV_PAGE_ENABLE):
        return f"{names}: no call came, for the guest never enabled the hypercall page"
    return f"{names}: no call came; with one vCPU, or in x2APIC mode for IPIs, a guest makes none"


def refused(case: Case) -> str:
    """The guest tried an MSR that it was not given."""
    tried = []
    for number, times in sorted(case.evidence.faults.items()):
        flag = next((row.name for row in FLAGS.values() if number in row.msrs), "")
        hint = f"; {flag} gives it" if flag and not case.shows(flag) else ""
        tried.append(f"{msr_name(number)} {times}x{hint}")
    return "#GP for MSRs that the guest tried: " + ", ".join(tried[:8]) if tried else ""


def not_advertised(case: Case) -> str:
    """The guest uses what CPUID does not show: KVM lets it without hv-enforce-cpuid."""
    found = [
        row.name
        for row in FLAGS.values()
        if not case.shows(row.name) and row.name != "hv-syndbg" and case.touched(row)
    ]  # fmt: skip
    if not found or not is_hyperv(case.dump):
        return ""
    return f"used without being advertised: {', '.join(found)}; hv-enforce-cpuid would refuse it"


def lazy_eoi(case: Case) -> str:
    """The VP assist page is advertised, not enabled."""
    page = case.written(t.HV_X64_MSR_VP_ASSIST_PAGE, t.HV_PAGE_ENABLE)
    if not case.shows("hv-vapic") or page or not case.os:
        return ""
    when = "was never" if case.evidence.counted else "is not (at the end)"
    return f"hv-vapic: the VP assist page {when} enabled; the guest writes EOI to the APIC"


#: in the order in which they are told; the first two are what costs most
RULES: tuple[Callable[[Case], str], ...] = (
    slow_clock, nobody_there, auto_eoi, timers, remote, lazy_eoi, refused, not_advertised,
)  # fmt: skip
#: rules whose finding makes the status 1
COSTLY = (slow_clock, nobody_there, auto_eoi)
