"""The comparison of dumps itself: what it must accept, and what it must not."""

from __future__ import annotations

import pytest
from golden_dump import GOLDEN, accepted, differences, key, parse, read

ACCEPTED = [
    ("msr 40000081 0000000000000001", "msr 40000081 0000000000000001"),
    ("msr 40000010 *", "msr 40000010 0000000000016e8d"),
    ("msr 40000020 0000000000000017", "msr 40000020 0000000000016e8d"),
    ("mem 00302218 *", "mem 00302218 0100000000000000"),
    ("mem 00301008 8fc2f5c83770fc00", "mem 00301008 0100000000000000"),
    ("mem 00300000 0f01d9c3c3", "mem 00300000 0f01c1c3c3"),
    ("00000001.00000000 00000663 00020800 f7f83203 1f8bfbfd",
     "00000001.00000000 00a00f11 00020800 87f83203 178bfbff"),
    ("40000101.00000000 01007efb 00000000 00000000 00000000",
     "40000101.00000000 01007afb 00000000 00000000 00000000"),
]  # fmt: skip
REFUSED = [
    ("msr 40000081 0000000000000001", "msr 40000081 #GP", "got 'msr 40000081 #GP'"),
    ("msr 40000010 *", "msr 40000010 #GP", "#GP"),
    ("msr 40000010 #GP", "msr 40000010 0000000000000001", "0001"),
    ("mem 00301008 aaaaaaaaaaaaaaaa", "mem 00301008 8fc2f5c83770fc00", "8fc2"),
    ("mem 00301008 8fc2f5c83770fc00", "mem 00301008 aaaaaaaaaaaaaaaa", "aaaa"),
    ("mem 00301008 *", "mem 00301008 0000000000000000", "0000"),
    ("mem 00300000 0f01d9c3c3", "mem 00300000 c3c3c3c3c3", "c3c3"),
    ("mem 00300000 c3c3c3c3c3", "mem 00300000 0f01d9c3c3", "0f01"),
    ("wrmsr 40000090 000000000000000f #GP", "wrmsr 40000090 000000000000000f ok", "ok"),
    ("hcall 05 06 07 -> 02", "hcall 05 06 07 -> 03", "03"),
    ("hcall 05 06 07 -> 02", "hcall 05 06 08 -> 02", "08"),
    ("00000001.00000000 00000663 00020800 f7f83203 1f8bfbfd",
     "00000001.00000000 00000663 00020800 77f83203 1f8bfbfd", "leaf 00000001: ecx"),
    ("80000007.00000000 00000000 00000003 00000000 00000000",
     "80000007.00000000 00000000 00000003 00000000 00000100", "bits 8"),
    ("40000101.00000000 01007efb 00000000 00000000 00000000",
     "40000101.00000000 00000000 00000000 00000000 00000000", "leaf 40000101"),
    ("40000003.00000000 00000262 00000000 00000000 00000008",
     "40000003.00000000 0000002a 00000000 00000000 00000008",
     "leaf 40000003: eax want 00000262, got 0000002a: bits 3, 6, 9"),
]  # fmt: skip


@pytest.mark.parametrize(("want", "got"), ACCEPTED)
def test_accepted(want: str, got: str) -> None:
    assert accepted(want, got)


@pytest.mark.parametrize(("want", "got", "text"), REFUSED)
def test_refused_with_words(want: str, got: str, text: str) -> None:
    (line,) = differences("a-set", parse(f"[part]\n{want}"), parse(f"[part]\n{got}"))
    assert line.startswith("a-set [part]: ")
    assert text in line


def test_a_missing_end_is_a_difference() -> None:
    """A guest that died early must not pass for want of lines."""
    want = parse("[cpuid]\nmsr 40000000 #GP\n[end]")
    assert differences("a-set", want, want[:2])
    assert differences("a-set", want, [])
    assert differences("a-set", want, [*want, ("[end]", "more")])
    assert not differences("a-set", want, want)


def test_a_deviation_is_one_line() -> None:
    """What a deviation allows holds for its own line, and only as it says."""
    want = parse("msr 40000001 0000000000300000\nmsr 40000118 0000000000000001")
    allowed = {"msr 40000001": lambda want, got: got.endswith("0000")}
    got = parse("msr 40000001 0000000000000000\nmsr 40000118 0000000000000001")
    assert not differences("a-set", want, got, allowed)
    got = parse("msr 40000001 0000000000000001\nmsr 40000118 0000000000000000")
    assert len(differences("a-set", want, got, allowed)) == 2


def test_every_line_of_every_dump_has_a_key() -> None:
    """The key tells the operations of a section apart, so that a swapped pair is seen."""
    for path in sorted(GOLDEN.glob("[0-9]*.txt")):
        dump = read(path.stem)
        assert dump.lines, path
        for section, line in dump.lines:
            assert key(line), (path, section, line)
        assert not differences(dump.name, dump.lines, [
            (section, line.replace("*", "0000000000000123")) for section, line in dump.lines
        ])  # fmt: skip
