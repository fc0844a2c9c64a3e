"""Every row of the flag table against what was measured of it, alone and in all pairs."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import pytest

from pyhv.cpu_options import DEFAULT_CPU, parse_cpu
from pyhv.hyperv.choose import FlagError, choose, in_user_table, refusals
from pyhv.hyperv.cpuid import hv_leaves, leaves
from pyhv.hyperv.flags import FLAGS, LATER, ROWS

ROOT = Path(__file__).parents[3]

# What each flag adds, as read from a guest of QEMU 10.0.13 on KVM/AMD of Linux 6.12 (one guest
# per flag): 3.EAX, 3.EBX, 3.EDX, 4.EAX, A.EAX. This is the independent rule set.
MEASURED = {
    "hv-relaxed": (0, 0, 0, 0x20, 0),
    "hv-vapic": (0x10, 0, 0, 0x8, 0),
    "hv-time": (0x202, 0, 0, 0, 0),
    "hv-crash": (0, 0, 0x400, 0, 0),
    "hv-reset": (0x80, 0, 0, 0, 0),
    "hv-vpindex": (0x40, 0, 0, 0, 0),
    "hv-runtime": (0x1, 0, 0, 0, 0),
    "hv-synic": (0x4, 0x30, 0, 0, 0),
    "hv-stimer": (0x8, 0, 0, 0, 0),
    "hv-frequencies": (0x800, 0, 0x100, 0, 0),
    "hv-reenlightenment": (0x2000, 0, 0, 0, 0),
    "hv-tlbflush": (0, 0, 0, 0x804, 0),
    "hv-ipi": (0, 0, 0, 0xC00, 0),
    "hv-stimer-direct": (0, 0, 0x80000, 0, 0),
    "hv-avic": (0, 0, 0, 0x200, 0),
    "hv-syndbg": (0, 0, 0x800, 0, 0),
    "hv-emsr-bitmap": (0, 0, 0, 0, 0x80000),
    "hv-xmm-input": (0, 0, 0x10, 0, 0),
    "hv-tlbflush-ext": (0, 0, 0x4000, 0, 0),
    "hv-tlbflush-direct": (0, 0, 0, 0, 0x20000),
}
NEEDS = {
    "hv-synic": {"hv-vpindex"},
    "hv-stimer": {"hv-synic", "hv-time"},
    "hv-stimer-direct": {"hv-stimer"},
    "hv-tlbflush": {"hv-vpindex"},
    "hv-tlbflush-ext": {"hv-tlbflush"},
    "hv-tlbflush-direct": {"hv-vapic"},
    "hv-ipi": {"hv-vpindex"},
    "hv-syndbg": {"hv-relaxed", "hv-synic"},
}
FEATURES = [row.name for row in ROWS if row.bit >= 0]


def with_needs(names: set[str]) -> set[str]:
    """Return *names* and all that they require."""
    while True:
        more = names.union(*(NEEDS.get(name, set()) for name in names))
        if more == names:
            return names
        names = more


def test_rows_are_qemus_21_features_in_order() -> None:
    assert [row.bit for row in ROWS if row.bit >= 0] == list(range(21))
    assert set(FEATURES) == set(MEASURED) | {"hv-evmcs"}
    assert len(FLAGS) == len(ROWS) == 34


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_is_complete(row) -> None:
    """A row names its kind, one sentence, known relations, and a default of its kind."""
    assert row.kind in {"bool", "u8", "u16", "u32", "i32", "string", "onoffauto"}
    assert row.meaning.endswith(".")
    assert row.meaning.count(". ") == 0
    assert set(row.requires) | set(row.recommended) <= set(FLAGS)
    assert set(row.requires) == (NEEDS | {"hv-evmcs": {"hv-vapic"}}).get(row.name, set())
    assert isinstance(row.default, str if row.kind in ("string", "onoffauto") else int)
    assert bool(row.desc) == (row.bit >= 0)
    assert all(bits.unless == "" or bits.unless in FLAGS for bits in row.bits)
    assert all(msr >> 12 == 0x40000 for msr in row.msrs)


def test_no_msr_or_hypercall_belongs_to_two_flags() -> None:
    """hv-xmm-input gives another form of calls; all else has one owner."""
    msrs = [msr for row in ROWS for msr in row.msrs]
    calls = [call for row in ROWS if row.name != "hv-xmm-input" for call in row.hypercalls]
    assert len(msrs) == len(set(msrs)) == 55
    assert len(calls) == len(set(calls)) == 12


PAIRS = [*((name, name) for name in MEASURED), *itertools.combinations(MEASURED, 2)]


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_bits_of_pairs(pair: tuple[str, str]) -> None:
    """The leaves of each flag and each pair of flags are the OR of what was measured."""
    names = with_needs(set(pair))
    chosen = choose(dict.fromkeys(names, True), in_user_table(), user=True)
    shown = {row[0]: row[2:] for row in hv_leaves(chosen)}
    total = [0x20, 0, 0x8, 0, 0]
    for name in names:
        total = [old | new for old, new in zip(total, MEASURED[name], strict=True)]
    if {"hv-vapic", "hv-avic"} <= names:
        total[3] &= ~0x8
    three, four, nested = shown[0x40000003], shown[0x40000004], shown.get(0x4000000A, (0,) * 4)
    assert [three[0], three[1], three[3], four[0], nested[0]] == total
    assert four[1] == 0xFFFFFFFF
    debug = "hv-syndbg" in names
    assert shown[0x40000000][0] == (0x40000082 if debug else 0x4000000A if total[4] else 0x40000005)
    assert (0x40000080 in shown) == debug


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_each_missing_flag_is_named_and_the_corrected_cpu_works(name: str) -> None:
    """With each flag alone all that is missing is named at once, and nothing else is."""
    cpu = f"host,{name.replace('-', '_', 1)}"
    with pytest.raises(FlagError) as caught:
        choose(parse_cpu(cpu).hv, in_user_table(), user=True, cpu=cpu)
    message = str(caught.value)
    missing = with_needs({name}) - {name}
    for other in FEATURES:
        assert (f"requires Hyper-V {FLAGS[other].desc} ({other}" in message) == (other in missing)
    spec = parse_cpu(caught.value.corrected)
    chosen = choose(spec.hv, in_user_table(), user=True)
    assert chosen.on == with_needs({name})


# rule 1.2 of the inventory: what switches the interface on
ENABLES = [("hv-spinlocks", 0x1FFF), ("hv-passthrough", True)]
ENABLES += [(name, True) for name in MEASURED]
DOES_NOT = [
    ("hv-spinlocks", 0xFFFFFFFF),
    ("hv-vendor-id", "PyHV"),
    ("hv-version-id-build", 1),
    ("hv-version-id-major", 1),
    ("hv-version-id-minor", 1),
    ("hv-version-id-spack", 1),
    ("hv-version-id-sbranch", 1),
    ("hv-version-id-snumber", 1),
    ("hv-no-nonarch-coresharing", "on"),
    ("hv-enforce-cpuid", True),
    ("x-hv-max-vps", 4),
    ("x-hv-synic-kvm-only", True),
]


@pytest.mark.parametrize(("name", "value"), ENABLES + DOES_NOT)
def test_what_switches_the_interface_on(name: str, value: object) -> None:
    given = dict.fromkeys(with_needs({name}) - {name}, True) | {name: value}
    chosen = choose(given, in_user_table(), user=True)  # type: ignore[arg-type]
    assert chosen.enabled == ((name, value) in ENABLES)
    assert bool(hv_leaves(chosen)) == chosen.enabled
    if not chosen.enabled:
        assert [row[0] for row in leaves(chosen, (0x1000000, 1))] == [0x40000000, 0x40000001]
        assert refusals(chosen, user=True) == []


def test_every_row_is_tried() -> None:
    assert {name for name, _ in ENABLES + DOES_NOT} | {"hv-evmcs"} == set(FLAGS)


@pytest.mark.parametrize(
    ("cpu", "leaf", "registers"),
    [
        ("hv_vendor_id=abc", 0x40000000, (0x40000005, 0x00636261, 0, 0)),
        (
            "hv-version-id-build=0x4563,hv-version-id-major=10,hv-version-id-minor=1,"
            "hv-version-id-spack=2,hv-version-id-sbranch=3,hv-version-id-snumber=0x01abcdef",
            0x40000002,
            (0x4563, 0x000A0001, 2, 0x03ABCDEF),
        ),
        ("x-hv-max-vps=4", 0x40000005, (4, 0x40, 0, 0)),
        ("hv-spinlocks=0x1fff", 0x40000004, (0x20, 0x1FFF, 0, 0)),
        ("hv-no-nonarch-coresharing=on", 0x40000004, (0x40020, 0xFFFFFFFF, 0, 0)),
        ("hv-no-nonarch-coresharing=auto", 0x40000004, (0x20, 0xFFFFFFFF, 0, 0)),
        ("hv-apicv", 0x40000004, (0x220, 0xFFFFFFFF, 0, 0)),
    ],
)
def test_supplementary_flags(cpu: str, leaf: int, registers: tuple[int, ...]) -> None:
    """Measured values of the flags with a value; in_user_table() is that of a host with SMT."""
    chosen = choose(parse_cpu(f"host,hv_relaxed,{cpu}").hv, in_user_table(), user=True)
    assert {row[0]: row[2:] for row in hv_leaves(chosen)}[leaf] == registers


def test_synic_kvm_only() -> None:
    """x-hv-synic-kvm-only: no post or signal privileges, no need of hv-vpindex (3: 24 0 8)."""
    chosen = choose(parse_cpu("host,hv-synic,x-hv-synic-kvm-only").hv, in_user_table(), user=True)
    shown = {row[0]: row[2:] for row in hv_leaves(chosen)}
    assert shown[0x40000003] == (0x24, 0, 0, 8)
    assert len(refusals(chosen, user=True)) == 1


def test_passthrough_overrides_and_adds_syndbg_only_if_asked() -> None:
    """Other flags neither take away nor change; hv-syndbg comes only by itself."""
    table = in_user_table()
    plain = hv_leaves(choose(parse_cpu("host,hv-passthrough").hv, table, user=False))
    cpu = "host,hv-passthrough,hv-relaxed=off,hv-spinlocks=5"
    assert hv_leaves(choose(parse_cpu(cpu).hv, table, user=False)) == plain
    debug = choose(parse_cpu("host,hv-passthrough,hv-syndbg").hv, table, user=False)
    shown = {row[0]: row[2:] for row in hv_leaves(debug)}
    assert shown[0x40000003] == (0x2AFF, 0x30, 0, 0x84D18)
    assert shown[0x40000000][0] == 0x40000082


def without(leaf: int, register: int, mask: int) -> list[tuple[int, ...]]:
    """Return KVM's table of a host that lacks bits."""
    return [
        tuple(v & ~mask if (row[0], i - 3) == (leaf, register) else v for i, v in enumerate(row))
        for row in in_user_table()
    ]


