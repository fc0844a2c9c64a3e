"""Each driver against what KVM's own Hyper-V let the same guest see, and against the other driver.

The guest is in diff/, the cases and what they saw in tests/baseline/differential.*. A failure
names set, case and operation. Numbers that differ from run to run carry a ``*`` in the cases;
whatever else may differ is in DEVIATIONS, each with its row in docs/deviations.md.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from diff import cases, expected, run
from test_golden import DRIVERS

TOOLS = [tool for tool in ("as", "ld") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(bool(TOOLS), reason=f"not installed: {TOOLS}"),
]
DOCUMENT = Path(__file__).parents[2] / "docs" / "deviations.md"
#: tells what the host's APIC shows; not compared
HOST_CASE = "host: in service"


class Deviation(NamedTuple):
    """A driver's answer where it is not KVM's: at the *at*-th telling operation of a case."""

    driver: str
    case: str
    at: int
    kvm: str
    ours: str
    row: str  # how its row in docs/deviations.md begins


_EOI_ROW = "An EOI in the APIC after the slot was emptied, without EOM, `in_user`"
_CPL3_ROW = "A hypercall from CPL 3, `in_user`"
DEVIATIONS = (
    Deviation("user", "timer: busy slot, only an EOI", 4, "50 50", "50", _EOI_ROW),
    Deviation("user", "timer: busy slot, only an EOI", 5, "20008", "20009", _EOI_ROW),
    Deviation("user", "calls: spin from CPL 3", 0, "UD", "GP", _CPL3_ROW),
)

#: what ends the machine tells nothing; the line "end" does
ENDED_BY = {"crash: notify", "crash, hv-crash off: notify", "reset: reset"}

#: On a host whose APIC shows no ISR bit (a KVM in software), "!" says nothing, and these cases,
#: which are about that bit, have no sense.
IN_SERVICE_CASES = {
    "APIC MSRs: no EOI holds back what is lower",
    "APIC MSRs: EOI of the highest",
    "timer: busy slot, EOI by MSR",
}


@functools.cache
def wanted() -> dict[str, expected.Transcript]:
    """Return set -> what was measured."""
    return expected.read(expected.FILE.read_text())


@functools.cache
def seen(driver: str, name: str) -> expected.Transcript:
    """Run a set, once."""
    return expected.transcript(run.run(driver, name))


def shows_in_service(transcript: expected.Transcript) -> bool:
    """Tell whether the host that this comes from has ISR bits."""
    return "!" not in "".join(transcript.get(HOST_CASE, []))


def differences(
    name: str, want: expected.Transcript, got: expected.Transcript, allowed: dict[tuple, str]
) -> list[str]:
    """Return a text for each operation of *want* that saw something else in *got*.

    :param allowed: (case, number of the operation, want) -> what may be seen instead.
    """
    in_service = all(map(shows_in_service, (*wanted().values(), got)))
    texts = {case.name: expected.telling(case) for case in run.suite().cases[name]}
    found = []
    for case, one in want.items():
        if case == HOST_CASE or (not in_service and case in IN_SERVICE_CASES):
            continue
        other = got.get(case)
        if other is None or len(other) != len(one):
            found.append(f"{name} {case}: {len(one)} answers wanted, got {other}")
            continue
        for i, (left, right) in enumerate(zip(one, other, strict=True)):
            if not in_service:
                left, right = left.replace("!", ""), right.replace("!", "")
            if left != right and allowed.get((case, i, left)) != right:
                op = texts[case][i] if case in texts else "end"
                found.append(f"{name} {case}: {op}: want {left}, got {right}")
    return found


def allowed(driver: str) -> dict[tuple, str]:
    """Return the deviations of a driver, for :func:`differences`."""
    return {(one.case, one.at, one.kvm): one.ours for one in DEVIATIONS if one.driver == driver}


def group(case: str) -> str:
    """Return what a case belongs to; all MSRs are one group."""
    head, colon, _ = case.partition(": ")
    return head if colon else "end" if case == "end" else "MSRs"


def groups() -> list[tuple[str, str]]:
    """Return (set, group) of all cases."""
    if TOOLS:
        return []
    found = {
        (name, group(case.name)): None for name in run.suite().cpus
        for case in run.suite().cases[name] if case.name != HOST_CASE
    }  # fmt: skip
    return [*found, *((name, "end") for name in run.suite().cpus)]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(("name", "part"), groups())
def test_as_measured(driver: str, name: str, part: str) -> None:
    """The guest sees what it saw under KVM's Hyper-V."""
    want = {case: one for case, one in wanted()[name].items() if group(case) == part}
    assert want
    assert not differences(name, want, seen(driver, name), allowed(driver))


