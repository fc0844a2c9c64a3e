"""The table of synthetic MSRs: number, name, scope, gate, and what a read and a write do.

The rows are those of KVM (linux 6.12 arch/x86/kvm/hyperv.c, kvm_hv_set_msr_common and on). A
number that is not here is #GP: GUEST_IDLE, the time-unhalted timer, the nested SynIC, ...
"""

from __future__ import annotations

from ..record import Record
from . import features as f
from . import tlfs as t
from .privileges import Features, Gate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .vp import Vp

    Read = Callable[[], int]
    Write = Callable[[int], None]
    Table = dict[int, tuple[Read | None, Write | None]]

PARTITION, VP = "partition", "vp"
APIC_FREQUENCY_HZ = 1_000_000_000  # KVM's APIC bus: 1 ns per cycle


class Msr(Record):
    """A row: ``array`` MSRs, ``step`` apart, from ``number`` on.

    ``gate`` is asked only under hv-enforce-cpuid. ``needs`` names a field of Features without
    which the MSR is not there at all. ``read`` and ``write`` take (vp, 0..array-1) and give the
    bound function; None: that access is #GP.
    """

    number: int
    name: str
    scope: str
    gate: Gate
    read: Callable[[Vp, int], Read] | None
    write: Callable[[Vp, int], Write] | None
    array: int = 1
    step: int = 1
    needs: str = ""

    def present(self, features: Features) -> bool:
        """Tell whether a guest with these features has it."""
        return features.allows(self.gate) and (not self.needs or getattr(features, self.needs))


def _always(value: int) -> Read:
    return value.__trunc__  # a function in C that returns the int: a call costs a third of Python's


def _constant(value: int) -> Callable[[Vp, int], Read]:
    return lambda vp, n: _always(value)


def _write_item(values: list[int], n: int) -> Write:
    def write(value: int) -> None:
        values[n] = value

    return write


def _ignore(value: int) -> None:
    pass


def _stored(
    name: str, owner: str = "partition"
) -> tuple[Callable[[Vp, int], Read], Callable[[Vp, int], Write]]:
    """Return the two functions of an MSR that keeps any value, and does nothing with it."""

    def target(vp: Vp) -> object:
        return vp.partition if owner == "partition" else vp.partition.syndbg

    return (
        lambda vp, n: lambda: getattr(target(vp), name),
        lambda vp, n: lambda value: setattr(target(vp), name, value),
    )


_HYPERCALL = Gate(leaf3_eax=f.ACCESS_HYPERCALL_MSRS)
_APIC = Gate(leaf3_eax=f.ACCESS_INTR_CTRL_REGS)
_SYNIC = Gate(leaf3_eax=f.ACCESS_SYNIC_REGS)
_STIMER = Gate(leaf3_eax=f.ACCESS_SYNTHETIC_TIMER_REGS)
_FREQUENCY = Gate(leaf3_eax=f.ACCESS_FREQUENCY_REGS)
_CRASH = Gate(leaf3_edx=f.CRASH_REGS_AVAILABLE)
_REENLIGHTENMENT = Gate(leaf3_eax=f.ACCESS_REENLIGHTENMENT_CONTROLS)
_SYNDBG = Gate(leaf3_edx=f.DEBUG_REGS_AVAILABLE)

