"""Feature bits, CPU models, topology, and the CPUID of a whole machine, without a KVM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyhv import cpu_models, cpu_topology
from pyhv.config import Smp
from pyhv.cpu_features import WORDS, names, places
from pyhv.cpu_options import parse_cpu
from pyhv.errors import ConfigError
from pyhv.guestcpuid import GuestCpuid
from pyhv.hyperv.choose import in_user_table

WORDS_FILE = Path(__file__).parents[1] / "baseline" / "qemu10_cpu_words.json"
BASELINE = json.loads(WORDS_FILE.read_text())
FEATURES = {name: places(name) for name in names()}
MODELS = [name for name in BASELINE if name != "origin"]
AMD, INTEL = (0x68747541, 0x444D4163, 0x69746E65), (0x756E6547, 0x6C65746E, 0x49656E69)
ALL = 0xFFFFFFFF


def host(vendor: tuple[int, int, int] = AMD) -> dict[tuple[int, int], list[int]]:
    """Return a made-up host with every feature bit and the leaves that matter."""
    ebx, ecx, edx = vendor
    table = {
        (0, 0): [0x20, ebx, ecx, edx],
        (1, 0): [0x00A20F12, 0x00100800, ALL, ALL],
        (4, 0): [0x1FC3C121, 0, 0, 0],
        (4, 1): [0x1FC3C163, 0, 0, 0],
        (4, 2): [0, 0, 0, 0],
        (6, 0): [4, 0, 0, 0],
        (7, 0): [1, ALL, ALL, ALL],
        (7, 1): [ALL, 0, 0, ALL],
        (7, 2): [0, 0, 0, ALL],
        (0xB, 0): [1, 2, 0x100, 9],
        (0xD, 0): [0x602FF, 0, 0xB00, 0],
        (0xD, 1): [0x1F, 0, 0, 0],
        (0xD, 2): [0x100, 0x240, 0, 0],
        (0x1F, 0): [1, 2, 0x100, 9],
        (0x40000000, 0): [0x40000001, 0x4B4D564B, 0x564B4D56, 0x4D],
        (0x40000001, 0): [0x01007EFB, 0, 0, 0],
        (0x80000000, 0): [0x80000021, ebx, ecx, edx],
        (0x80000001, 0): [0x00A20F12, 0, ALL, ALL],
        (0x80000007, 0): [0, 3, 0, 0x100],
        (0x80000008, 0): [0x3030, ALL, 0, 0],
        (0x8000001D, 0): [0x4121, 0, 0, 0],
        (0x8000001E, 0): [9, 0, 0, 0],
        (0x8000000A, 0): [1, 8, 0, ALL],
        (0x80000021, 0): [ALL, 0, 0, 0],
    }
    return {key: list(value) for key, value in table.items()}


def rows(table: dict[tuple[int, int], list[int]]) -> list[tuple[int, ...]]:
    """Return the table as KVM_GET_SUPPORTED_CPUID has it."""
    counted = {4, 7, 0xB, 0xD, 0x1F, 0x8000001D}
    return [(*key, int(key[0] in counted), *value) for key, value in table.items()]


@pytest.mark.parametrize("model", MODELS)
def test_places_agree_with_qemu(model: str) -> None:
    """QEMU's words and the names it says are on: bit by bit the same as our table (see origin)."""
    words = {(leaf, index, reg): value for leaf, index, reg, value in BASELINE[model]["words"]}
    assert set(WORDS) <= set(words)
    on = set(BASELINE[model]["on"])
    wrong = [
        name
        for name, places in FEATURES.items()
        for place in places
        if bool(words[place[:3]] & place.mask) != (name in on)
    ]
    assert wrong == []


def test_the_patterns_tell_every_feature_from_every_other() -> None:
    """No two names had the same answers, so a wrong bit would show; KVM's own need a KVM."""
    answers = {
        name: tuple(name in BASELINE[model]["on"] for model in MODELS)
        for name in FEATURES
        if not name.startswith("kvm") or name == "kvm-hint-dedicated"
    }
    assert len(set(answers.values())) == len(answers)
    assert all(map(any, answers.values()))


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_switches(name: str) -> None:
    """Off takes the bits away, on leaves them; a host without them gives QEMU's warning."""
    off = host()
    assert cpu_models.apply(parse_cpu(f"host,-{name}"), off) == []
    assert not any(off[p[:2]][p.register] & p.mask for p in FEATURES[name] if p[:2] in off)
    on = host()
    warnings = cpu_models.apply(parse_cpu(f"host,+{name}"), on)
    bare = {(0, 0): [1, 0, 0, 0], (1, 0): [0, 0, 0, 0]}
    lacks = cpu_models.apply(parse_cpu(f"host,+{name}"), bare)
    if name in cpu_models.EMULATED:
        assert lacks == []
    else:
        assert len(lacks) == len(FEATURES[name])
        assert f".{name} [bit " in lacks[0]
        with pytest.raises(ConfigError, match="host doesn't support requested feature"):
            cpu_models.apply(parse_cpu(f"host,+{name},enforce"), bare)
    lacking = ("kvm-mmu", "kvm-msi-ext-dest-id", "kvm-hint-dedicated")  # in host()
    assert len(warnings) == (name in lacking)
    assert warnings or all(on[p[:2]][p.register] & p.mask for p in FEATURES[name])


