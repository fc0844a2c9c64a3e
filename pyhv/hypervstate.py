"""The Hyper-V state of a running or paused machine: every synthetic MSR by name, and in words."""

from __future__ import annotations

from .errors import GuestFault
from .hyperv import tlfs
from .hyperv.msrs import MSRS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .hyperv.features import Features
    from .kvm.vcpu import Vcpu
    from .machine import Machine

#: what a read of them would tell is the reader's, not the guest's
NOT_READ = (tlfs.HV_X64_MSR_EOI, tlfs.HV_X64_MSR_ICR, tlfs.HV_X64_MSR_TPR)
PAGES = {
    tlfs.HV_X64_MSR_HYPERCALL: "hypercall page",
    tlfs.HV_X64_MSR_REFERENCE_TSC: "reference TSC page",
}
VP_PAGES = {
    tlfs.HV_X64_MSR_SIMP: "message page",
    tlfs.HV_X64_MSR_SIEFP: "event page",
    tlfs.HV_X64_MSR_VP_ASSIST_PAGE: "assist page",
}


class HypervState:
    """What ``Machine.hyperv`` gives; each call asks the machine anew."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def driver(self) -> str:
        """``in_kernel``, ``in_user`` or ``none``."""
        return self._machine.driver_name

    @property
    def features(self) -> Features:
        """What CPUID shows the guest."""
        return self._machine.features

    @property
    def reference_ticks(self) -> int:
        """The partition's reference time, 100 ns."""
        board = self._machine.board
        return board.driver.reference_ticks() if board is not None else 0

    def msrs(self, vp: int = 0) -> dict[int, int]:
        """Return the synthetic MSRs of a VP that the guest could read, number -> value.

        :raises ConfigError: the machine has stopped.
        """
        view = self._machine.vcpus[vp]
        return view.ask(lambda vcpu: self._read(vcpu, vp)) if self.features.enabled else {}

    def _read(self, vcpu: Vcpu, vp: int) -> dict[int, int]:
        partition = getattr(self._machine.board.driver, "partition", None)
        table = partition.msr_table(vp) if partition is not None else {}
        found = {}
        for row in MSRS:
            if row.read is None or not row.present(self.features):
                continue
            for number in range(row.number, row.number + row.array * row.step, row.step):
                if number in NOT_READ:
                    continue
                if partition is None:
                    value = vcpu.get_msr(number)
                else:
                    try:
                        value = table[number][0]()
                    except (GuestFault, KeyError, TypeError):
                        continue
                if value is not None:
                    found[number] = value
        return found

    def lines(self) -> list[str]:
        """Return it all in words: what is off or zero is left out."""
        from .trace.names import msr_fields, msr_name

        ticks = self.reference_ticks
        found = [f"Hyper-V by {self.driver}; reference time {ticks / 1e7:.6f} s ({ticks} x 100 ns)"]
        for vp in range(self._machine.config.smp.cpus):
            values = self.msrs(vp)
            if vp == 0:
                os_id = values.get(tlfs.HV_X64_MSR_GUEST_OS_ID, 0)
                fields = msr_fields(tlfs.HV_X64_MSR_GUEST_OS_ID, os_id)
                who = str(fields.get("os", "")) if os_id else "has not identified itself"
                found.append(f"guest OS id {os_id:#x} {who}".rstrip())
                found += [_page(name, values[n]) for n, name in PAGES.items() if n in values]
            parts = [_page(name, values[n]) for n, name in VP_PAGES.items() if n in values]
            if tlfs.HV_X64_MSR_SCONTROL in values:
                on = values[tlfs.HV_X64_MSR_SCONTROL] & 1
                parts.insert(0, f"SynIC {'on' if on else 'off'}")
            found.append(f"VP {vp}: " + "; ".join(parts))
            for n in range(tlfs.HV_SYNIC_SINT_COUNT):
                value = values.get(tlfs.HV_X64_MSR_SINT0 + n, tlfs.HV_SYNIC_SINT_MASKED)
                if value != tlfs.HV_SYNIC_SINT_MASKED:
                    found.append("  " + _fields(f"SINT{n}", tlfs.HV_X64_MSR_SINT0 + n, value))
            for n in range(tlfs.HV_SYNIC_STIMER_COUNT):
                number = tlfs.HV_X64_MSR_STIMER0_CONFIG + 2 * n
                if values.get(number):
                    count = values.get(number + 1, 0)
                    found.append("  " + _fields(f"STIMER{n}", number, values[number])
                                 + f" count={count}")  # fmt: skip
        crash = {
            n: v for n, v in self.msrs(0).items() if 0 <= n - tlfs.HV_X64_MSR_CRASH_P0 < 5 and v
        }
        found += [f"{msr_name(number)} {value:#x}" for number, value in crash.items()]
        return found


def _page(name: str, value: int) -> str:
    if not value & tlfs.HV_PAGE_ENABLE:
        return f"{name} off"
    return f"{name} at gpa {value & tlfs.HV_PAGE_MASK:#x}"


def _fields(name: str, number: int, value: int) -> str:
    from .trace.names import msr_fields

    words = " ".join(f"{key}={part}" for key, part in msr_fields(number, value).items())
    return f"{name} {value:#x} {words}"
