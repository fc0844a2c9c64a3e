"""Disassembly by what this host has: the same instructions from each way, in three modes."""

from __future__ import annotations

import shutil

import pytest

from pyhv.shell import disassembler

#: mode, code, instructions as AT&T writes them
CASES = (
    (16, "b8 34 12  cd 10", ["mov $0x1234,%ax", "int $0x10"]),
    (32, "b8 78 56 34 12  40  c3", ["mov $0x12345678,%eax", "inc %eax", "ret"]),
    (64, "48 89 e5  0f 01 c1  0f 30", ["mov %rsp,%rbp", "vmcall", "wrmsr"]),
)


def ways() -> list[str]:
    """Return those that are here: tests/run installs capstone, binutils assembles the guests."""
    found = ["capstone"]
    return found + ["objdump"] * bool(shutil.which("objdump"))


def normal(text: str) -> str:
    """Return an instruction without what assemblers spell in two ways."""
    name, _, operands = text.replace(", ", ",").partition(" ")
    return " ".join([name.rstrip("lqw") if name[:3] in ("mov", "inc", "ret") else name, operands])


@pytest.mark.parametrize("way", ways())
@pytest.mark.parametrize(("bits", "code", "texts"), CASES, ids=["16", "32", "64"])
def test_instructions(way: str, bits: int, code: str, texts: list[str]) -> None:
    data = bytes.fromhex(code)
    address = 0xFFFFFFFF81000000 if bits == 64 else 0x12000
    found = disassembler.WAYS[way](data, address, bits)
    assert [normal(one.text) for one in found] == [normal(text) for text in texts]
    assert b"".join(one.code for one in found) == data
    assert found[0].address == address
    assert found[1].address == found[0].address + len(found[0].code)


@pytest.mark.parametrize("way", ways())
def test_no_instruction(way: str) -> None:
    """0x06 is none in 64-bit mode; what follows it is read again."""
    found = disassembler.WAYS[way](bytes.fromhex("06 90"), 0x1000, 64)
    assert [(one.address, one.text) for one in found] == [(0x1000, "(bad)"), (0x1001, "nop")]


def test_count_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = disassembler.disassemble(b"\x90" * 20, 0, 64, 3)
    assert found is not None
    assert [one.text for one in found] == ["nop"] * 3

    def missing(code: bytes, address: int, bits: int) -> list:
        raise ImportError

    monkeypatch.setattr(disassembler, "WAYS", {"one": missing})
    assert disassembler.disassemble(b"\x90", 0, 64, 1) is None
