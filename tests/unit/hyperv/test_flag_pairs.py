"""All pairs of all 34 flags, alone and with what they require, against measured bits and rules.

The rules here are written from the measurements (one guest per flag under QEMU 10.0.13), not from
pyhv's table: MEASURED and NEEDS of test_flags_table.py, and below what else a flag changes.
"""

from __future__ import annotations

import itertools

import pytest
from test_flags_golden import HOST_LEAVES, kernel_table, read_dump, shown
from test_flags_table import MEASURED, NEEDS
from test_presets import table

from pyhv.cpu_options import parse_cpu
from pyhv.hyperv.choose import FlagError, choose
from pyhv.hyperv.cpuid import hv_leaves
from pyhv.hyperv.flags import FLAGS
from pyhv.hyperv.presets import PRESETS, expand

#: not measured, there was no Intel host: 4.EAX[14] and version 1..1 in A.EAX (inventory 1.3)
BITS = MEASURED | {"hv-evmcs": (0, 0, 0, 0x4000, 0x101)}
REQUIRED = NEEDS | {"hv-evmcs": {"hv-vapic"}}
#: the other flags as a user gives them, and (leaf, register, new value) if the interface is on
VALUES: dict[str, tuple[str, tuple[tuple[int, int, int], ...]]] = {
    "hv-spinlocks": ("0x1fff", ((4, 1, 0x1FFF),)),
    "hv-vendor-id": ("PyHV", ((0, 1, 0x56487950), (0, 2, 0), (0, 3, 0))),
    "hv-version-id-build": ("0x4563", ((2, 0, 0x4563),)),
    "hv-version-id-major": ("7", ((2, 1, 0x70000),)),
    "hv-version-id-minor": ("7", ((2, 1, 0xA0007),)),
    "hv-version-id-spack": ("2", ((2, 2, 2),)),
    "hv-version-id-sbranch": ("3", ((2, 3, 0x3000000),)),
    "hv-version-id-snumber": ("0x01abcdef", ((2, 3, 0xABCDEF),)),
    "hv-enforce-cpuid": ("on", ()),
    "x-hv-max-vps": ("4", ((5, 0, 4),)),
}
SPECIAL = {"hv-passthrough", "x-hv-synic-kvm-only", "hv-no-nonarch-coresharing"}
ENABLING = set(BITS) | {"hv-spinlocks", "hv-passthrough"}
HOST = table(user=False, intel=True)


def expected(names: set[str]) -> dict[int, list[int]]:
    """Return leaf (4 bits) -> registers of a guest with the flags *names*."""
    if not names & ENABLING:
        return {}
    passed = "hv-passthrough" in names
    leaves = {
        0: [0, 0x7263694D, 0x666F736F, 0x76482074], 1: [0x31237648, 0, 0, 0],
        2: [0x3839, 0xA0000, 0, 0], 3: [0x20, 0, 0, 8], 4: [0, 0xFFFFFFFF, 0, 0],
        5: [0xFFFFFFFF, 64, 0, 0],
    }  # fmt: skip
    on = names & set(BITS)
    if passed:
        on |= set(BITS) - {"hv-syndbg"}
    for name in on:
        three_a, three_b, three_d, four, _ = BITS[name]
        if name == "hv-synic" and "x-hv-synic-kvm-only" in names:
            three_b = 0
        leaves[3] = [leaves[3][0] | three_a, leaves[3][1] | three_b, 0, leaves[3][3] | three_d]
        leaves[4][0] |= four
    if {"hv-vapic", "hv-avic"} <= on:
        leaves[4][0] &= ~8
    if "hv-no-nonarch-coresharing" in names:
        leaves[4][0] |= 0x40000
    for name in names & set(VALUES):
        for leaf, register, value in VALUES[name][1]:
            both = {"hv-version-id-major", "hv-version-id-minor"} <= names
            leaves[leaf][register] = 0x70007 if both and register == 1 and leaf == 2 else value
    if {"hv-version-id-sbranch", "hv-version-id-snumber"} <= names:
        leaves[2][3] = 0x3ABCDEF
    if passed:  # KVM's own name, version, limits and spin count
        leaves[0][1:] = [0x756E694C, 0x564B2078, 0x7648204D]
        leaves[2], leaves[4][1], leaves[5][0] = [0x3839, 0xA0000, 0, 0], 0xFFF, 0x1000
    nested = 0
    for name in on:
        nested |= BITS[name][4]
    if nested:
        leaves |= {number: [0] * 4 for number in range(6, 10)} | {10: [nested, 0, 0, 0]}
    leaves[0][0] = 0x40000000 | (0x82 if "hv-syndbg" in on else 10 if nested else 5)
    return leaves


