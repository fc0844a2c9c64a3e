"""Every hypercall against the table of KVM's: forms, gate, status; then the input of each form."""

from __future__ import annotations

import csv
import pathlib

import pytest
from fake_world import EVERYTHING, make, no_xmm, without, words, xmm

from pyhv.errors import UndefinedOpcode
from pyhv.hyperv.hypercalls import HYPERCALLS, Hypercall
from pyhv.hyperv.privileges import Features

FILE = pathlib.Path(__file__).parents[2] / "baseline" / "hyperv_hypercalls.csv"
LINES = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
ORACLE = [(int(row["code"], 16), row) for row in csv.DictReader(LINES)]
each = pytest.mark.parametrize(("code", "row"), ORACLE, ids=[row["name"] for _, row in ORACLE])
every = pytest.mark.parametrize("row", HYPERCALLS.values(), ids=lambda row: row.name)

FAST, VAR, REP, START = 1 << 16, 1 << 17, 1 << 32, 1 << 48
INPUT = 0x10000
#: input that fits every call, in memory and in registers (RDX, R8)
RDX, R8 = 0x50, 1


def call(
    partition, control: int, in1: int = RDX, in2: int = R8, halves: tuple[int, ...] = (0, 0)
) -> int:
    return partition.hypercall(0, control, in1, in2, lambda: xmm(*halves), long_mode=True)


def reps(row: dict[str, str]) -> int:
    return REP if row["reps"] == "needed" else 0


def test_the_table_has_the_rows_of_the_oracle() -> None:
    assert {code for code, _ in ORACLE} <= set(HYPERCALLS)
    extended = set(range(0x8001, 0x8042))
    assert set(HYPERCALLS) - extended == {code for code, _ in ORACLE} - extended
    assert all(HYPERCALLS[code].name == row["name"] for code, row in ORACLE)


@each
def test_fast_form(code: int, row: dict[str, str]) -> None:
    partition, _ = make()
    halves = (0, 0) if row["xmm"] == "1" else ()
    assert call(partition, code | FAST | reps(row), 0x50, 1, halves) & 0xFFFF == int(row["fast"])


@each
def test_rep_and_variable_header(code: int, row: dict[str, str]) -> None:
    """What a call has no use for is status 3, and nothing happens."""
    partition, world = make()
    world.memory.write(INPUT, words(0x50, 0, 1, 0))  # an all-VPs set, no banks
    for extra, column, wanted in (
        (REP, "reps", "needed"),
        (START, "reps", ""),
        (VAR, "var", "any"),
    ):
        if row[column] == "any" and column == "reps":
            continue
        refused = row[column] == "none" or (column == "reps" and wanted != row["reps"])
        control = code | (extra if column == "reps" else extra | reps(row))
        if refused:
            assert call(partition, control, INPUT) == 3, hex(control)
    assert not world.flushes
    assert not world.interrupts


@each
def test_gate_counts_only_under_enforce(code: int, row: dict[str, str]) -> None:
    enforced = EVERYTHING._replace(enforce=True)
    control = code | reps(row)
    assert call(make(enforced)[0], control, INPUT) & 0xFFFF != 6
    for bit in row["gate"].split():
        if bit == "4.EBX":
            closed = [EVERYTHING._replace(leaf4_ebx=value) for value in (0, 0xFFFFFFFF)]
        else:
            closed = [without(EVERYTHING, bit)]
        for features in closed:
            assert call(make(features)[0], control, INPUT) & 0xFFFF != 6
            assert call(make(features._replace(enforce=True))[0], control, INPUT) == 6
            # access is looked at first, before reserved bits
            refused = make(features._replace(enforce=True))[0]
            assert call(refused, control | 1 << 31, INPUT) == 6


@every
def test_reserved_bits(row: Hypercall) -> None:
    partition, world = make()
    for bit in (*range(27, 32), *range(44, 48), *range(60, 64)):
        assert call(partition, row.code | 1 << bit, INPUT) == 3, bit
    assert not world.flushes


@each
def test_xmm_without_its_bit_is_undefined_opcode(code: int, row: dict[str, str]) -> None:
    """Only under enforce, only for the calls that read XMM, only in the fast form."""
    features = without(EVERYTHING, "3.EDX[4]")
    assert call(make(features)[0], code | FAST | reps(row)) & 0xFFFF == int(row["fast"])
    partition, world = make(features._replace(enforce=True))
    world.memory.write(INPUT, bytes(64))
    call(partition, code | reps(row), INPUT)
    if row["xmm"] == "1":
        with pytest.raises(UndefinedOpcode):
            call(partition, code | FAST | reps(row))
    else:
        assert call(partition, code | FAST | reps(row)) == int(row["fast"])


@pytest.mark.parametrize("code", [0, 1, 0x46, 0x8000, 0x8042, 0x9999, 0xFFFF])
def test_unknown_codes(code: int) -> None:
    for enforce in (False, True):
        partition, _ = make(EVERYTHING._replace(enforce=enforce))
        assert call(partition, code) == call(partition, code | FAST) == 2
        assert call(partition, code | 1 << 31) == 3  # reserved bits are looked at before


@each
def test_without_an_os_id_it_is_not_ours(code: int, row: dict[str, str]) -> None:
    """KVM takes the instruction for a KVM hypercall: -1000; 32-bit code keeps EDX."""
    partition, _ = make(os_id=False)
    assert call(partition, code) == (1 << 64) - 1000
    control = 5 << 32 | code
    result = partition.hypercall(0, control, 0, 0, no_xmm, long_mode=False)
    assert result == 5 << 32 | (1 << 32) - 1000
    assert (
        make(Features(enabled=False))[0].hypercall(0, code, 0, 0, no_xmm, long_mode=True)
        == (1 << 64) - 1000
    )


def test_registers_are_read_only_as_far_as_needed() -> None:
    partition, world = make()
    for control in (0x8 | FAST, 0xB | FAST, 0x5D | FAST):
        partition.hypercall(0, control, 0x50, 1, no_xmm, long_mode=True)
    world.memory.write(INPUT, words(0, 1, 0))
    assert partition.hypercall(0, 2, INPUT, 0, no_xmm, long_mode=True) == 0


def test_spin_wait_names_the_caller() -> None:
    partition, world = make()
    assert partition.hypercall(1, 8, 0, 0, no_xmm, long_mode=True) == 0
    assert world.spins == [1]


@pytest.mark.parametrize(
    ("options", "fast", "syndbg", "status"),
    [
        (0, False, True, 8),
        (4, False, True, 2),
        (4, True, True, 5),
        (4, False, False, 2),
        (4, True, False, 5),
    ],
)
@pytest.mark.parametrize("code", [0x69, 0x6A])
def test_debug_calls(code: int, options: int, fast: bool, syndbg: bool, status: int) -> None:
    partition, _ = make(EVERYTHING._replace(syndbg=syndbg))
    if syndbg:
        partition.write_msr(0, 0x400000FF, options)
    assert call(partition, code | (FAST if fast else 0)) == status


def test_post_and_signal_without_synic() -> None:
    partition, world = make(EVERYTHING._replace(synic=False))
    world.memory.write(INPUT, bytes(256))
    for control in (0x5C, 0x1005C, 0x5D, 0x1005D):
        assert call(partition, control, INPUT) == 3