MSRS: tuple[Msr, ...] = (
    Msr(t.HV_X64_MSR_GUEST_OS_ID, "HV_X64_MSR_GUEST_OS_ID", PARTITION, _HYPERCALL,
        lambda vp, n: lambda: vp.partition.guest_os_id,
        lambda vp, n: vp.partition.write_guest_os_id),
    Msr(t.HV_X64_MSR_HYPERCALL, "HV_X64_MSR_HYPERCALL", PARTITION, _HYPERCALL,
        lambda vp, n: lambda: vp.partition.hypercall_msr,
        lambda vp, n: vp.partition.write_hypercall),
    Msr(t.HV_X64_MSR_VP_INDEX, "HV_X64_MSR_VP_INDEX", VP, Gate(leaf3_eax=f.ACCESS_VP_INDEX),
        lambda vp, n: _always(vp.index), None),
    Msr(t.HV_X64_MSR_RESET, "HV_X64_MSR_RESET", PARTITION, Gate(leaf3_eax=f.ACCESS_RESET_REG),
        _constant(0), lambda vp, n: vp.partition.write_reset),
    Msr(t.HV_X64_MSR_VP_RUNTIME, "HV_X64_MSR_VP_RUNTIME", VP,
        Gate(leaf3_eax=f.ACCESS_VP_RUNTIME_REG), lambda vp, n: vp.runtime_ticks, None),
    Msr(t.HV_X64_MSR_TIME_REF_COUNT, "HV_X64_MSR_TIME_REF_COUNT", PARTITION,
        Gate(leaf3_eax=f.ACCESS_PARTITION_REFERENCE_COUNTER),
        lambda vp, n: vp.partition.clock.ticks, None),
    Msr(t.HV_X64_MSR_REFERENCE_TSC, "HV_X64_MSR_REFERENCE_TSC", PARTITION,
        Gate(leaf3_eax=f.ACCESS_PARTITION_REFERENCE_TSC),
        lambda vp, n: lambda: vp.partition.clock.reference_tsc,
        lambda vp, n: vp.partition.clock.write_reference_tsc),
    Msr(t.HV_X64_MSR_TSC_FREQUENCY, "HV_X64_MSR_TSC_FREQUENCY", VP, _FREQUENCY,
        lambda vp, n: vp.partition.tsc_hz, None),
    Msr(t.HV_X64_MSR_APIC_FREQUENCY, "HV_X64_MSR_APIC_FREQUENCY", VP, _FREQUENCY,
        _constant(APIC_FREQUENCY_HZ), None),
    Msr(t.HV_X64_MSR_EOI, "HV_X64_MSR_EOI", VP, _APIC, None, lambda vp, n: vp.write_eoi),
    Msr(t.HV_X64_MSR_ICR, "HV_X64_MSR_ICR", VP, _APIC,
        lambda vp, n: vp.read_icr, lambda vp, n: vp.write_icr),
    Msr(t.HV_X64_MSR_TPR, "HV_X64_MSR_TPR", VP, _APIC,
        lambda vp, n: vp.read_tpr, lambda vp, n: vp.write_tpr),
    Msr(t.HV_X64_MSR_VP_ASSIST_PAGE, "HV_X64_MSR_VP_ASSIST_PAGE", VP, _APIC,
        lambda vp, n: lambda: vp.assist.value, lambda vp, n: vp.assist.write),
    Msr(t.HV_X64_MSR_SCONTROL, "HV_X64_MSR_SCONTROL", VP, _SYNIC,
        lambda vp, n: lambda: vp.synic.control, lambda vp, n: vp.synic.write_control,
        needs="synic"),
    Msr(t.HV_X64_MSR_SVERSION, "HV_X64_MSR_SVERSION", VP, _SYNIC,
        _constant(t.HV_SYNIC_VERSION_1), None, needs="synic"),
    Msr(t.HV_X64_MSR_SIEFP, "HV_X64_MSR_SIEFP", VP, _SYNIC,
        lambda vp, n: lambda: vp.synic.siefp, lambda vp, n: vp.synic.write_siefp, needs="synic"),
    Msr(t.HV_X64_MSR_SIMP, "HV_X64_MSR_SIMP", VP, _SYNIC,
        lambda vp, n: lambda: vp.synic.simp, lambda vp, n: vp.synic.write_simp, needs="synic"),
    Msr(t.HV_X64_MSR_EOM, "HV_X64_MSR_EOM", VP, _SYNIC,
        _constant(0), lambda vp, n: vp.synic.end_of_message, needs="synic"),
    Msr(t.HV_X64_MSR_SINT0, "HV_X64_MSR_SINT0", VP, _SYNIC,
        lambda vp, n: lambda: vp.synic.sints[n],
        lambda vp, n: lambda value: vp.synic.write_sint(n, value),
        array=t.HV_SYNIC_SINT_COUNT, needs="synic"),
    # without a SynIC a timer can be read (0), not written
    Msr(t.HV_X64_MSR_STIMER0_CONFIG, "HV_X64_MSR_STIMER0_CONFIG", VP, _STIMER,
        lambda vp, n: vp.stimers[n].read_config, lambda vp, n: vp.stimers[n].write_config,
        array=t.HV_SYNIC_STIMER_COUNT, step=2),
    Msr(t.HV_X64_MSR_STIMER0_COUNT, "HV_X64_MSR_STIMER0_COUNT", VP, _STIMER,
        lambda vp, n: lambda: vp.stimers[n].count, lambda vp, n: vp.stimers[n].write_count,
        array=t.HV_SYNIC_STIMER_COUNT, step=2),
    Msr(t.HV_X64_MSR_SYNDBG_CONTROL, "HV_X64_MSR_SYNDBG_CONTROL", PARTITION, _SYNDBG,
        lambda vp, n: lambda: vp.partition.syndbg.control,
        lambda vp, n: vp.partition.syndbg.write_control, needs="syndbg"),
    Msr(t.HV_X64_MSR_SYNDBG_STATUS, "HV_X64_MSR_SYNDBG_STATUS", PARTITION, _SYNDBG,
        *_stored("status", "syndbg"), needs="syndbg"),
    Msr(t.HV_X64_MSR_SYNDBG_SEND_BUFFER, "HV_X64_MSR_SYNDBG_SEND_BUFFER", PARTITION, _SYNDBG,
        *_stored("send_buffer", "syndbg"), needs="syndbg"),
    Msr(t.HV_X64_MSR_SYNDBG_RECV_BUFFER, "HV_X64_MSR_SYNDBG_RECV_BUFFER", PARTITION, _SYNDBG,
        *_stored("recv_buffer", "syndbg"), needs="syndbg"),
    Msr(t.HV_X64_MSR_SYNDBG_PENDING_BUFFER, "HV_X64_MSR_SYNDBG_PENDING_BUFFER", PARTITION,
        _SYNDBG, *_stored("pending_buffer", "syndbg"), needs="syndbg"),
    Msr(t.HV_X64_MSR_SYNDBG_OPTIONS, "HV_X64_MSR_SYNDBG_OPTIONS", PARTITION, _SYNDBG,
        *_stored("options", "syndbg"), needs="syndbg"),
    Msr(t.HV_X64_MSR_CRASH_P0, "HV_X64_MSR_CRASH_P0", PARTITION, _CRASH,
        lambda vp, n: lambda: vp.partition.crash_parameters[n],
        lambda vp, n: _write_item(vp.partition.crash_parameters, n),
        array=t.HV_CRASH_PARAMETERS),
    # QEMU offers "notify", with and without hv-crash
    Msr(t.HV_X64_MSR_CRASH_CTL, "HV_X64_MSR_CRASH_CTL", PARTITION, _CRASH,
        _constant(t.HV_CRASH_CTL_CRASH_NOTIFY),
        lambda vp, n: vp.partition.write_crash_control),
    # KVM keeps these four and never sends the interrupt
    Msr(t.HV_X64_MSR_REENLIGHTENMENT_CONTROL, "HV_X64_MSR_REENLIGHTENMENT_CONTROL", PARTITION,
        _REENLIGHTENMENT, *_stored("reenlightenment")),
    Msr(t.HV_X64_MSR_TSC_EMULATION_CONTROL, "HV_X64_MSR_TSC_EMULATION_CONTROL", PARTITION,
        _REENLIGHTENMENT, lambda vp, n: lambda: vp.partition.clock.emulation_control,
        lambda vp, n: vp.partition.clock.write_emulation_control),
    Msr(t.HV_X64_MSR_TSC_EMULATION_STATUS, "HV_X64_MSR_TSC_EMULATION_STATUS", PARTITION,
        _REENLIGHTENMENT, lambda vp, n: lambda: vp.partition.tsc_emulation_status,
        lambda vp, n: vp.partition.write_tsc_emulation_status),
    Msr(t.HV_X64_MSR_TSC_INVARIANT_CONTROL, "HV_X64_MSR_TSC_INVARIANT_CONTROL", PARTITION,
        Gate(leaf3_eax=f.ACCESS_TSC_INVARIANT_CONTROLS),
        lambda vp, n: lambda: vp.partition.tsc_invariant_control,
        lambda vp, n: vp.partition.write_tsc_invariant_control),
)  # fmt: skip


def bind(vp: Vp) -> Table:
    """Return the MSRs that *vp*'s guest has, with their functions bound to it."""
    features = vp.partition.features
    return {
        row.number + n * row.step: (
            row.read(vp, n) if row.read else None,
            row.write(vp, n) if row.write else None,
        )
        for row in MSRS
        if row.present(features)
        for n in range(row.array)
    }
