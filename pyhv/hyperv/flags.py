"""Every Hyper-V flag of QEMU 10's ``-cpu``: kind, CPUID bits, needs, what it opens to the guest.

This table is the only place where a flag is described. The parser, the dependency
check, CPUID, the drivers' refusals and docs/flags.md read it; it holds no behaviour.
Sources: qemu target/i386/kvm/kvm.c (kvm_hyperv_properties, hyperv_fill_cpuids),
target/i386/cpu.c (x86_cpu_properties), docs/system/i386/hyperv.rst, and the TLFS.
"""

from __future__ import annotations

from ..record import Record
from . import features as f

LEAF_FEATURES = 0x40000003
LEAF_HINTS = 0x40000004
LEAF_NESTED = 0x4000000A

SPINLOCKS_NEVER = 0xFFFFFFFF  # HYPERV_SPINLOCK_NEVER_NOTIFY
MICROSOFT_HV = "Microsoft Hv"

Value = bool | int | str


class Bits(Record):
    """Bits of one CPUID register; *unless* names a flag that suppresses them."""

    leaf: int
    register: str  # eax ebx ecx edx
    mask: int
    unless: str = ""


class Flag(Record):
    """One flag. *name* has hyphens; with underscores it is the same flag in ``name=value``."""

    name: str
    kind: str  # bool u8 u16 u32 i32 string onoffauto
    meaning: str  # one sentence
    desc: str = ""  # QEMU's words in its messages, "Hyper-V <desc> (<name>)"
    bit: int = -1  # HYPERV_FEAT_*; -1: not a feature bit
    default: Value = False
    bits: tuple[Bits, ...] = ()
    only_with: str = ""  # a flag without which this one changes nothing
    requires: tuple[str, ...] = ()  # enforced by QEMU, in the order in which it checks
    recommended: tuple[str, ...] = ()  # documentation and guests; never enforced
    msrs: tuple[int, ...] = ()
    hypercalls: tuple[int, ...] = ()
    in_kernel: str = ""  # why pyhv's in_kernel driver refuses it; "" = provided
    in_user: str = ""  # the same for the in_user driver
    aliases: tuple[str, ...] = ()
    libvirt: str = ""  # element of <hyperv>, and the libvirt (QEMU) versions that have it
    notes: str = ""


def _feature(mask: int, register: str = "eax", unless: str = "") -> Bits:
    return Bits(LEAF_FEATURES, register, mask, unless)


def _hint(mask: int, unless: str = "") -> Bits:
    return Bits(LEAF_HINTS, "eax", mask, unless)


def _nested(mask: int) -> Bits:
    return Bits(LEAF_NESTED, "eax", mask)


