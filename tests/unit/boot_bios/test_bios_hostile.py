"""Any registers, any memory: the BIOS answers or stops, and raises nothing."""

from __future__ import annotations

import random
import time

import pytest
from biosfake import GENERAL, Bench, MemoryDisk, numbered_sectors

from pyhv.boot import bios

EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)
BASES = (0, 0x10, 0xB8000, 0xFFFF0, 0x1FFF000, 0x2000000, 0xFEE00000, 0xFFFFFFFF)
ROUNDS = 40


@pytest.fixture(autouse=True)
def no_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait is a nap per trap; here they take no time."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.mark.parametrize("key", bios.SERVICES, ids=lambda key: f"{key[0]:02x}.{key[1]}")
def test_service_with_any_registers(key: tuple[int, int | None]) -> None:
    """Edge and random values in every register and segment, also the stack's; values stay 32 bits.

    The fake CPU refuses what is not. The stack lies outside RAM in a part of the calls.
    """
    vector, function = key
    chance = random.Random(f"{key}")
    bench = Bench(MemoryDisk(numbered_sectors(20)), MemoryDisk(numbered_sectors(3), readonly=True))
    for _ in range(ROUNDS):
        registers = {
            name: chance.choice(EDGES) if chance.random() < 0.5 else chance.getrandbits(32)
            for name in GENERAL
        }
        if chance.random() < 0.5:
            registers["edx"] = registers["edx"] & ~0xFF | chance.choice((0x80, 0x81))
        ah = chance.randrange(256) if function is None else function
        registers["eax"] = registers["eax"] & ~0xFF00 | ah << 8
        for segment in ("ds", "es", "ss"):
            registers[segment + "_base"] = chance.choice(BASES)
        registers["esp"] = chance.choice(EDGES)
        bench.memory.write(chance.randrange(0, 0x100000, 4096), chance.randbytes(4096))
        bench.call(vector, **registers)
    assert not bench.bios.unknown


def test_any_vector_with_any_registers() -> None:
    """Also those that nobody serves; the logs stay small."""
    chance = random.Random(1)
    bench = Bench(MemoryDisk(numbered_sectors(20)))
    for _ in range(3000):
        registers = {name: chance.getrandbits(32) for name in GENERAL}
        bench.call(chance.randrange(256), **registers)
    assert len(bench.bios.unknown) <= bios.UNKNOWN_KEPT
    assert len(bench.bios.counts) <= len(bios.SERVICES)


def test_console_output_of_one_call_is_bounded() -> None:
    """The largest requests write at most a few screens."""
    bench = Bench()
    for eax in (0x0941, 0x1301, 0x1303, 0x0605, 0x0705):
        bench.console.data = b""
        bench.memory.write(0x10000, bytes(range(256)) * 512)
        bench.call(0x10, eax, ecx=0xFFFF, edx=0x174F, ebx=7, es_base=0x10000)
        assert len(bench.console.data) < 600_000
