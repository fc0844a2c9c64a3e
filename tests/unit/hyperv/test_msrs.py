"""Every synthetic MSR against the table of KVM's: initial value, write, #GP, scope, gate."""

from __future__ import annotations

import csv
import pathlib

import pytest
from fake_world import EVERYTHING, make, without

from pyhv.errors import GuestFault
from pyhv.hyperv.msrs import MSRS
from pyhv.hyperv.privileges import Features
from pyhv.hyperv.tlfs import HV_X64_MSR_VP_INDEX

FILE = pathlib.Path(__file__).parents[2] / "baseline" / "hyperv_msrs.csv"
LINES = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
ORACLE = [(int(row["number"], 16), row) for row in csv.DictReader(LINES)]
NUMBERS = [number for number, _ in ORACLE]
each = pytest.mark.parametrize(("number", "row"), ORACLE, ids=[row["name"] for _, row in ORACLE])

DISPATCHED = [*range(0x40000000, 0x40000120), 0x40001002, *range(0x40001080, 0x400010A0)]


def test_the_table_has_the_rows_of_the_oracle() -> None:
    """The oracle names the first and the last of an array; the table counts."""
    known = {row.number + n * row.step for row in MSRS for n in range(row.array)}
    assert set(NUMBERS) <= known
    assert {row.number for row in MSRS} <= set(NUMBERS)
    names = {row.number: row.name for row in MSRS}
    assert all(row["name"] == names.get(number, row["name"]) for number, row in ORACLE)
    assert len(known) == 58


@each
def test_initial_value(number: int, row: dict[str, str]) -> None:
    partition, _ = make(os_id=False)
    if row["initial"] == "-":
        with pytest.raises(GuestFault):
            partition.read_msr(0, number)
    else:
        value = partition.read_msr(0, number)
        assert row["initial"] in ("*", f"{value:X}")


@each
def test_write_then_read(number: int, row: dict[str, str]) -> None:
    partition, _ = make()
    if row["write"] == "-":
        assert partition.msr_table(0)[number][1] is None
        return
    partition.write_msr(0, number, int(row["write"], 16))
    if row["after"] != "-":
        assert f"{partition.read_msr(0, number):X}" == row["after"]


@each
def test_bad_values_fault_and_change_nothing(number: int, row: dict[str, str]) -> None:
    partition, world = make()
    if row["write"] != "-":
        partition.write_msr(0, number, int(row["write"], 16))
    before = None if row["after"] == "-" else partition.read_msr(0, number)
    for bad in filter(None, row["bad"].split(";")):
        with pytest.raises(GuestFault):
            partition.write_msr(0, number, int(bad, 16))
        assert before is None or partition.read_msr(0, number) == before
    assert world.eois == (1 if row["name"].endswith("EOI") else 0)


@each
def test_scope(number: int, row: dict[str, str]) -> None:
    """A partition-wide MSR reads the same on the other VP; the other kind does not follow."""
    partition, _ = make()
    assert {"P": "partition", "V": "vp"}[row["scope"]] in [
        msr.scope
        for msr in MSRS
        if number in range(msr.number, msr.number + msr.array * msr.step, msr.step)
    ]
    apic = row["name"].endswith(("ICR", "TPR"))  # the fake has one APIC
    if "-" in (row["write"], row["after"]) or apic:
        return
    initial = partition.read_msr(1, number)
    partition.write_msr(0, number, int(row["write"], 16))
    wanted = partition.read_msr(0, number) if row["scope"] == "P" else initial
    assert partition.read_msr(1, number) == wanted


@each
def test_gate_counts_only_under_enforce(number: int, row: dict[str, str]) -> None:
    closed = without(EVERYTHING, row["gate"])
    assert number in make(closed)[0].msr_table(0)
    assert number not in make(closed._replace(enforce=True))[0].msr_table(0)
    assert number in make(EVERYTHING._replace(enforce=True))[0].msr_table(0)


@each
def test_needs(number: int, row: dict[str, str]) -> None:
    for field in ("synic", "syndbg"):
        partition, _ = make(EVERYTHING._replace(**{field: False}))
        assert (number in partition.msr_table(0)) == (row["needs"] != field)


@pytest.mark.parametrize("vp", [0, 1])
def test_vp_index(vp: int) -> None:
    partition, _ = make()
    assert partition.read_msr(vp, HV_X64_MSR_VP_INDEX) == vp


def test_all_other_numbers_fault() -> None:
    partition, _ = make()
    known = partition.msr_table(0)
    for number in DISPATCHED:
        if number not in known:
            with pytest.raises(GuestFault):
                partition.read_msr(0, number)
            with pytest.raises(GuestFault):
                partition.write_msr(0, number, 0)


def test_timer_msrs_without_synic_can_be_read_only() -> None:
    partition, _ = make(EVERYTHING._replace(synic=False))
    for number in range(0x400000B0, 0x400000B8):
        assert partition.read_msr(0, number) == 0
        with pytest.raises(GuestFault):
            partition.write_msr(0, number, 0)


def test_not_enabled_means_no_msr_at_all() -> None:
    partition, _ = make(Features(enabled=False))
    assert partition.msr_table(0) == {}


def test_a_table_is_prepared_once() -> None:
    partition, _ = make()
    assert partition.msr_table(1) is partition.msr_table(1)
    assert partition.msr_table(1) is not partition.msr_table(0)


def test_synic_page_writes_are_reported() -> None:
    """KVM exits with KVM_EXIT_HYPERV_SYNIC for these three; a mirror must follow SINTs too."""
    partition, world = make()
    for number in (0x40000080, 0x40000082, 0x40000083, 0x40000092):
        partition.write_msr(1, number, 0x50)
    assert world.synic_changes == [1, 1, 1, 1]
