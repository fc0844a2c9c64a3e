"""CPUID of every golden dump of QEMU 10 and every message it refused with, from the same -cpu."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyhv.cpu_options import parse_cpu
from pyhv.errors import ConfigError
from pyhv.hyperv.choose import FlagError, choose, in_user_table, refusals
from pyhv.hyperv.cpuid import leaves
from pyhv.hyperv.machine_types import hyperv_defaults

GOLDEN = Path(__file__).parents[2] / "baseline" / "golden"
NOT_DUMPS = {"errors.txt", "kvm-supported-hv-cpuid.txt"}
#: dumps of what a reset or a crash leaves: MSRs only, no [cpuid] section
NO_CPUID = {
    "7-reset-cf9.txt",
    "7-reset-msr.txt",
    "8-crash-not-enabled.txt",
    "8-reset-msr-noreboot.txt",
}
DUMPS = sorted(
    path.name for path in GOLDEN.glob("*.txt") if path.name not in NOT_DUMPS | NO_CPUID
)

#: leaves of the dumps that come from the host, not from the flags (INDEX.md): leaf 1 and
#: 80000007 are the CPU's own, 40000101 is given to ``leaves`` as KVM's word.
HOST_LEAVES = {0x00000001, 0x80000007}
KVM_MODEL_BITS = {"host": 0x01007EFB, "qemu64": 0x0100007B}  # 40000101 of the dumps

# hv-passthrough under in_user leaves out what in_user refuses: leaf A, and so the highest leaf
USER_PASSTHROUGH = {
    0x40000000: (0x40000005, 0x756E694C, 0x564B2078, 0x7648204D),
    0x4000000A: (0, 0, 0, 0),
}


def kernel_table() -> list[tuple[int, ...]]:
    """Return the first (system) table of kvm-supported-hv-cpuid.txt as KVM rows."""
    rows = []
    for line in (GOLDEN / "kvm-supported-hv-cpuid.txt").read_text().splitlines():
        words = line.split()
        if line.startswith("4") and "." in words[0]:
            leaf, index = (int(part, 16) for part in words[0].split("."))
            rows.append((leaf, index, *(int(word, 16) for word in words[1:])))
        elif line.startswith("#") and rows:
            break
    return rows


def read_dump(name: str) -> tuple[str, dict[int, tuple[int, ...]]]:
    """Return the -cpu argument and leaf -> registers of a dump."""
    cpu, found, inside = "", {}, False
    for line in (GOLDEN / name).read_text().splitlines():
        if line.startswith("# cpu: -cpu "):
            cpu = line.removeprefix("# cpu: -cpu ")
        elif line.startswith("["):
            inside = line == "[cpuid]"
        elif inside:
            where, *words = line.split()
            found[int(where.split(".")[0], 16)] = tuple(int(word, 16) for word in words)
    return cpu, found


def machine_of(name: str) -> str:
    """Return the ``-M`` of a dump; most have the newest type."""
    found = re.search(r"^# machine: (.*)$", (GOLDEN / name).read_text(), re.MULTILINE)
    return found[1] if found else "pc"


def shown(cpu: str, *, user: bool, machine: str = "pc") -> dict[int, tuple[int, ...]]:
    """Return leaf -> registers as pyhv shows them."""
    spec = parse_cpu(cpu)
    table = in_user_table(smt_possible=False) if user else kernel_table()
    chosen = choose(spec.hv, table, user=user, cpu=cpu, defaults=hyperv_defaults(machine))
    kvm = (KVM_MODEL_BITS[spec.model], 0) if spec.kvm else None
    rows = leaves(chosen, kvm)
    assert [row[1] for row in rows] == [0] * len(rows)
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[2:] for row in rows}


def test_there_are_dumps() -> None:
    """The oracle is the whole folder: 77 dumps, each with the 25 leaves the probe asked for."""
    assert len(DUMPS) == 77
    assert {len(read_dump(name)[1]) for name in DUMPS} == {25}


@pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
@pytest.mark.parametrize("name", DUMPS)
def test_leaves_equal_dump(name: str, *, user: bool) -> None:
    """Every hypervisor leaf asked for equals; one that is not given reads as zero."""
    cpu, dump = read_dump(name)
    mine = shown(cpu, user=user, machine=machine_of(name))
    expected = {leaf: value for leaf, value in dump.items() if leaf not in HOST_LEAVES}
    if user and "hv_passthrough" in cpu:
        expected |= USER_PASSTHROUGH
    assert set(mine) <= set(expected)
    assert {leaf: mine.get(leaf, (0, 0, 0, 0)) for leaf in expected} == expected


@pytest.mark.parametrize("name", DUMPS)
def test_hypervisor_bit(name: str) -> None:
    """QEMU sets CPUID.1:ECX[31] in every dump, also without any hypervisor leaf."""
    assert read_dump(name)[1][1][2] >> 31 == 1


#: refused for what is not the flags: a device, the TSC of that host
NOT_FLAGS = {"2-syndbg+deps+dev", "5-all-tscfreq"}
#: where pyhv says it better
BETTER = {"3-err-unknown": "hv_nonsense: no such CPU flag"}


def refused() -> list[tuple[str, str, str]]:
    """Return (set, -cpu, message) of errors.txt."""
    rows = []
    for line in (GOLDEN / "errors.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, cpu, _, text = line.split(" | ", 3)
            rows.append((name, cpu, text))
    return rows


@pytest.mark.parametrize(("name", "cpu", "text"), refused(), ids=[row[0] for row in refused()])
def test_refused_with_qemus_words(name: str, cpu: str, text: str) -> None:
    """The message begins with QEMU's, is one line, and its corrected -cpu is accepted."""
    if name in NOT_FLAGS:
        shown(cpu.replace("tsc-frequency=2500000000,", ""), user=False)
        return
    with pytest.raises(ConfigError) as caught:
        shown(cpu, user=False)
    message = str(caught.value)
    assert message.startswith(BETTER.get(name, text))
    assert "\n" not in message
    if isinstance(caught.value, FlagError):
        assert shown(caught.value.corrected, user=False)


