"""Flush and IPI hypercalls: which VPs they reach, in every form of input."""

from __future__ import annotations

import pytest
from fake_world import make, words, xmm

FAST = 1 << 16
INPUT = 0x10000
VPS = 130  # three banks, the last one short
ALL = list(range(VPS))


def banks(count: int) -> int:
    return count << 17


def reps(count: int) -> int:
    return count << 32


def run(control: int, data: tuple[int, ...], caller: int = 1, gpa: int = INPUT):
    """Make the call with *data* as its input, slow or fast; return (result, world)."""
    partition, world = make(vp_count=VPS)
    if control & FAST:
        rdx, r8, *halves = [*data, 0, 0][: max(2, len(data))]
        registers = xmm(*halves)
        return partition.hypercall(
            caller, control, rdx, r8, lambda: registers, long_mode=True
        ), world
    world.memory.write(gpa, words(*data))
    return partition.hypercall(caller, control, gpa, 0, lambda: b"", long_mode=True), world


#: (code, rep or not, input qwords without banks and list, number of banks, VPs)
FLUSHES = [
    (0x02, 0, (0, 0, 0b101), 0, [0, 2]),
    (0x02, 0, (0, 0, 1 << 63), 0, [63]),
    (0x02, 0, (7, 1, 0b101), 0, ALL),  # flag: all processors
    (0x02, 0, (0, 0, 0), 0, ALL),  # WS2012
    (0x02, 0, (0, 0xFFFFFFFE, 2), 0, [1]),  # any other flag means nothing
    (0x03, 1, (0, 0, 0b11, 0x1000), 0, [0, 1]),
    (0x03, 4, (0, 0, 0b11, 0x1000, 0x2000, 1 << 62, 0xFFF), 0, [0, 1]),
    (0x13, 0, (0, 0, 0, 0b1, 0b110), 1, [1, 2]),
    (0x13, 0, (0, 0, 0, 0b110, 1, 0b10), 2, [64, 129]),
    (0x13, 0, (0, 0, 0, 0b100, 1 << 2), 1, []),  # a VP that is not there
    (0x13, 0, (0, 0, 0, 1 << 63, 0xFF), 1, []),  # a bank that is not there
    (0x13, 0, (0, 0, 1, 0), 0, ALL),
    (0x13, 0, (0, 0, 9, 0b1, 0), 1, ALL),  # any other format is "all"
    (0x13, 0, (0, 0, 0, 0), 0, []),
    (0x14, 2, (0, 0, 0, 0b11, 1, 1, 0x5000, 0x6000), 2, [0, 64]),
    (0x14, 2, (0, 0, 1, 0b11, 1, 1, 0x5000, 0x6000), 2, ALL),
]


@pytest.mark.parametrize("fast", [0, FAST], ids=["slow", "fast"])
@pytest.mark.parametrize(("code", "rep", "data", "var", "vps"), FLUSHES)
def test_flush(code: int, rep: int, data, var: int, vps: list[int], fast: int) -> None:
    result, world = run(code | fast | banks(var) | reps(rep), data)
    assert result == rep << 32
    assert world.flushes == ([(vps, 1)] if vps else [])


IPIS = [
    (0x0B, (0x50, 0b101), 0, [0, 2]),
    (0x0B, (0x10, 0b10), 0, [1]),
    (0x0B, (0xFF, 0), 0, []),
    (0x15, (0x50, 0, 0b1, 0b110), 1, [1, 2]),
    (0x15, (0x50, 0, 0b111, 1, 1, 0b111), 3, [0, 64, 128, 129]),
    (0x15, (0x50, 1, 0), 0, ALL),
    (0x15, (0x50, 1, 0b1, 0), 1, ALL),
    (0x15, (0x50, 7, 0b1, 0b1), 1, [0]),  # any other format is "sparse"
    (0x15, (0x05, 0, 0), 0, []),  # nobody: the vector is not looked at
]


@pytest.mark.parametrize("fast", [0, FAST], ids=["slow", "fast"])
@pytest.mark.parametrize(("code", "data", "var", "vps"), IPIS)
def test_ipi(code: int, data, var: int, vps: list[int], fast: int) -> None:
    result, world = run(code | fast | banks(var), data)
    assert result == 0
    assert world.interrupts == [(vp, data[0]) for vp in vps]