@pytest.mark.skipif(len(DRIVERS) < 2, reason="this host has one driver only")
@pytest.mark.parametrize("name", run.suite().cpus if not TOOLS else [])
def test_the_drivers_agree(name: str) -> None:
    """Both drivers on one host: nothing differs but what is named."""
    kernel, user = seen("kernel", name), seen("user", name)
    assert not differences(name, kernel, user, allowed("user"))


def test_enough_cases() -> None:
    """No case is without an answer, none is left over, no name comes twice in a set."""
    for name, listed in run.suite().cases.items():
        names = [case.name for case in listed]
        assert len(set(names)) == len(names)
        silent = {case.name for case in listed if not tells(case)} | ENDED_BY | {HOST_CASE}
        assert {*names, "end"} - silent == {*wanted()[name]} - silent
    assert sum(map(len, run.suite().cases.values())) > 2500


def tells(case: cases.Case) -> bool:
    """Tell whether a case has an operation that tells something."""
    return bool(expected.telling(case))


@pytest.mark.parametrize(("msr", "name", "undo"), list(cases.msrs()))
def test_each_msr(msr: int, name: str, undo: str) -> None:
    """Read, and written with 0, 1, ones and a random number, where it does not end the machine."""
    for where in ("all", "enforced", "partly", "bare", "denied"):
        have = {case.name for case in run.suite().cases[where]}
        values = ("0", "1", "ones", "random")
        assert f"{name} read" in have
        assert {f"{name} = {v}" for v in values if (msr, v) not in cases.ENDING} <= have


@pytest.mark.parametrize(
    "deviation", DEVIATIONS, ids=lambda one: f"{one.driver} {one.case} {one.at}"
)
def test_each_deviation_is_documented(deviation: Deviation) -> None:
    """It has its row, it is about a case, and KVM's answer is the one measured."""
    assert f"\n| {deviation.row}" in DOCUMENT.read_text()
    answers = [one[deviation.case] for one in wanted().values() if deviation.case in one]
    assert deviation.kvm in {one[deviation.at] for one in answers}


@pytest.mark.parametrize(
    "deviation", DEVIATIONS, ids=lambda one: f"{one.driver} {one.case} {one.at}"
)
def test_each_deviation_is_still_there(deviation: Deviation) -> None:
    """One that was mended leaves the list and docs/deviations.md."""
    if deviation.driver not in DRIVERS:
        pytest.skip(f"no in_{deviation.driver} here")
    answers = seen(deviation.driver, "all")[deviation.case]
    assert answers[deviation.at].replace("!", "") == deviation.ours


def test_a_difference_is_found() -> None:
    """The comparison can fail: a changed answer, a missing one, a case that did not run."""
    want = {"calls: spin": ["0"], "calls: spin, fast": ["0"], "timer: masked": ["ok"] * 6}
    assert not differences("all", want, want, {})
    got = want | {"calls: spin": ["3"], "calls: spin, fast": []}
    del got["timer: masked"]
    found = differences("all", want, got, {})
    assert len(found) == 3
    assert "all calls: spin: h 8 0 0: want 0, got 3" in found
    assert len(differences("all", want, got, {("calls: spin", 0, "0"): "3"})) == 2
