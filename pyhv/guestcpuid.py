"""The CPUID of every vCPU of a machine: from the text of ``-cpu`` and what this KVM offers."""

from __future__ import annotations

from . import cpu_models, cpu_topology
from .config import Smp
from .cpu_options import DEFAULT_CPU, parse_cpu
from .errors import ConfigError
from .hyperv import choose
from .hyperv import features as f
from .hyperv.cpuid import features, leaves
from .hyperv.flags import LEAF_FEATURES
from .kvm.cpuid import Cpuid
from .kvm.uapi import KVM_CPUID_FLAG_SIGNIFCANT_INDEX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

FREE_PAGES = "--free-page-reporting"
SMT_CONTROL = "/sys/devices/system/cpu/smt/control"


def smt_possible() -> bool:
    """Tell whether two hardware threads may share a core on this host, now or later."""
    try:
        with open(SMT_CONTROL) as file:
            return file.read().strip() not in ("forceoff", "notsupported", "notimplemented")
    except OSError:
        return True


class GuestCpuid:
    """What the guest reads with CPUID.

    :param cpu: the text of ``-cpu``; None is DEFAULT_CPU.
    :param preset: a key of hyperv/presets.py, whose flags stand before those of *cpu*.
    :param machine: the argument of ``-M``, for the defaults of that QEMU's Hyper-V flags.
    :param supported: rows (leaf, index, flags, eax, ebx, ecx, edx) of KVM_GET_SUPPORTED_CPUID.
    :param hyperv: the same of KVM_GET_SUPPORTED_HV_CPUID; None for the in_user driver.
    :param free_pages: let the guest tell of free pages, by a bit of these leaves that QEMU lacks.
    :raises ConfigError: flags unknown, without what they require, or refused by the driver.

    ``spec``, ``chosen``, ``features`` and ``warnings`` keep what came out of each step; ``notes``
    says what a preset stands for; ``tsc_khz`` is what tsc-frequency= asks for, or 0.
    """

    def __init__(
        self,
        cpu: str | None,
        supported: list[tuple[int, ...]],
        hyperv: Sequence[Sequence[int]] | None,
        smp: Smp,
        *,
        preset: str | None = None,
        machine: str | None = None,
        free_pages: bool = False,
    ) -> None:
        cpu_topology.check(smp)
        self.smp = smp
        self.notes: tuple[str, ...] = ()
        user = hyperv is None
        table = choose.in_user_table(smt_possible=smt_possible()) if hyperv is None else hyperv
        if preset is not None:
            cpu = self._expand(preset, cpu, table, user)
        defaults = None
        if machine is not None:
            from .hyperv.machine_types import hyperv_defaults

            defaults = hyperv_defaults(machine)
        self.spec = parse_cpu(DEFAULT_CPU if cpu is None else cpu)
        self.chosen = choose.choose(
            self.spec.hv, table, user=user, cpu=self.spec.text, defaults=defaults
        )
        refused = choose.refusals(self.chosen, user=user)
        if refused:
            raise ConfigError("; ".join(refused))
        self.base = Cpuid(supported)
        lacks = cpu_models.apply(self.spec, self.base.table)
        self.warnings = (*self.spec.warnings, *lacks)
        kvm = self.base.table.get((0x40000001, 0), [0, 0, 0, 0])
        self.base.remove(0x40000000, 0x4FFFFFFF)
        self.tsc_khz = int(self.spec.properties.get("tsc-frequency", 0)) // 1000
        timing = self.tsc_khz if self.spec.properties.get("vmware-cpuid-freq", True) else 0
        shown = leaves(self.chosen, (kvm[0], kvm[3]) if self.spec.kvm else None, timing)
        for leaf, _, *registers in shown:
            self.base.set(leaf, tuple(registers))  # type: ignore[arg-type]
        self.features = features(self.chosen)
        if free_pages:
            self._show_extended_hypercalls(table, user)

    def _show_extended_hypercalls(self, table: Sequence[Sequence[int]], user: bool) -> None:
        bit, leaf = f.ENABLE_EXTENDED_HYPERCALLS, LEAF_FEATURES
        known = any(row[0] == leaf and row[-3] & bit for row in table)
        if not self.features.enabled:
            raise ConfigError(f"{FREE_PAGES}: the guest sees no Hyper-V; -cpu needs an hv_ flag")
        if not user and not known:
            raise ConfigError(
                f"{FREE_PAGES}: this KVM keeps extended hypercalls to itself (Linux 6.3 hands them "
                "on); use --hyperv user"
            )
        eax, ebx, ecx, edx = self.base.table[leaf, 0]
        self.base.set(leaf, (eax, ebx | bit, ecx, edx))
        self.features = self.features._replace(leaf3_ebx=ebx | bit, free_pages=True)

    def _expand(
        self, preset: str, cpu: str | None, table: Sequence[Sequence[int]], user: bool
    ) -> str:
        """Return the ``-cpu`` of a preset, and note what it is."""
        from .hyperv.presets import expand

        text, out = expand(preset, cpu, table, user=user)
        note = f"--hv {preset} is -cpu {text}"
        if out:
            note += f"; left out, because this host or driver lacks them: {', '.join(out)}"
        self.notes = (note,)
        return text

    def for_vcpu(self, index: int) -> Cpuid:
        """Return the CPUID of vCPU *index*, whose APIC id is *index*."""
        cpuid = self.base.copy()
        counted = cpu_topology.apply(cpuid.table, index, self.smp)
        cpuid.flags = {key: cpuid.flags.get(key, 0) for key in cpuid.table}
        for key in counted:
            cpuid.flags[key] = KVM_CPUID_FLAG_SIGNIFCANT_INDEX
        return cpuid