def test_the_seeds_own_dump() -> None:
    """The dump of the project's seed (an Intel host, QEMU 6.2 or later), bit for bit."""
    text = (GOLDEN.parent / "seed_cpuid.txt").read_text()
    cpu = next(line for line in text.splitlines() if line.startswith("-cpu ")).split()[1]
    before, after = {}, {}
    for line in text.splitlines():
        if line[:8] in ("< CPUID ", "> CPUID "):
            where, words = line[8:].split(" = ")
            registers = tuple(int(word, 16) for word in words.split(" | ")[0].split())
            (before if line[0] == "<" else after)[int(where.split(":")[0], 16)] = registers
    spec = parse_cpu(cpu)
    with_flags = choose(spec.hv, kernel_table(), user=False)
    alone = choose({}, kernel_table(), user=False)
    kvm = (0x01007AFB, 0)  # that host's KVM
    mine = {row[0]: row[2:] for row in leaves(with_flags, kvm)}
    assert {leaf: mine[leaf] for leaf in after} == after
    assert set(mine) - set(after) == {0x40000100, 0x40000101}
    assert {row[0]: row[2:] for row in leaves(alone, kvm)} == before


def test_in_user_table_is_kvms() -> None:
    """in_user answers with the bits of the real KVM; the promise about SMT follows the host."""
    assert list(in_user_table(smt_possible=False)) == kernel_table()
    difference = [
        (mine[0], mine[3] ^ kvms[3])
        for mine, kvms in zip(in_user_table(), kernel_table(), strict=True)
        if mine != kvms
    ]
    assert difference == [(0x40000004, 1 << 18)]


@pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
def test_all_flags_are_refused_only_by_name(*, user: bool) -> None:
    """5-all runs under in_kernel; in_user names the two nested flags that it cannot do."""
    cpu = read_dump("5-all.txt")[0]
    table = in_user_table() if user else kernel_table()
    chosen = choose(parse_cpu(cpu).hv, table, user=user)
    names = [text.split(":")[0] for text in refusals(chosen, user=user)]
    assert names == (["hv-emsr-bitmap", "hv-tlbflush-direct"] if user else [])