def test_a_flag_the_host_lacks() -> None:
    """It is named in QEMU's words, with all else that is wrong, and both are corrected."""
    cpu = "host,hv_relaxed,hv_frequencies,hv_stimer,hv_reset"
    with pytest.raises(FlagError) as caught:
        choose(parse_cpu(cpu).hv, without(0x40000003, 3, 1 << 8), user=False, cpu=cpu)
    assert caught.value.problems == (
        "Hyper-V synthetic timers (hv-stimer) requires Hyper-V clocksources (hv-time)",
        "Hyper-V synthetic timers (hv-stimer) requires Hyper-V synthetic interrupt controller "
        "(hv-synic)",
        "Hyper-V frequency MSRs (hv-frequencies) is not supported by kernel",
        "Hyper-V synthetic interrupt controller (hv-synic) requires Hyper-V VP_INDEX MSR "
        "(hv-vpindex)",
    )
    added = "hv_time,hv_synic,hv_vpindex"
    assert caught.value.corrected == f"host,hv_relaxed,hv_stimer,hv_reset,{added}"


def test_a_lacking_flag_takes_those_that_need_it() -> None:
    cpu = "host,hv_vpindex,hv_tlbflush,hv_tlbflush_ext,hv_ipi"
    with pytest.raises(FlagError) as caught:
        choose(parse_cpu(cpu).hv, without(0x40000003, 0, 1 << 6), user=False, cpu=cpu)
    assert caught.value.corrected == "host"
    assert str(caught.value).endswith("; use -cpu host")


