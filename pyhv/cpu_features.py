"""The names that ``-cpu +avx2,-x2apic`` uses for CPUID bits, by leaf and register.

Names are QEMU's (qemu target/i386/cpu.c, feature_word_info); places are those of the
Intel SDM, CPUID, and the AMD APM volume 3, appendix E.
"""

from __future__ import annotations

from .record import Record


class Place(Record):
    """Where a feature is: *register* 0..3 is eax..edx."""

    leaf: int
    subleaf: int
    register: int
    mask: int


EAX, EBX, ECX, EDX = range(4)

# 32 names from bit 0 up, "-" for a bit without one; short rows end early
WORDS: dict[tuple[int, int, int], str] = {
    (1, 0, EDX): "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov "
    "pat pse36 pn clflush - ds acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
    (1, 0, ECX): "pni pclmulqdq dtes64 monitor ds-cpl vmx smx est tm2 ssse3 cid - fma cx16 xtpr "
    "pdcm - pcid dca sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave - avx f16c rdrand "
    "hypervisor",
    (6, 0, EAX): "- - arat",
    (7, 0, EBX): "fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excptn-only smep "
    "bmi2 erms invpcid rtm - zero-fcs-fds mpx - "
    "avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt "
    "clwb intel-pt avx512pf avx512er avx512cd sha-ni avx512bw avx512vl",
    (7, 0, ECX): "- avx512vbmi umip pku - waitpkg avx512vbmi2 - "
    "gfni vaes vpclmulqdq avx512vnni avx512bitalg - avx512-vpopcntdq - "
    "la57 - - - - - rdpid - bus-lock-detect cldemote - movdiri movdir64b - sgxlc pks",
    (7, 0, EDX): "- - avx512-4vnniw avx512-4fmaps fsrm - - - avx512-vp2intersect - md-clear - "
    "- - serialize - tsx-ldtrk - - arch-lbr - - amx-bf16 avx512-fp16 "
    "amx-tile amx-int8 spec-ctrl stibp flush-l1d arch-capabilities core-capability ssbd",
    (7, 1, EAX): "sha512 sm3 sm4 - avx-vnni avx512-bf16 - cmpccxadd - - fzrm fsrs fsrc - - - "
    "- fred lkgs wrmsrns - amx-fp16 - avx-ifma - - lam",
    (7, 1, EDX): "- - - - avx-vnni-int8 avx-ne-convert - - amx-complex - avx-vnni-int16 - - - "
    "prefetchiti",
    (7, 2, EDX): "intel-psfd ipred-ctrl rrsba-ctrl ddpd-u bhi-ctrl mcdt-no",
    (0xD, 1, EAX): "xsaveopt xsavec xgetbv1 xsaves xfd",
    (0x40000001, 0, EAX): "kvmclock kvm-nopiodelay kvm-mmu kvmclock kvm-asyncpf kvm-steal-time "
    "kvm-pv-eoi kvm-pv-unhalt - kvm-pv-tlb-flush kvm-asyncpf-vmexit kvm-pv-ipi "
    "kvm-poll-control kvm-pv-sched-yield kvm-asyncpf-int kvm-msi-ext-dest-id "
    "- - - - - - - - kvmclock-stable-bit",
    (0x40000001, 0, EDX): "kvm-hint-dedicated",
    (0x80000001, 0, EDX): "- - - - - - - - - - - syscall - - - - "
    "- - - - nx - mmxext - - fxsr-opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
    (0x80000001, 0, ECX): "lahf-lm cmp-legacy svm extapic cr8legacy abm sse4a misalignsse "
    "3dnowprefetch osvw ibs xop skinit wdt - lwp "
    "fma4 tce - nodeid-msr - tbm topoext perfctr-core perfctr-nb",
    (0x80000007, 0, EBX): "overflow-recov succor",
    (0x80000007, 0, EDX): "- - - - - - - - invtsc",
    (0x80000008, 0, EBX): "clzero - xsaveerptr - - - - - - wbnoinvd - - ibpb - ibrs amd-stibp "
    "- stibp-always-on - - - - - - amd-ssbd virt-ssbd amd-no-ssb - amd-psfd",
    (0x8000000A, 0, EDX): "npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid "
    "decodeassists - - pause-filter - pfthreshold avic - v-vmsave-vmload vgif - - - - - - - - "
    "vnmi - - svme-addr-chk",
    (0x80000021, 0, EAX): "no-nested-data-bp - lfence-always-serializing - - - "
    "null-sel-clr-base - auto-ibrs",
}

#: second names that QEMU takes, also after + and -
ALIASES: dict[str, str] = {
    "sse3": "pni",
    "pclmuldq": "pclmulqdq",
    "sse4-1": "sse4.1",
    "sse4_1": "sse4.1",
    "sse4-2": "sse4.2",
    "sse4_2": "sse4.2",
    "xd": "nx",
    "ffxsr": "fxsr-opt",
    "i64": "lm",
    "ds_cpl": "ds-cpl",
    "tsc_adjust": "tsc-adjust",
    "fxsr_opt": "fxsr-opt",
    "lahf_lm": "lahf-lm",
    "cmp_legacy": "cmp-legacy",
    "nodeid_msr": "nodeid-msr",
    "perfctr_core": "perfctr-core",
    "perfctr_nb": "perfctr-nb",
    "nrip_save": "nrip-save",
    "svm_lock": "svm-lock",
    "tsc_scale": "tsc-scale",
    "vmcb_clean": "vmcb-clean",
    "pause_filter": "pause-filter",
    "kvm_nopiodelay": "kvm-nopiodelay",
    "kvm_mmu": "kvm-mmu",
    "kvm_asyncpf": "kvm-asyncpf",
    "kvm_steal_time": "kvm-steal-time",
    "kvm_pv_eoi": "kvm-pv-eoi",
    "kvm_pv_unhalt": "kvm-pv-unhalt",
}


def places(name: str) -> tuple[Place, ...]:
    """Return where a feature is: one place, two for kvmclock; none if *name* is no feature.

    A scan, not a table made at import: a start of pyhv asks for a handful of names.
    """
    found = []
    for (leaf, subleaf, register), text in WORDS.items():
        if name in text:
            for bit, other in enumerate(text.split()):
                if other == name != "-":
                    found.append(Place(leaf, subleaf, register, 1 << bit))
    return tuple(found)


def names() -> list[str]:
    """Return the name of every feature, once."""
    return list(dict.fromkeys(n for text in WORDS.values() for n in text.split() if n != "-"))
