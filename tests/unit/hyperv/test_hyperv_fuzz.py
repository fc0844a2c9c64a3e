"""Whatever a guest writes or calls, nothing but #GP and #UD leaves the core, and nothing grows."""

from __future__ import annotations

import random

import pytest
from fake_world import EVERYTHING, make

from pyhv.errors import GuestFault, UndefinedOpcode
from pyhv.hyperv.hypercalls import HYPERCALLS

U64 = (1 << 64) - 1
SIZE = 1 << 20
VPS = 3


def number(rng: random.Random) -> int:
    """Return a qword as hostile guests like them: edges, addresses, flags, noise."""
    kind = rng.randrange(7)
    if kind == 0:
        return rng.choice((0, 1, 2, 0xFF, 0xFFFFFFFF, 1 << 32, 1 << 63, U64, U64 - 1, 0x10000))
    if kind == 1:
        return rng.randrange(0, SIZE, 0x1000) | rng.randrange(16)
    if kind == 2:
        return SIZE - rng.randrange(300)
    if kind == 3:
        return 1 << rng.randrange(64)
    if kind == 4:
        return rng.randrange(0x1000)
    if kind == 5:
        return rng.randrange(8) << 16 | 0x9 | rng.randrange(16) << 12 | rng.randrange(256) << 4
    return rng.getrandbits(64)


def control(rng: random.Random) -> int:
    """Return a hypercall input value, most often a valid one."""
    value = rng.choice(list(HYPERCALLS)[:12]) if rng.random() < 0.9 else rng.getrandbits(16)
    if rng.random() < 0.5:
        value |= 1 << 16
    if rng.random() < 0.4:
        value |= rng.randrange(4) << 17
    if rng.random() < 0.4:
        value |= rng.choice((1, 2, 11, 12, 15, 16, 0xFFF)) << 32
    if rng.random() < 0.1:
        value |= rng.getrandbits(64)
    return value


@pytest.mark.parametrize("seed", range(6))
def test_fuzz(seed: int) -> None:
    rng = random.Random(seed)
    features = EVERYTHING._replace(
        enforce=seed == 5, synic=seed != 4, leaf3_edx=EVERYTHING.leaf3_edx ^ (seed == 5) << 4
    )
    partition, world = make(features, VPS)
    partition.connections.connect_messages(1, lambda kind, payload: len(payload) & 3)
    noise = rng.randbytes(4096)
    outcomes = set()
    for step in range(3000):
        vp = rng.randrange(VPS)
        choice = rng.random()
        try:
            if choice < 0.45:
                partition.write_msr(vp, 0x40000000 + rng.randrange(0x120), number(rng))
                outcomes.add("written")
            elif choice < 0.6:
                value = partition.read_msr(vp, 0x40000000 + rng.randrange(0x120))
                assert 0 <= value <= U64
                outcomes.add("read")
            elif choice < 0.9:
                result = partition.hypercall(
                    vp, control(rng), number(rng), number(rng), lambda: noise[:96], long_mode=True
                )
                assert 0 <= result <= U64
                assert result & 0xFFFF_F000_FFFF_0000 == 0 or result == U64 + 1 - 1000
                outcomes.add(f"status {result & 0xFFFF}")
            elif choice < 0.93:
                partition.vps[vp].synic.set_event(rng.randrange(16), rng.randrange(2048))
            elif choice < 0.95:
                world.memory.write(rng.randrange(0, SIZE - 4096, 256), noise)
            else:
                world.stable = rng.random() < 0.8
                world.apic_enabled = rng.random() < 0.8
                world.advance(partition, rng.randrange(5000))
        except GuestFault:
            outcomes.add("#GP")
        except UndefinedOpcode:
            outcomes.add("#UD")
        if step % 200 == 0:
            partition.guest_os_id = 1
            world.flushes.clear()
            if step % 1000 == 0:
                partition.refresh()
    assert len(world.armed) <= VPS * 4
    assert {"written", "read", "#GP", "status 0", "status 3"} <= outcomes
    assert ("#UD" in outcomes) == (seed == 5)