@pytest.mark.parametrize(
    ("cpu", "corrected"),
    [
        ("host,hv-synic", "host,hv-synic,hv-vpindex"),
        ("host,hv_synic,hv_vpindex=off", "host,hv_synic,hv_vpindex"),
        ("host,+hv-synic,-hv-vpindex", "host,+hv-synic,hv-vpindex"),
        ("host,kvm=off,hv_ipi,+avx2", "host,kvm=off,hv_ipi,+avx2,hv_vpindex"),
    ],
)
def test_corrected_keeps_the_users_spelling(cpu: str, corrected: str) -> None:
    with pytest.raises(FlagError) as caught:
        choose(parse_cpu(cpu).hv, in_user_table(), user=True, cpu=cpu)
    assert caught.value.corrected == corrected
    choose(parse_cpu(corrected).hv, in_user_table(), user=True)


@pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
def test_default_cpu(*, user: bool) -> None:
    """The default needs no correction, hides KVM, is refused by no driver, and says no AutoEOI."""
    spec = parse_cpu(DEFAULT_CPU)
    chosen = choose(spec.hv, in_user_table(), user=user)
    shown = {row[0]: row[2:] for row in leaves(chosen, (1, 0) if spec.kvm else None)}
    assert refusals(chosen, user=user) == []
    assert not spec.kvm
    assert max(shown) == 0x40000005
    assert shown[0x40000000][1:] == (0x7263694D, 0x666F736F, 0x76482074)
    assert shown[0x40000003] == (0xAFF, 0x30, 0, 0x80508)
    assert shown[0x40000004] == (0x220, 0xFFFFFFFF, 0, 0)


