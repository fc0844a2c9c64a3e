"""cpuid: every form of a dump, names against Debian's cpuid, flags back from golden dumps."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from pyhv import cli
from pyhv.cpu_options import parse_cpu
from pyhv.errors import ConfigError
from pyhv.lookup import cpuid, dumps
from pyhv.lookup.names import BITS

BASELINE = Path(__file__).parents[2] / "baseline"
GOLDEN = sorted(
    path
    for path in (BASELINE / "golden").glob("*.txt")
    if "[cpuid]" in path.read_text() and path.name != "errors.txt"
)
SEED = BASELINE / "seed_cpuid.txt"
TIME = {(0x40000003, 0): {"eax": 0x262, "ebx": 0, "ecx": 0, "edx": 8}}


def one(text: str, **options: object) -> dumps.Dump:
    ((_, dump),) = dumps.parse(text, "x", **options)  # type: ignore[arg-type]
    return dump


# names


def debian_bits() -> list[tuple[int, str, int, str]]:
    lines = [
        line
        for line in (BASELINE / "debian_cpuid_bits.csv").read_text().splitlines()
        if not line.startswith("#")
    ]
    return [
        (int(row["leaf"], 16), row["register"], int(row["bit"]), row["text"])
        for row in csv.DictReader(lines)
    ]


#: names that share no word with Debian's, compared by hand: the same in
#: other words; 4000000A.EBX[0] is PerfGlobalCtrl in TLFS and Linux, another thing in that cpuid
BY_HAND = {
    (0x40000003, "eax", 4), (0x40000003, "eax", 8), (0x40000003, "eax", 12),
    (0x40000004, "eax", 3), (0x4000000A, "eax", 21), (0x4000000A, "ebx", 0),
}  # fmt: skip
GENERIC = {"access", "available", "avail", "msrs", "support", "supported", "hypervisor", "virtual"}


def test_bits_are_those_of_debians_cpuid() -> None:
    theirs = {(leaf, register, bit) for leaf, register, bit, _ in debian_bits()}
    leaves = {leaf for leaf, _, _ in theirs}
    ours = {(leaf, reg, bit) for (leaf, reg), names in BITS.items() for bit in names}
    extra = {place for place in ours - theirs if place[0] in leaves}
    assert theirs <= ours
    assert extra == {(0x40000003, "eax", 14)}  # newer than that cpuid: AccessRootSchedulerReg


@pytest.mark.parametrize("row", debian_bits(), ids=lambda row: f"{row[0]:x}.{row[1]}[{row[2]}]")
def test_a_name_means_what_debians_cpuid_says(row) -> None:
    leaf, register, bit, text = row
    ours = BITS[leaf, register][bit].lower()
    theirs = set(re.findall("[a-z0-9]{4,}", text.lower())) - GENERIC
    shared = any(word.rstrip("s")[:9] in ours for word in theirs)
    assert shared != ((leaf, register, bit) in BY_HAND)


# forms

LINES = {
    "cpuid -r": "CPU 0:\n   0x40000003 0x00: eax=0x00000262 ebx=0x00000000 ecx=0x00000000 "
    "edx=0x00000008\nCPU 1:\n   0x40000003 0x00: eax=0x00000000 ebx=0x00000000 ecx=0x00000000 "
    "edx=0x00000000",
    "seed": "CPUID 40000003:00 = 00000262 00000000 00000000 00000008 | b...............",
    "golden": "40000003.00000000 00000262 00000000 00000000 00000008",
    "kvm table": "40000003.00000000 0 00000262 00000000 00000000 00000008",
    "raw": "0x40000003 0x262 0 0 0x8",
    "explain --json": '{"cpuid": [[1073741827, 0, 610, 0, 0, 8]]}',
}


@pytest.mark.parametrize("name", LINES)
def test_forms(name) -> None:
    assert one(LINES[name]) == TIME


def test_four_words_take_the_leaf_from_the_option() -> None:
    assert one("262 0 0 8", leaf=0x40000003) == TIME
    with pytest.raises(ConfigError, match="add --leaf"):
        one("262 0 0 8")


def test_another_cpu_of_cpuid_r() -> None:
    assert one(LINES["cpuid -r"], cpu=1)[0x40000003, 0]["eax"] == 0


BOOT = """\
[    0.000000] Hypervisor detected: Microsoft Hyper-V
[    0.000000] Hyper-V: privilege flags low 0x2aff, high 0x830, {ext}hints 0x40e2c, misc 0x84d12
[    0.000000] Hyper-V: Nested features: 0xa0000
[    0.000000] Hyper-V: Host Build 10.0.14393.1-2-3"""


@pytest.mark.parametrize("ext", ["", "ext 0x20, "])
def test_what_linux_prints_at_boot(ext) -> None:
    dump = one(BOOT.format(ext=ext))
    assert dump[0x40000003, 0] == {
        "eax": 0x2AFF, "ebx": 0x830, "edx": 0x84D12, **({"ecx": 0x20} if ext else {}),
    }  # fmt: skip
    assert dump[0x40000004, 0] == {"eax": 0x40E2C}
    assert dump[0x4000000A, 0] == {"eax": 0xA0000}
    assert dump[0x40000002, 0] == {"eax": 14393, "ebx": 0xA0000, "ecx": 2, "edx": 3 << 24 | 1}
    newer = f"Hyper-V: Hypervisor Build 10.0.26100.1-2-3{'9' * 5000}"
    assert one(f"{newer}\nHyper-V: features 0x262, hints 0x2")[0x40000004, 0] == {"eax": 2}
    assert one(f"Hyper-V: features 0x262, hints 0x20{ext}")[0x40000003, 0] == {"eax": 0x262}


def test_a_part_of_a_dump_is_not_a_dump_of_zeros() -> None:
    """What a form has no register for does not speak against a flag."""
    boot = "Hyper-V: privilege flags low 0x70, high 0x0, hints 0x4008, misc 0x8"
    assert cpuid.flags_of(one(boot)) == (["hv-vapic", "hv-vpindex", "hv-evmcs"], {})
    words = [{"cpuid-register": "EAX", "cpuid-input-eax": 0x40000003, "features": 0x26E}]
    flags = ["hv-time", "hv-vpindex", "hv-synic", "hv-stimer"]
    assert cpuid.flags_of(one(json.dumps(words))) == (flags, {})
    whole = "40000000 40000005 7263694d 666f736f 76482074\n40000003 0000026e 0 0 8"
    assert cpuid.flags_of(one(whole))[0][-1] == "x-hv-synic-kvm-only"


def test_qmp() -> None:
    words = [{"cpuid-register": "EAX", "cpuid-input-eax": 0x40000003, "features": 0x262},
             {"cpuid-register": "EDX", "cpuid-input-eax": 7, "cpuid-input-ecx": 1,
              "features": 2}]  # fmt: skip
    dump = one(json.dumps({"return": words}))
    assert dump == {(0x40000003, 0): {"eax": 0x262}, (7, 1): {"edx": 2}}
    model = {"return": {"model": {"name": "host", "props": {
        "hv-time": True, "hv-vpindex": True, "hv-relaxed": True, "hv-spinlocks": 0xFFFFFFFF,
        "kvm": False, "hv-ipi": False}}}}  # fmt: skip
    log = '{"QMP": {}}\n' + json.dumps(model)
    assert one(log)[0x40000003, 0] == TIME[0x40000003, 0]
    assert cpuid.flags_of(one(log))[0] == ["kvm=off", "hv-relaxed", "hv-time", "hv-vpindex"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no CPUID dump in it"),
        ("hello\nworld", "no CPUID dump in it"),
        ("CPUID 40000003:00 = 00000262 000", "line 1: CPUID 40000003:00 = 00000262 000: not a"),
        ("   0x40000003 0x00: eax=0x00000262 ebx=", "was it cut short?"),
        ("40000003.00000000 00000262 0000", "was it cut short?"),
        ("{", "no CPUID dump in it"),
        ('{"return": {}}', "no CPUID in this JSON"),
        ('{"cpuid": [[1]]}', "a CPUID row has 6 or 7 numbers"),
        ('{"cpuid": [[1,2,3,4,5,"x"]]}', "is no 32-bit number"),
        ('[{"cpuid-register": "EIP"}]', "no register eip"),
        ('{"model": {"props": {"hv-time": "maybe"}}}', "hv-time"),
        ("[" * 100_000, "was it cut short?"),
        ('{"return": [{"cpuid-register": "EAX", "cpuid-in', "was it cut short?"),
        ("Hyper-V: privilege flags low 0x2aff, high 0x8", "no misc in it; was it cut short?"),
    ],
)
def test_what_is_no_dump(text, error, tmp_path, capfd) -> None:
    path = tmp_path / "dump"
    path.write_text(text)
    assert cli.main(["cpuid", str(path)]) == 2
    out, err = capfd.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert error in err or text == "{"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["/nonexistent"], "No such file"),
        (["--leaf", "x", str(SEED)], "--leaf x: a number"),
        (["--on", "-1", str(SEED)], "--on -1: a number"),
        ([str(SEED), str(SEED)], "4 dumps: one is decoded"),
        ([str(SEED), "--cpu", "host"], "3 dumps"),
        (["a", "b", "c"], "one argument too many"),
        (["/bin/true"], "binary data"),
    ],
)
def test_wrong_command_lines(words, error, capfd) -> None:
    assert cli.main(["cpuid", *words]) == 2
    err = capfd.readouterr().err
    assert error in err
    assert err.count("\n") == 1


# decoding


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_flags_back_from_a_golden_dump(path) -> None:
    """The flags that are found show the leaves that the dump has, bit for bit."""
    dump = one(path.read_text())
    items, rest = cpuid.flags_of(dump)
    assert not rest
    if not cpuid.is_hyperv(dump):
        assert not items
        return
    parse_cpu(",".join(["host", *items]))
    _, again = cpuid._of_flags(",".join(["host", *items]))
    for leaf in (0x40000002, 0x40000003, 0x40000004, 0x40000005, 0x4000000A):
        if (leaf, 0) in again:
            # only hv-passthrough shows limits other than these in EBX
            assert again[leaf, 0] == dump[leaf, 0]
    assert again[0x40000000, 0]["ebx"] == dump[0x40000000, 0]["ebx"]


def test_bits_that_no_flag_sets_are_named() -> None:
    text = "\n".join(cpuid.decode("x", one("40000003 0000a262 00001000 0 0a"), every=False))
    assert "no flag sets 40000003.EAX AccessTscInvariantControls" in text
    assert "no flag sets 40000003.EBX CpuManagement" in text
    assert "(hv-time)" in text


def test_the_seed_compares_its_two_halves(capfd) -> None:
    assert cli.main(["cpuid", str(SEED)]) == 1
    shown = capfd.readouterr().out.splitlines()
    assert "+ 40000003.EAX[9] AccessPartitionReferenceTsc  (hv-time)" in shown
    assert "+ 40000001 interface 'Hv#1'" in shown
    assert "- 40000001.EAX[0] kvmclock" in shown
    assert max(map(len, shown)) <= 80


def test_equal_dumps_and_a_cpu(tmp_path, capfd) -> None:
    golden = str(BASELINE / "golden" / "5-seed-kvm-off.txt")
    assert cli.main(["cpuid", golden, "--cpu", "host,kvm=off,hv_relaxed,hv_vpindex,hv_time"]) == 0
    assert capfd.readouterr().out == "the same\n"
    assert cli.main(["cpuid", golden, golden]) == 0
    assert cli.main(["cpuid", golden, "--cpu", "host,hv_ipi"]) == 2


def test_all_leaves_and_json(capfd) -> None:
    golden = str(BASELINE / "golden" / "5-all.txt")
    assert cli.main(["cpuid", "--all", golden]) == 0
    assert "ECX[31] hypervisor" in capfd.readouterr().out
    assert cli.main(["cpuid", "--json", golden]) == 0
    (found,) = json.loads(capfd.readouterr().out)
    assert "hv-emsr-bitmap" in found["flags"]
    assert found["leaves"]["40000003.0"]["bits"][0] == "eax[0] AccessVpRunTimeReg"


@pytest.mark.parametrize("path", GOLDEN[:6], ids=lambda path: path.name)
def test_decoded_lines_fit_80_columns(path) -> None:
    lines = cpuid.decode("x", one(path.read_text()), every=True)
    assert max(len(line) for line in lines if not line.startswith("  kvm=off")) <= 80