def _msrs(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


EVMCS_VERSION = 0x0101  # 0x4000000A.EAX[15:0]: lowest and highest version, both 1
_KERNEL_ONLY = "only KVM itself can do it for a nested guest; use --hyperv kernel"

ROWS: tuple[Flag, ...] = (
    Flag(
        "hv-relaxed", "bool", "The guest shall not take a late timer interrupt for a broken clock.",
        desc="relaxed timing", bit=0, bits=(_hint(f.RELAXED_TIMING_RECOMMENDED),),
        libvirt="relaxed, 1.0.0 (2.0)", notes="Windows then drops its watchdogs.",
    ),
    Flag(
        "hv-vapic", "bool", "APIC access by MSR, and the VP assist page with its lazy EOI.",
        desc="virtual APIC", bit=1,
        bits=(_feature(f.ACCESS_INTR_CTRL_REGS), _hint(f.APIC_MSRS_RECOMMENDED, "hv-avic")),
        msrs=_msrs(0x40000070, 0x40000073), libvirt="vapic, 1.1.0 (2.0)",
        notes="With hv-avic the MSRs are there but not recommended (hint bit 3 stays clear).",
    ),
    Flag(
        "hv-time", "bool", "Reference time: a counter MSR, and a page to compute it from the TSC.",
        desc="clocksources", bit=2,
        bits=(_feature(f.ACCESS_PARTITION_REFERENCE_COUNTER | f.ACCESS_PARTITION_REFERENCE_TSC),),
        recommended=("hv-vpindex",), msrs=_msrs(0x40000020, 0x40000021),
        libvirt="<timer name='hypervclock'/>",
        notes="Without hv-vpindex Linux takes no enlightenment, Windows only the slow counter.",
    ),
    Flag(
        "hv-crash", "bool", "A crashing guest leaves five numbers, and the VMM hears of it.",
        desc="crash MSRs", bit=3, bits=(_feature(f.CRASH_REGS_AVAILABLE, "edx"),),
        msrs=_msrs(0x40000100, 0x40000105), libvirt="<panic model='hyperv'/>",
        notes="Windows then reports here; QEMU's documentation advises against it where the "
        "guest's own dump is wanted.",
    ),
    Flag(
        "hv-reset", "bool", "An MSR that resets the machine.",
        desc="reset MSR", bit=4, bits=(_feature(f.ACCESS_RESET_REG),),
        msrs=(0x40000003,), libvirt="reset, 1.3.3 (2.5)", notes="Guests prefer ACPI.",
    ),
    Flag(
        "hv-vpindex", "bool", "Each virtual processor can read its number.",
        desc="VP_INDEX MSR", bit=5, bits=(_feature(f.ACCESS_VP_INDEX),),
        msrs=(0x40000002,), libvirt="vpindex, 1.3.3 (2.5)",
        notes="Linux uses no enlightenment without it.",
    ),
    Flag(
        "hv-runtime", "bool", "The CPU time that the virtual processor really got.",
        desc="VP_RUNTIME MSR", bit=6, bits=(_feature(f.ACCESS_VP_RUNTIME_REG),),
        msrs=(0x40000010,), libvirt="runtime, 1.3.3 (2.5)",
    ),
    Flag(
        "hv-synic", "bool", "The synthetic interrupt controller: 16 sources with messages, events.",
        desc="synthetic interrupt controller", bit=7,
        bits=(
            _feature(f.ACCESS_SYNIC_REGS),
            _feature(f.POST_MESSAGES | f.SIGNAL_EVENTS, "ebx", "x-hv-synic-kvm-only"),
        ),
        requires=("hv-vpindex",), recommended=("hv-avic",),
        msrs=_msrs(0x40000080, 0x40000084) + _msrs(0x40000090, 0x4000009F),
        hypercalls=(0x5C, 0x5D), libvirt="synic, 1.3.3 (2.6)",
        notes="VMBus needs it. A guest that uses AutoEOI switches off AVIC and APICv: add hv-avic.",
    ),
    Flag(
        "hv-stimer", "bool", "Four synthetic timers for each virtual processor.",
        desc="synthetic timers", bit=8, bits=(_feature(f.ACCESS_SYNTHETIC_TIMER_REGS),),
        requires=("hv-time", "hv-synic"), recommended=("hv-stimer-direct",),
        msrs=_msrs(0x400000B0, 0x400000B7), libvirt="stimer, 1.3.3 (2.6)",
        notes="Without it an idle Windows keeps the host busy.",
    ),
    Flag(
        "hv-frequencies", "bool", "Frequencies of TSC and APIC timer can be read, not measured.",
        desc="frequency MSRs", bit=9,
        bits=(_feature(f.ACCESS_FREQUENCY_REGS), _feature(f.FREQUENCY_REGS_AVAILABLE, "edx")),
        msrs=_msrs(0x40000022, 0x40000023), libvirt="frequencies, 4.7.0 (2.12)",
        notes="Linux with hardware-reduced ACPI hangs before its console without it.",
    ),
    Flag(
        "hv-reenlightenment", "bool", "A nested Hyper-V hears of a changed TSC after migration.",
        desc="reenlightenment MSRs", bit=10, bits=(_feature(f.ACCESS_REENLIGHTENMENT_CONTROLS),),
        recommended=("hv-frequencies",), msrs=_msrs(0x40000106, 0x40000108),
        libvirt="reenlightenment, 4.7.0 (3.0)",
        notes="QEMU wants tsc-frequency= for migration. KVM only stores the registers.",
    ),
    Flag(
        "hv-tlbflush", "bool", "TLB flushes of other virtual processors are one hypercall.",
        desc="paravirtualized TLB flush", bit=11,
        bits=(_hint(f.REMOTE_TLB_FLUSH_RECOMMENDED | f.EX_PROCESSOR_MASKS_RECOMMENDED),),
        requires=("hv-vpindex",), recommended=("hv-tlbflush-ext",),
        hypercalls=(0x02, 0x03, 0x13, 0x14), libvirt="tlbflush, 4.7.0 (3.0)",
        notes="Pays with more virtual than real CPUs; in_user it costs more than it saves.",
    ),
    Flag(
        "hv-evmcs", "bool", "A nested Hyper-V keeps its VMCS in memory instead of VMREAD/VMWRITE.",
        desc="enlightened VMCS", bit=12,
        bits=(_hint(f.ENLIGHTENED_VMCS_RECOMMENDED), _nested(EVMCS_VERSION)),
        requires=("hv-vapic",), recommended=("hv-tlbflush", "hv-emsr-bitmap"),
        in_user="VMLAUNCH must read the enlightened VMCS, which only a KVM with Hyper-V does",
        libvirt="evmcs, 4.10.0 (3.1)", notes="Intel only. Ends posted interrupts and APICv.",
    ),
    Flag(
        "hv-ipi", "bool", "An interrupt to many virtual processors is one hypercall.",
        desc="paravirtualized IPI", bit=13,
        bits=(_hint(f.CLUSTER_IPI_RECOMMENDED | f.EX_PROCESSOR_MASKS_RECOMMENDED),),
        requires=("hv-vpindex",), hypercalls=(0x0B, 0x15), libvirt="ipi, 4.10.0 (3.1)",
        notes="No gain with x2APIC, AVIC or APICv; in_user costs more than it saves.",
    ),
    Flag(
        "hv-stimer-direct", "bool", "Timers may raise an interrupt without a message.",
        desc="direct mode synthetic timers", bit=14,
        bits=(_feature(f.DIRECT_SYNTHETIC_TIMERS, "edx"),), requires=("hv-stimer",),
        libvirt="stimer/direct, 5.7.0 (4.1)",
        notes="Linux uses its timers from the start with it; without, only once VMBus is up.",
    ),
    Flag(
        "hv-avic", "bool", "The guest shall not use AutoEOI, nor the APIC MSRs.",
        desc="AVIC/APICv support", bit=15, bits=(_hint(f.DEPRECATE_AUTO_EOI),),
        aliases=("hv-apicv",), libvirt="avic, 8.10.0 (6.2)",
        notes="QEMU's words in errors are (hv-avic/hv-apicv).",
    ),
    Flag(
        "hv-syndbg", "bool", "The kernel debugger's channel as registers and hypercalls.",
        desc="Enable synthetic kernel debugger channel", bit=16,
        bits=(_feature(f.DEBUG_REGS_AVAILABLE, "edx"),), requires=("hv-relaxed", "hv-synic"),
        recommended=("hv-time", "hv-vapic", "hv-runtime", "hv-stimer"),
        msrs=_msrs(0x400000F1, 0x400000F5) + (0x400000FF,), hypercalls=(0x69, 0x6A, 0x6B),
        notes="Leaves 0x40000080-82. hv-passthrough does not switch it on. Nobody answers the "
        "guest, as in a QEMU without -device hv-syndbg: transfers fail, the calls do not exist.",
    ),
    Flag(
        "hv-emsr-bitmap", "bool", "A nested hypervisor says when it changed its MSR bitmap.",
        desc="enlightened MSR-Bitmap", bit=17, bits=(_nested(f.NESTED_MSR_BITMAP),),
        recommended=("hv-evmcs",), in_user=_KERNEL_ONLY, libvirt="emsr_bitmap, 10.7.0 (7.1)",
        notes="Needs hv-evmcs on Intel, nothing on AMD.",
    ),
    Flag(
        "hv-xmm-input", "bool", "Fast hypercalls may carry input in XMM registers.",
        desc="XMM fast hypercall input", bit=18, bits=(_feature(f.XMM_INPUT_AVAILABLE, "edx"),),
        hypercalls=(0x02, 0x03, 0x13, 0x14, 0x15), libvirt="xmm_input, 10.7.0 (7.1)",
    ),
    Flag(
        "hv-tlbflush-ext", "bool", "TLB flush hypercalls may name address ranges.",
        desc="Extended gva ranges for TLB flush hypercalls", bit=19,
        bits=(_feature(f.EXTENDED_GVA_RANGES_AVAILABLE, "edx"),), requires=("hv-tlbflush",),
        libvirt="tlbflush/extended, 11.0.0 (7.1)",
    ),
    Flag(
        "hv-tlbflush-direct", "bool", "A nested guest's TLB flush goes to KVM past its hypervisor.",
        desc="direct TLB flush", bit=20, bits=(_nested(f.NESTED_DIRECT_FLUSH),),
        requires=("hv-vapic",), recommended=("hv-evmcs", "hv-tlbflush"), in_user=_KERNEL_ONLY,
        libvirt="tlbflush/direct, 11.0.0 (7.1)", notes="Needs hv-evmcs on Intel.",
    ),
    # from here on: not HYPERV_FEAT_*, hv_leaves knows each by name
    Flag(
        "hv-spinlocks", "u32", "How often a lock is tried before the guest tells the hypervisor.",
        default=SPINLOCKS_NEVER, hypercalls=(0x08,), libvirt="spinlocks, 1.1.0 (2.0)",
        notes="0x40000004.EBX. 0xffffffff means never, and does not switch the interface on.",
    ),
    Flag(
        "hv-vendor-id", "string", "The 12 characters of leaf 0x40000000.",
        default=MICROSOFT_HV, libvirt="vendor_id, 1.3.3 (2.5)",
        notes="Linux knows Hyper-V only by 'Microsoft Hv'. Longer text is cut, with a warning.",
    ),
    Flag("hv-version-id-build", "u32", "Build number, 0x40000002.EAX.", default=0x3839,
         notes="QEMU's machines up to 6.1 (-M) show version 6.1.7100 (0x1bbc)."),
    Flag("hv-version-id-major", "u16", "Major version, 0x40000002.EBX[31:16].", default=0x000A),
    Flag("hv-version-id-minor", "u16", "Minor version, 0x40000002.EBX[15:0].", default=0),
    Flag("hv-version-id-spack", "u32", "Service pack, 0x40000002.ECX.", default=0),
    Flag("hv-version-id-sbranch", "u8", "Service branch, 0x40000002.EDX[31:24].", default=0),
    Flag(
        "hv-version-id-snumber", "u32", "Service number, 0x40000002.EDX[23:0].", default=0,
        notes="The upper 8 bits are dropped.",
    ),
    Flag(
        "hv-no-nonarch-coresharing", "onoffauto",
        "Virtual processors share a core only where the guest's topology says so.",
        default="off", bits=(_hint(f.NO_NONARCH_CORESHARING),),
        notes="auto takes KVM's answer (set when SMT is impossible), and blocks migration. "
        "Does not switch the interface on.",
    ),
    Flag(
        "hv-passthrough", "bool", "Everything the host supports, under KVM's name and version.",
        notes="Overrides other hv flags, cannot migrate, and leaves out hv-syndbg. Linux does not "
        "know the vendor 'Linux KVM Hv'. in_user leaves out what it would refuse.",
    ),
    Flag(
        "hv-enforce-cpuid", "bool", "Registers and hypercalls not shown in CPUID are refused.",
        notes="Without it KVM grants all it has once any flag is on. Switches nothing on itself.",
    ),
    Flag(
        "x-hv-max-vps", "i32", "Most virtual processors supported, 0x40000005.EAX.", default=-1,
        notes="-1 shows as 0xffffffff. QEMU's machines up to 2.10 show 0x40.",
    ),
    Flag(
        "x-hv-synic-kvm-only", "bool", "SynIC as in QEMU before 3.1: no messages, no events.",
        only_with="hv-synic",
        in_user="it asks for KVM's SynIC, which has no pages of its own",
        notes="Drops 0x40000003.EBX[5:4], and hv-synic no longer requires hv-vpindex. No VMBus, "
        "and so no disk of an OS. QEMU's machines up to 3.0 have it on.",
    ),
)  # fmt: skip

#: name -> row
FLAGS: dict[str, Flag] = {row.name: row for row in ROWS}
#: other spelling -> name
ALIASES: dict[str, str] = {alias: row.name for row in ROWS for alias in row.aliases}
#: seen in patches for QEMUs after 10; refused as such
LATER: dict[str, str] = {
    "hv-boot-zeroed-mem": "the guest may ask which memory is zero at boot",
    "hv-xmm-output": "fast hypercalls may return data in XMM registers",
    "hv-vsm": "virtual secure mode",
}