def test_the_warning_is_qemus() -> None:
    table = host()
    table[7, 0][1] = 0
    assert cpu_models.apply(parse_cpu("host,avx2"), table) == [
        "host doesn't support requested feature: CPUID.07H:EBX.avx2 [bit 5]"
    ]
    assert cpu_models.apply(parse_cpu("host,avx2,check=off"), table) == []


def test_host_is_the_host_but_for_what_cannot_move() -> None:
    table = host()
    table[1, 0][2] &= ~(1 << 31)
    assert cpu_models.apply(parse_cpu("host"), table) == []
    assert table[1, 0][2] >> 31 == 1
    assert table[0x80000007, 0][3] == 0
    for cpu in ("host,migratable=off", "host,invtsc"):
        table = host()
        cpu_models.apply(parse_cpu(cpu), table)
        assert table[0x80000007, 0][3] == 0x100
    cpu_models.apply(parse_cpu("host,-hypervisor"), table)
    assert table[1, 0][2] >> 31 == 0


def test_qemu64_is_qemus() -> None:
    """Leaf 1, 80000007 and KVM's word as in the golden dump 5-seed-qemu64, on an AMD host."""
    table = host()
    assert cpu_models.apply(parse_cpu("qemu64"), table) == []
    cpu_topology.apply(table, 0, Smp(1, 1, 1, 1))
    one = table[1, 0]
    assert (one[0], one[2], one[3]) == (0x00060FB1, 0x80202001, 0x078BFBFD)
    assert table[0x80000007, 0] == [0, 0, 0, 0]
    assert table[0x40000001, 0][0] == 0x0100007B
    assert table[0x80000001, 0][3] == 0x2193FBFD
    assert (table[0, 0][0], table[0x80000000, 0][0]) == (0xD, 0x8000000A)
    assert table[7, 0] == table[0xD, 0] == [0, 0, 0, 0]
    assert max(leaf for leaf, _ in table) <= 0x8000000A
    name = b"".join(
        word.to_bytes(4, "little") for leaf in (2, 3, 4) for word in table[0x80000000 + leaf, 0]
    )
    assert name.rstrip(b"\0") == b"QEMU Virtual CPU version 2.5+"


def test_xsave_goes_with_its_features() -> None:
    table = host()
    cpu_models.apply(parse_cpu("host,-avx"), table)
    assert table[0xD, 0][0] == 0x602FB
    assert (0xD, 2) not in table
    cpu_models.apply(parse_cpu("host,-xsave"), table)
    assert table[0xD, 0] == table[0xD, 1] == [0, 0, 0, 0]


def test_identity() -> None:
    table = host()
    spec = parse_cpu(
        "host,vendor=GenuineIntel,model-id=A CPU,family=6,model=0x9e,stepping=3,phys-bits=39"
    )
    cpu_models.apply(spec, table)
    assert tuple(table[0, 0][1:]) == INTEL
    assert table[0x80000000, 0][1:] == table[0, 0][1:]
    assert table[1, 0][0] == 0x000906E3
    assert table[0x80000002, 0][:2] == [0x50432041, 0x55]
    assert table[0x80000008, 0][0] == 0x3027


@pytest.mark.parametrize("item", ["phys-bits=60", "family=271", "model=256", "stepping=16"])
def test_impossible_identity(item: str) -> None:
    with pytest.raises(ConfigError):
        cpu_models.apply(parse_cpu(f"host,{item}"), host())


@pytest.mark.parametrize(
    ("smp", "ebx", "htt"),
    [(Smp(1, 1, 1, 1), 0x00, 0), (Smp(2, 1, 2, 1), 0x02, 1), (Smp(4, 1, 4, 1), 0x04, 1)],
)
def test_leaf_1_as_in_the_goldens(smp: Smp, ebx: int, htt: int) -> None:
    """EBX[23:16] and HTT of the dumps with -smp 1, 2 and 4; EBX[15:8] is the host's."""
    table = host()
    cpu_topology.apply(table, smp.cpus - 1, smp)
    assert table[1, 0][1] == (smp.cpus - 1) << 24 | ebx << 16 | 0x0800
    assert table[1, 0][3] >> 28 & 1 == htt


