"""The tracer of synthetic timers, on the pure core."""

from __future__ import annotations

import types

from fake_world import EVERYTHING, HYPERCALL_CODE, FakeWorld

from pyhv.hyperv import tlfs
from pyhv.hyperv.partition import Partition
from pyhv.trace.event import Event
from pyhv.trace.tracer import Tracer
from pyhv.trace.writers import line


def test_timers() -> None:
    """Arm, expiry, disarm; what a timer does is the same."""
    world = FakeWorld()
    partition = Partition(EVERYTHING, world, 1, HYPERCALL_CODE)
    events: list[Event] = []
    driver = types.SimpleNamespace(name="in_user", partition=partition)
    board = types.SimpleNamespace(threads=[], vmbus=None, driver=driver)
    Tracer(frozenset(("stimer",)), events.append).install(board)
    timer = partition.vps[0].stimers[0]
    timer.write_config(tlfs.HV_STIMER_ENABLE | tlfs.HV_STIMER_DIRECT | 0x41 << 4)
    timer.write_count(partition.clock.ticks() + 500)
    world.ns += 50_000
    timer.expire()
    timer.write_count(0)
    timer.write_config(tlfs.HV_STIMER_ENABLE | tlfs.HV_STIMER_DIRECT | 0x41 << 4)
    timer.write_count(partition.clock.ticks() + 500)
    timer.write_count(0)
    assert world.interrupts == [(0, 0x41)]
    assert [line(e, e.time_ns).split(None, 1)[1] for e in events] == [
        "host  arm(vp=0, timer=0, in_ns=0xc350)",
        "host  expired(vp=0, timer=0) = sent",
        "host  arm(vp=0, timer=0, in_ns=0xc350)",
        "host  disarm(vp=0, timer=0)",
    ]
