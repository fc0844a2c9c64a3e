"""Extended hypercalls: what the guest says is free goes to the host, and nothing else."""

from __future__ import annotations

import random

import pytest
from fake_world import EVERYTHING, make, words, xmm

from pyhv.hyperv import extended
from pyhv.hyperv.in_kernel import InKernel
from pyhv.hyperv.privileges import Features
from pyhv.kvm import uapi
from pyhv.memory import GuestMemory

QUERY, HINT, REP = 0x8001, 0x8003, 1 << 32
COLD_DISCARD, LARGE, ONE_GIB = 2, 1 << 11, 1 << 12
INPUT, OUTPUT = 0x1000, 0x2000
SIZE = 8 << 20
FREE = EVERYTHING._replace(free_pages=True)


def in_user(features: Features):
    """Return (memory, call): call(input value, RDX, R8) is a hypercall of the core."""
    partition, world = make(features, size=SIZE)

    def call(control: int, in1: int = INPUT, in2: int = OUTPUT) -> int:
        return partition.hypercall(0, control, in1, in2, xmm, long_mode=True)

    return world.memory, call


def in_kernel(features: Features):
    """The same by an exit of KVM's."""
    memory = GuestMemory(SIZE)
    driver = InKernel(None, [], memory, features, None, print, print)  # type: ignore[arg-type]
    page = memoryview(bytearray(4096))
    vcpu = type("Vcpu", (), {"m32": page.cast("I"), "m64": page.cast("Q")})()
    thread = type("Thread", (), {"vcpu": vcpu, "index": 0, "exits": {}})()
    driver.attach([thread])

    def call(control: int, in1: int = INPUT, in2: int = OUTPUT) -> int:
        vcpu.m32[8] = uapi.KVM_EXIT_HYPERV_HCALL
        vcpu.m64[5], vcpu.m64[7], vcpu.m64[8] = control, in1, in2
        thread.exits[uapi.KVM_EXIT_HYPERV]()
        return vcpu.m64[6]

    return memory, call


each = pytest.mark.parametrize("driver", [in_user, in_kernel])


@each
def test_capabilities(driver) -> None:
    memory, call = driver(FREE)
    assert call(QUERY) == 0
    assert memory.read_u64(OUTPUT) == 1 << 8
    assert call(QUERY, in2=SIZE) == 3
    assert call(QUERY, in2=SIZE - 4) == 3


@each
def test_not_offered_they_are_unknown(driver) -> None:
    memory, call = driver(EVERYTHING)
    memory.write(INPUT, words(COLD_DISCARD, 16 << 12))
    assert call(QUERY) == call(HINT | REP) == 2
    assert memory.read_u64(OUTPUT) == 0


@each
def test_pages_go(driver) -> None:
    memory, call = driver(FREE)
    memory.write(0, b"x" * SIZE)
    # one page, four pages, and 2 x 2 MiB
    memory.write(INPUT, words(COLD_DISCARD, 16 << 12, 32 << 12 | 3, 1 << 21 | LARGE | 1))
    assert call(HINT | 3 * REP) == 3 * REP
    gone = {16, *range(32, 36), *range(512, 1536)}
    for page in {*range(SIZE >> 12)} - {INPUT >> 12}:
        assert memory.read(page << 12, 4096) == (b"\0" if page in gone else b"x") * 4096


@each
def test_refusals(driver) -> None:
    memory, call = driver(FREE)
    memory.write(INPUT, words(COLD_DISCARD, 16 << 12, SIZE, 17 << 12))
    memory.write(16 << 12, b"x" * 8192)
    assert call(HINT | 3 * REP) == 5 | REP  # the one before is done, the one behind is not
    assert memory.read(16 << 12, 8192) == bytes(4096) + b"x" * 4096
    assert call(HINT) == 3
    assert call(HINT | 512 * REP) == 3
    assert call(HINT | REP, in1=SIZE) == 3
    for hint in (0, 1, 3):
        memory.write(INPUT, words(hint, 17 << 12))
        assert call(HINT | REP) == 5
    memory.write(INPUT, words(COLD_DISCARD, 1 << 21 | LARGE | ONE_GIB))
    assert call(HINT | REP) == 5
    memory.write(INPUT, words(COLD_DISCARD, (SIZE >> 12) - 1 << 12 | 1))
    assert call(HINT | REP) == 5
    assert memory.read(17 << 12, 1) == b"x"


def test_ram_of_a_snapshot_stays() -> None:
    memory, call = in_user(FREE)
    memory.write(INPUT, words(COLD_DISCARD, 16 << 12))
    memory.write(16 << 12, b"x")
    memory.adopted = True
    assert call(HINT | REP) == REP
    assert memory.read(16 << 12, 1) == b"x"


def test_pages_that_the_host_keeps(monkeypatch) -> None:
    memory, call = in_user(FREE)
    memory.write(INPUT, words(COLD_DISCARD, 16 << 12))

    def locked(gpa: int, length: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(memory, "discard", locked)
    assert call(HINT | REP) == 5


@pytest.mark.parametrize("seed", range(4))
def test_any_input_has_a_status(seed: int) -> None:
    rng = random.Random(seed)
    memory, call = in_user(FREE)
    for _ in range(300):
        memory.write(INPUT, bytes((rng.choice((2, 2, 2, 0)),)) + rng.randbytes(4095))
        for _ in range(4):
            memory.write_u64(INPUT + 8 * rng.randrange(1, 5), rng.getrandbits(23) << 12)
        code = rng.choice((QUERY, HINT, rng.randrange(0x8001, 0x8042)))
        control = code | rng.getrandbits(12) << 32
        result = call(control, rng.choice((INPUT, rng.getrandbits(64))), rng.getrandbits(24))
        assert result & 0xFFFF in (0, 2, 3, 5)
        assert result >> 32 <= extended.MAX_RANGES