@pytest.mark.parametrize("fast", [0, FAST], ids=["slow", "fast"])
@pytest.mark.parametrize("vector", [0, 0x0F, 0x100, 0xFFFFFFFF])
@pytest.mark.parametrize(("code", "rest", "var"), [(0x0B, (1,), 0), (0x15, (0, 1, 1), 1)])
def test_ipi_vectors(code: int, rest, var: int, vector: int, fast: int) -> None:
    result, world = run(code | fast | banks(var), (vector, *rest))
    assert result == 3
    assert not world.interrupts


def test_upper_half_of_the_vector() -> None:
    """VTL and padding: ignored in memory, refused in RDX, ignored again in 0015."""
    assert run(0x0B, (0x1_00000050, 1))[0] == 0
    assert run(0x0B | FAST, (0x1_00000050, 1))[0] == 3
    assert run(0x15 | FAST | banks(1), (0x1_00000050, 0, 1, 1))[0] == 0


@pytest.mark.parametrize("fast", [0, FAST], ids=["slow", "fast"])
@pytest.mark.parametrize("var", [0, 2, 0x3FF])
@pytest.mark.parametrize(
    ("control", "data"),
    [
        (0x13, (0, 0, 0, 1, 1)),
        (0x13, (0, 0, 1, 1, 1)),
        (0x14 | reps(1), (0, 0, 0, 1, 1)),
        (0x15, (0x50, 0, 1, 1)),
        (0x15, (0x50, 1, 1, 1)),
    ],
)
def test_header_must_fit_the_banks(control: int, data, var: int, fast: int) -> None:
    result, world = run(control | fast | banks(var), data)
    assert result == 3
    assert not world.flushes
    assert not world.interrupts


@pytest.mark.parametrize(
    ("count", "var", "status"),
    [(1, 0, 0), (11, 0, 0), (12, 0, 3), (15, 0, 3), (16, 0, 0), (0xFFF, 0, 0)],
)
def test_fast_list_length(count: int, var: int, status: int) -> None:
    """11 entries fit behind the header; from 16 on KVM does not read them."""
    result, world = run(0x03 | FAST | reps(count), (0, 0, 1))
    assert result == (status or count << 32)
    assert bool(world.flushes) == (status == 0)


def test_banks_beyond_the_registers() -> None:
    mask = (1 << 11) - 1
    assert run(0x13 | FAST | banks(11), (0, 0, 0, mask))[0] == 3
    assert run(0x13 | FAST | banks(10), (0, 0, 0, mask >> 1))[0] == 0
    assert run(0x15 | FAST | banks(12), (0x50, 0, mask << 1 | 1))[0] == 3


@pytest.mark.parametrize(
    "control", [0x02, 0x03 | reps(1), 0x0B, 0x13, 0x14 | reps(1), 0x15], ids=hex
)
@pytest.mark.parametrize("gpa", [0x100000 - 8, 1 << 40, (1 << 64) - 8], ids=hex)
def test_unreadable_input(control: int, gpa: int) -> None:
    """No alignment is asked for, only RAM."""
    partition, world = make(vp_count=VPS)
    assert partition.hypercall(0, control, gpa, 0, lambda: b"", long_mode=True) == 3
    assert not world.flushes


def test_unreadable_list() -> None:
    """Up to 15 entries are read, and so must be there; longer lists are not looked at."""
    gpa = 0x100000 - 24
    assert run(0x03 | reps(1), (0, 0, 1), gpa=gpa)[0] == 3
    assert run(0x03 | reps(16), (0, 0, 1), gpa=gpa)[0] == 16 << 32
    assert run(0x14 | reps(1), (0, 0, 0, 0), gpa=0x100000 - 32)[0] == 1 << 32  # nobody


@pytest.mark.parametrize("form", [0, 1], ids=["sparse", "all"])
def test_the_list_stands_behind_the_banks(form: int) -> None:
    """Also for "all", where the banks mean nothing."""
    data = (0, 0, form, 0b11, 1, 1, 0x5000)
    control = 0x14 | banks(2)
    assert run(control | reps(1), data, gpa=0x100000 - 56)[0] == 1 << 32
    assert run(control | reps(2), data, gpa=0x100000 - 56)[0] == 3
    assert run(control | FAST | reps(8), data)[0] == 8 << 32  # 14 qwords of registers
    assert run(control | FAST | reps(9), data)[0] == 3


def test_input_may_cross_pages_and_be_unaligned() -> None:
    partition, world = make(vp_count=VPS)
    world.memory.write(0x10FFC, words(0, 0, 4))
    assert partition.hypercall(0, 2, 0x10FFC, 0, lambda: b"", long_mode=True) == 0
    assert world.flushes == [([2], 0)]