def test_features_are_what_the_leaves_show() -> None:
    """The gate of MSRs and hypercalls has the bits of CPUID, enforced only when asked."""
    from pyhv.hyperv.cpuid import features

    chosen = choose(parse_cpu(DEFAULT_CPU).hv, in_user_table(), user=True)
    found = features(chosen)
    assert (found.leaf3_eax, found.leaf3_ebx, found.leaf3_edx) == (0xAFF, 0x30, 0x80508)
    assert (found.leaf4_eax, found.leaf4_ebx, found.leafa_eax) == (0x220, 0xFFFFFFFF, 0)
    assert (found.syndbg, found.synic, found.enforce, found.enabled) == (False, True, False, True)
    strict = choose(parse_cpu("host,hv-time,hv-enforce-cpuid").hv, in_user_table(), user=True)
    assert features(strict).enforce
    assert not features(choose({}, in_user_table(), user=True)).enabled


def test_later_flags_are_not_in_the_table() -> None:
    assert not set(LATER) & set(FLAGS)


def test_page_is_printed_from_the_table() -> None:
    """docs/flags.md is what tools/print_flags.py prints now."""
    page = runpy.run_path(str(ROOT / "tools" / "print_flags.py"))["page"]()
    assert (ROOT / "docs" / "flags.md").read_text() == page
    assert all(f"\n## {name}\n" in page for name in FLAGS)
