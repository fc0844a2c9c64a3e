"""KVM's measured behaviour, line by line: tests/baseline/hyperv_vectors.txt on the pure core."""

from __future__ import annotations

import pathlib
import re

import pytest
from fake_world import EVERYTHING, FakeWorld, make, xmm

from pyhv.errors import GuestFault
from pyhv.hyperv.partition import Partition

FILE = pathlib.Path(__file__).parents[2] / "baseline" / "hyperv_vectors.txt"
MSR_BASE = 0x40000000


def groups() -> dict[str, tuple[dict[str, int], list[str]]]:
    found: dict[str, tuple[dict[str, int], list[str]]] = {}
    for line in FILE.read_text().splitlines():
        if match := re.fullmatch(r"\[(.+)\]((?: \w+=\w+)*)", line):
            settings = dict(item.split("=") for item in match[2].split())
            found[match[1]] = {k: int(v, 16) for k, v in settings.items()}, []
        elif line and not line.startswith("#"):
            found[list(found)[-1]][1].append(line)
    return found


GROUPS = groups()


def expectation(text: str) -> str:
    """Return what pyhv answers: KVM's answer, or the one after ``!``."""
    kvm, _, ours = text.partition("!")
    return ours.split()[0] if ours else kvm.strip()


class Replay:
    """Runs the lines of one group; each returns (what came, what should)."""

    def __init__(self, partition: Partition, world: FakeWorld) -> None:
        self.partition, self.world = partition, world

    def run(self, line: str) -> tuple[str, str]:
        word, _, rest = line.partition(" ")
        return getattr(self, f"do_{word}")(rest)

    def do_w(self, rest: str) -> tuple[str, str]:
        msr, value, *fault = rest.split()
        try:
            self.partition.write_msr(0, MSR_BASE + int(msr, 16), int(value, 16))
        except GuestFault:
            return "GP", "".join(fault)
        return "", "".join(fault)

    def do_r(self, rest: str) -> tuple[str, str]:
        msr, _, expected = rest.partition(" ")
        expected = expectation(expected)
        try:
            value = self.partition.read_msr(0, MSR_BASE + int(msr, 16))
        except GuestFault:
            return "GP", expected
        return (expected if expected == "ok" else f"{value:X}"), expected

    def do_h(self, rest: str) -> tuple[str, str]:
        call, _, expected = rest.partition(" -> ")
        numbers = [int(number, 16) for number in call.split(",")]
        control, in1, in2, *halves = [*numbers, 0, 0][: max(3, len(numbers))]
        result = self.partition.hypercall(
            0, control, in1, in2, lambda: xmm(*halves), long_mode=True
        )
        return f"{result:X}", expectation(expected)

    def do_mem(self, rest: str) -> tuple[str, str]:
        gpa, data = rest.split()
        self.world.memory.write(int(gpa, 16), bytes.fromhex(data))
        return "", ""

    def _numbers(self, rest: str, size: int) -> tuple[str, str]:
        gpa, *values = (int(number, 16) for number in rest.split())
        data = b"".join(value.to_bytes(size, "little") for value in values)
        self.world.memory.write(gpa, data)
        return "", ""

    def do_mem32(self, rest: str) -> tuple[str, str]:
        return self._numbers(rest, 4)

    def do_mem64(self, rest: str) -> tuple[str, str]:
        return self._numbers(rest, 8)

    def do_see(self, rest: str) -> tuple[str, str]:
        gpa, data = rest.split()
        return self.world.memory.read(int(gpa, 16), len(data) // 2).hex().upper(), data.upper()

    def do_see64(self, rest: str) -> tuple[str, str]:
        gpa, value = rest.split()
        return f"{self.world.memory.read_u64(int(gpa, 16)):X}", value

    def _list(self, came: list[tuple[int, int]], rest: str) -> tuple[str, str]:
        text = " ".join(f"{vector:X}" for _, vector in came) or "-"
        came.clear()
        return text, rest

    def do_irq(self, rest: str) -> tuple[str, str]:
        return self._list(self.world.interrupts, rest)

    def do_autoeoi(self, rest: str) -> tuple[str, str]:
        return self._list(self.world.auto_eois, rest)

    def do_event(self, rest: str) -> tuple[str, str]:
        text = " ".join(event[0] for event in self.world.events) or "-"
        self.world.events.clear()
        return text, rest


@pytest.mark.parametrize("name", GROUPS)
def test_vectors(name: str) -> None:
    settings, lines = GROUPS[name]
    khz = settings.get("khz")
    flags = {
        field: bool(value) if isinstance(getattr(EVERYTHING, field), bool) else value
        for field, value in settings.items()
        if field != "khz"
    }
    partition, world = make(EVERYTHING._replace(**flags), 1, os_id=False)
    world.khz = khz or world.khz
    replay = Replay(partition, world)
    wrong = []
    for line in lines:
        came, expected = replay.run(line)
        if came != expected:
            wrong.append(f"{line}   came: {came or 'no fault'}")
    assert not wrong, "\n".join(wrong)


def test_the_file_is_whole() -> None:
    """A group lost by a slip of the reader would be a test lost."""
    assert len(GROUPS) == 25
    assert sum(len(lines) for _, lines in GROUPS.values()) > 250