def text(names: set[str]) -> str:
    items = []
    for name in sorted(names):
        value = VALUES.get(name, ("on", ()))[0]
        items.append(f"{name}={value}")
    return ",".join(["host", *items])


def required(names: set[str]) -> set[str]:
    """Return what *names* require and do not have."""
    rules = REQUIRED | ({"hv-synic": set()} if "x-hv-synic-kvm-only" in names else {})
    need = set(names)
    while True:
        step = need.union(*(rules.get(name, set()) for name in need))
        if step == need:
            return need - names
        need = step


def shown_by(names: set[str]) -> dict[int, list[int]]:
    chosen = choose(parse_cpu(text(names)).hv, HOST, user=False)
    rows = {row[0]: list(row[2:]) for row in hv_leaves(chosen)}
    return {leaf & 0xF: value for leaf, value in rows.items() if leaf <= 0x4000000A}


SETS = [{name} for name in FLAGS] + [set(pair) for pair in itertools.combinations(FLAGS, 2)]


def test_the_rules_cover_every_flag() -> None:
    assert set(BITS) | set(VALUES) | SPECIAL == set(FLAGS)
    assert len(SETS) == 34 + 34 * 33 // 2


@pytest.mark.parametrize("names", SETS, ids=lambda names: "+".join(sorted(names)))
def test_a_set_as_given(names: set[str]) -> None:
    """Its leaves, or all that is missing in one error, with a -cpu that works."""
    if "hv-passthrough" in names:  # brings along whatever the host has
        need = {n for n in required(names) if n not in BITS}
    else:
        need = required(names)
    if not need:
        assert shown_by(names) == expected(names)
        return
    with pytest.raises(FlagError) as caught:
        choose(parse_cpu(text(names)).hv, HOST, user=False, cpu=text(names))
    for name in BITS:
        requires = f" requires Hyper-V {FLAGS[name].desc} ({name}"
        assert (requires in str(caught.value)) == (name in need)
    assert set(caught.value.corrected.split(",")) == set(text(names).split(",")) | need
    assert shown_by(names | need) == expected(names | need)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_by_the_same_rules(name: str) -> None:
    """The leaves of each preset follow from the measured bits of its flags, on AMD and Intel."""
    for intel in (False, True):
        rows = table(user=False, intel=intel)
        cpu, _ = expand(name, None, rows, user=False)
        spec = parse_cpu(cpu)
        want = expected({flag for flag in spec.hv if flag != "hv-spinlocks"})
        if "hv-spinlocks" in spec.hv:
            want[4][1] = int(spec.hv["hv-spinlocks"])
        got = {row[0] & 0xF: list(row[2:]) for row in hv_leaves(choose(spec.hv, rows, user=False))}
        assert got == want


@pytest.mark.parametrize(("name", "dump"), [("none", "00-none.txt"), ("max", "5-all.txt")])
def test_presets_that_are_dumps(name: str, dump: str) -> None:
    """With KVM's leaves left on, max is the dump with all flags, and none the one without."""
    cpu, _ = expand(name, "host,kvm=on", kernel_table(), user=False)
    want = {leaf: value for leaf, value in read_dump(dump)[1].items() if leaf not in HOST_LEAVES}
    got = shown(cpu, user=False)
    assert {leaf: got.get(leaf, (0, 0, 0, 0)) for leaf in want} == want


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "none"])
def test_a_preset_has_its_dump(name: str) -> None:
    """The dump 9-preset-NAME was recorded with this very -cpu; test_flags_golden compares it."""
    cpu, _ = expand(name, None, kernel_table(), user=False)
    assert read_dump(f"9-preset-{name}.txt")[0] == cpu
