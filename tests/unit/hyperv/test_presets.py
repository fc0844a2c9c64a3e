"""Presets and machine types: what they expand to, and the leaves that come of it."""

from __future__ import annotations

import itertools

import pytest
from test_flags_golden import kernel_table

from pyhv.config import HV_PRESETS
from pyhv.cpu_options import DEFAULT_CPU, parse_cpu
from pyhv.errors import ConfigError
from pyhv.hyperv.choose import Chosen, choose, in_user_table, refusals
from pyhv.hyperv.cpuid import hv_leaves
from pyhv.hyperv.flags import FLAGS
from pyhv.hyperv.machine_types import FAMILIES, VERSIONS, hyperv_defaults
from pyhv.hyperv.presets import PRESETS, expand

NESTED = ("hv_evmcs", "hv_emsr_bitmap", "hv_tlbflush_direct")
both_drivers = pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
every_preset = pytest.mark.parametrize("name", PRESETS)


def table(*, user: bool, intel: bool = False) -> list[tuple[int, ...]]:
    """Return a host's table: the measured one of AMD; on Intel KVM adds the enlightened VMCS."""
    rows = list(in_user_table() if user else kernel_table())
    if intel:
        more = {0x40000004: 1 << 14, 0x4000000A: 0x101}
        rows = [(*row[:3], row[3] | more.get(row[0], 0), *row[4:]) for row in rows]
    return rows


def chosen(name: str, cpu: str | None = None, *, user: bool, intel: bool = False) -> Chosen:
    rows = table(user=user, intel=intel)
    text, _ = expand(name, cpu, rows, user=user)
    return choose(parse_cpu(text).hv, rows, user=user, cpu=text)


def test_the_command_line_knows_them_all() -> None:
    assert tuple(PRESETS) == HV_PRESETS


@both_drivers
@every_preset
def test_a_preset_is_complete_and_refused_nowhere(name: str, *, user: bool) -> None:
    """What its flags require is there, no driver refuses one, and each stands there once."""
    got = chosen(name, user=user)
    assert refusals(got, user=user) == []
    assert got.enabled == (name != "none")
    text, _ = expand(name, None, table(user=user), user=user)
    names = [item.partition("=")[0] for item in text.split(",")]
    assert len(names) == len(set(names))
    assert parse_cpu(text).warnings == ()
    assert parse_cpu(text).kvm == (name == "none")
    assert PRESETS[name].meaning.endswith(".")


def test_linux_is_the_default() -> None:
    assert expand("linux", None, table(user=False), user=False) == (DEFAULT_CPU, ())


def test_none_is_no_hyperv() -> None:
    assert expand("none", "qemu64,+avx", table(user=True), user=True) == ("qemu64,+avx", ())
    assert hv_leaves(chosen("none", user=False)) == []


def test_the_users_flags_win() -> None:
    """They come last, and the model is the user's."""
    text, _ = expand("windows", "max,hv_ipi=off,kvm=on", table(user=False), user=False)
    assert text.startswith("max,kvm=off,hv_relaxed")
    spec = parse_cpu(text)
    assert spec.kvm
    assert spec.hv["hv-ipi"] is False
    assert "hv-ipi" not in chosen("windows", "host,hv_ipi=off", user=False).on


@pytest.mark.parametrize("name", ["nested", "max"])
def test_nested_flags_only_where_they_are(name: str) -> None:
    """Intel has the enlightened VMCS, AMD has not; in user space there is none of it."""
    for user, intel, out in ((False, True, ()), (False, False, NESTED[:1]), (True, True, NESTED)):
        rows = table(user=user, intel=intel)
        text, missing = expand(name, None, rows, user=user)
        assert set(missing) == set(out)
        on = choose(parse_cpu(text).hv, rows, user=user).on
        assert {flag.replace("_", "-") for flag in NESTED} - on == {
            flag.replace("_", "-") for flag in out
        }


