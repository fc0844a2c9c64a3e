"""What CPUID shows the guest, as the gate in front of MSRs and hypercalls.

KVM asks these bits only under hv-enforce-cpuid (linux 6.12: hv_check_msr_access,
hv_check_hypercall_access); ``enforce`` says so, and whoever asks looks at it first.
"""

from __future__ import annotations

from ..record import Record


class Features(Record):
    """Registers of CPUID leaves 0x40000003, 4 and A as shown, and what is on beside them.

    ``synic``: SynIC enabled on the vCPUs (KVM_CAP_HYPERV_SYNIC2); ``kvm_synic``: it is KVM's
    alone (x-hv-synic-kvm-only), without messages and events of ours; ``free_pages``: the guest may
    tell of free pages (extended.py); ``syndbg``: leaf 0x40000082
    allows kernel debugging; ``enforce``: hv-enforce-cpuid; ``enabled``: leaf 0x40000001 is Hv#1.
    """

    leaf3_eax: int = 0
    leaf3_ebx: int = 0
    leaf3_edx: int = 0
    leaf4_eax: int = 0
    leaf4_ebx: int = 0xFFFFFFFF
    leafa_eax: int = 0
    syndbg: bool = False
    synic: bool = False
    enforce: bool = False
    enabled: bool = True
    kvm_synic: bool = False
    free_pages: bool = False

    @property
    def user_synic(self) -> bool:
        """Whether VMBus and other devices of user space can post messages and signal events."""
        return self.synic and not self.kvm_synic

    def grants(self, gate: Gate) -> bool:
        """Tell whether all bits of *gate* are shown."""
        return not (
            gate.leaf3_eax & ~self.leaf3_eax
            or gate.leaf3_ebx & ~self.leaf3_ebx
            or gate.leaf3_edx & ~self.leaf3_edx
            or gate.leaf4_eax & ~self.leaf4_eax
        )

    def allows(self, gate: Gate) -> bool:
        """Tell whether the guest may use what is behind *gate*; KVM asks only if it enforces."""
        return not self.enforce or self.grants(gate)


class Gate(Record):
    """The CPUID bits that an MSR or a hypercall asks for; none is an open gate."""

    leaf3_eax: int = 0
    leaf3_ebx: int = 0
    leaf3_edx: int = 0
    leaf4_eax: int = 0