def test_leaf_b() -> None:
    """Two sockets of two cores of two threads: shifts 1 and 2, and the id in every level."""
    table = host()
    counted = cpu_topology.apply(table, 6, Smp(8, 2, 2, 2))
    assert counted == [(0xB, 0), (0xB, 1), (0xB, 2)]
    assert [table[key] for key in counted] == [[1, 2, 0x100, 6], [2, 4, 0x201, 6], [0, 0, 2, 6]]
    assert (0x1F, 0) not in table
    assert table[0x80000008, 0][2] == 0x2003
    assert table[4, 0][0] == 0x21 | 0x3C100 & 0x3FFF | 1 << 14 | 1 << 26
    assert table[4, 1][0] >> 14 & 0xFFF == 3


def test_topoext() -> None:
    """Leaf 8000001E of thread 6 with topoext asked for; otherwise the leaf is not there."""
    table = host()
    cpu_models.apply(parse_cpu("host,topoext"), table)
    cpu_topology.apply(table, 6, Smp(8, 2, 2, 2))
    assert table[0x8000001E, 0] == [6, 0x101, 0, 0]
    table = host()
    cpu_models.apply(parse_cpu("host"), table)
    cpu_topology.apply(table, 6, Smp(8, 2, 2, 2))
    assert (0x8000001E, 0) not in table


@pytest.mark.parametrize("smp", [Smp(6, 2, 3, 1), Smp(6, 1, 2, 3), Smp(6, 2, 1, 3)])
def test_gaps_in_apic_ids_are_refused(smp: Smp) -> None:
    with pytest.raises(ConfigError, match="power of two"):
        cpu_topology.check(smp)


@pytest.mark.parametrize("smp", [Smp(3, 1, 3, 1), Smp(3, 1, 1, 3), Smp(12, 1, 6, 2)])
def test_one_socket_may_have_any_number(smp: Smp) -> None:
    cpu_topology.check(smp)


@pytest.mark.parametrize("hyperv", [None, in_user_table()], ids=["user", "kernel"])
def test_a_whole_machine(hyperv: object) -> None:
    """The default: Hyper-V's leaves, none of KVM's, and each vCPU its own number."""
    cpu = GuestCpuid(None, rows(host()), hyperv, Smp(2, 1, 2, 1))  # type: ignore[arg-type]
    assert cpu.features.enabled
    assert cpu.warnings == ()
    tables = [cpu.for_vcpu(index).table for index in range(2)]
    leaves = [leaf for leaf, _ in tables[0] if 0x40000000 <= leaf < 0x50000000]
    assert sorted(leaves) == list(range(0x40000000, 0x40000006))
    assert [table[1, 0][1] >> 24 for table in tables] == [0, 1]
    flags = cpu.for_vcpu(1).flags
    assert flags.keys() == tables[1].keys()
    assert {key for key, flag in flags.items() if flag and key[0] == 0xB} == {
        (0xB, 0), (0xB, 1), (0xB, 2),
    }  # fmt: skip


def test_host_alone_is_no_hyperv() -> None:
    cpu = GuestCpuid("host", rows(host()), None, Smp(1, 1, 1, 1))
    assert not cpu.features.enabled
    table = cpu.for_vcpu(0).table
    assert table[0x40000001, 0] == [0x01007EFB, 0, 0, 0]
    assert (0x40000002, 0) not in table


@pytest.mark.parametrize("name", ["hv-tlbflush-direct", "hv-emsr-bitmap", "hv-evmcs"])
def test_what_the_driver_cannot_is_refused_by_name(name: str) -> None:
    cpu = f"host,hv-relaxed,hv-vpindex,hv-synic,hv-vapic,{name}"
    with pytest.raises(ConfigError, match=name):
        GuestCpuid(cpu, rows(host()), None, Smp(1, 1, 1, 1))


@pytest.mark.parametrize("hyperv", [None, in_user_table()], ids=["user", "kernel"])
def test_free_pages_are_one_bit(hyperv: object) -> None:
    """It is shown, and granted, with --free-page-reporting and never else."""
    plain, shown = (
        GuestCpuid(None, rows(host()), hyperv, Smp(1, 1, 1, 1), free_pages=free)  # type: ignore[arg-type]
        for free in (False, True)
    )
    before, after = plain.for_vcpu(0).table, shown.for_vcpu(0).table
    assert {key for key in after if after[key] != before[key]} == {(0x40000003, 0)}
    assert after[0x40000003, 0][1] == before[0x40000003, 0][1] | 1 << 20
    assert shown.features.free_pages
    assert shown.features.leaf3_ebx >> 20 & 1
    assert not plain.features.free_pages


def test_free_pages_need_hyperv_and_a_kvm_that_hands_the_calls_on() -> None:
    with pytest.raises(ConfigError, match="--free-page-reporting: the guest sees no Hyper-V"):
        GuestCpuid("host", rows(host()), None, Smp(1, 1, 1, 1), free_pages=True)
    old = [(*row[:4], row[4] & ~(1 << 20), *row[5:]) for row in in_user_table()]
    with pytest.raises(ConfigError, match=r"Linux 6\.3 hands them on\); use --hyperv user"):
        GuestCpuid(None, rows(host()), old, Smp(1, 1, 1, 1), free_pages=True)