def test_max_is_all_that_passthrough_finds() -> None:
    """The same features as hv-passthrough, under Microsoft's name."""
    rows = table(user=False)
    passed = choose({"hv-passthrough": True}, rows, user=False)
    assert chosen("max", user=False).on == passed.on
    assert len(passed.on) == sum(row.bit >= 0 for row in FLAGS.values()) - 2  # evmcs, syndbg
    leaves = {row[0]: row[2:] for row in hv_leaves(chosen("max", user=False))}
    assert leaves[0x40000000][1:] == (0x7263694D, 0x666F736F, 0x76482074)
    assert leaves[0x40000004] == (0xE24, 0xFFF, 0, 0)
    assert leaves[0x4000000A] == (0xA0000, 0, 0, 0)


# Machine types: measured leaves 2, 3 (EAX, EBX) and 5 of guests under QEMU 10's old types

NEW, OLD = (0x3839, 0xA0000, 0, 0), (0x1BBC, 0x60001, 0, 0)
SYNIC = "host,hv_vpindex,hv_synic"
MEASURED = [
    ("pc", "host,hv_relaxed", NEW, (0x20, 0), 0xFFFFFFFF),
    ("pc-i440fx-6.2", "host,hv_relaxed", NEW, (0x20, 0), 0xFFFFFFFF),
    ("pc-i440fx-6.1", "host,hv_relaxed", OLD, (0x20, 0), 0xFFFFFFFF),
    ("pc-q35-6.1,accel=kvm", "host,hv_relaxed", OLD, (0x20, 0), 0xFFFFFFFF),
    ("pc-i440fx-3.1", SYNIC, OLD, (0x64, 0x30), 0xFFFFFFFF),
    ("pc-i440fx-3.0", SYNIC, OLD, (0x64, 0), 0xFFFFFFFF),
    ("pc-i440fx-2.11", "host,hv_relaxed", OLD, (0x20, 0), 0xFFFFFFFF),
    ("pc-i440fx-2.10", "host,hv_relaxed", OLD, (0x20, 0), 0x40),
    ("pc-i440fx-2.10", "host,hv_relaxed,x-hv-max-vps=7,hv-version-id-build=1,"
     "hv-version-id-major=2,hv-version-id-minor=3", (1, 0x20003, 0, 0), (0x20, 0), 7),
]  # fmt: skip


@pytest.mark.parametrize(("machine", "cpu", "version", "three", "most"), MEASURED)
def test_machine_types(
    machine: str, cpu: str, version: tuple[int, ...], three: tuple[int, int], most: int
) -> None:
    """An older type changes defaults only: what the user writes counts."""
    got = choose(parse_cpu(cpu).hv, kernel_table(), user=False, defaults=hyperv_defaults(machine))
    leaves = {row[0]: row[2:] for row in hv_leaves(got)}
    assert leaves[0x40000002] == version
    assert leaves[0x40000003][:2] == three
    assert leaves[0x40000005][0] == most


def test_old_machines_have_kvms_synic_and_in_user_says_so_only_then() -> None:
    defaults = hyperv_defaults("pc-i440fx-2.9")
    for cpu, count in (("host,hv_synic", 1), ("host,hv_time", 0)):
        got = choose(parse_cpu(cpu).hv, in_user_table(), user=True, defaults=defaults)
        assert len(refusals(got, user=True)) == count
        assert refusals(got, user=False) == []


def test_every_machine_type_of_qemu_10() -> None:
    """As ``-M help`` of QEMU 10.0.13 lists them."""
    names = [family + version for family, version in itertools.product(FAMILIES, VERSIONS.split())]
    assert len(names) == 60
    for name in (*names, "pc-q35-4.0.1", "pc", "q35", "microvm", "accel=kvm", "type=q35"):
        hyperv_defaults(name)


@pytest.mark.parametrize(
    "text", ["pc-i440fx-10.1", "pc-i440fx-4.0.1", "pc-q35-", "virt", "", "pc,smm=off", "pc\n", "é"]
)
def test_unknown_machine_types(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        hyperv_defaults(text)
    assert str(caught.value).startswith("-M ")
    assert str(caught.value).isprintable()
