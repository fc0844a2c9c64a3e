"""Messages that wait for a SIM slot are forgotten by type, in both drivers' queues."""

from __future__ import annotations

import types
from _collections import deque

from fake_world import EVERYTHING, HYPERCALL_CODE, FakeWorld

from pyhv.hyperv import tlfs
from pyhv.hyperv.in_kernel import InKernel
from pyhv.hyperv.partition import Partition


def test_in_user() -> None:
    """What is in the slot stays, what waits behind it goes; other types and SINTs are kept."""
    world = FakeWorld()
    synic = Partition(EVERYTHING, world, 1, HYPERCALL_CODE).vps[0].synic
    synic.write_simp(0x5001)
    for kind, text in ((1, b"in the slot"), (1, b"waits"), (7, b"other")):
        synic.post_message(2, kind, text)
    synic.post_message(3, 1, b"a")
    synic.post_message(3, 1, b"b")
    synic.drop_messages(2, tlfs.HVMSG_VMBUS)
    synic.drop_messages(4, tlfs.HVMSG_VMBUS)
    assert (synic.messages_waiting(2), synic.messages_waiting(3)) == (1, 1)
    slot = 0x5000 + 2 * 256
    assert world.memory.read(slot + 16, 11) == b"in the slot"
    world.memory.write_u32(slot, 0)
    synic.end_of_message()
    assert world.memory.read_u32(slot) == 7
    assert world.memory.read(slot + 16, 5) == b"other"


def test_in_kernel_while_one_is_delivered() -> None:
    """The VP's thread takes the next message from the queue there is now, not from the old one."""
    world = FakeWorld()
    written: list[bytes] = []
    route = types.SimpleNamespace(
        vp=0, sint=2, scheduled=True, eventfd=-1,
        queue=deque([(1, b"first"), (1, b"second"), (7, b"other")]),
    )  # fmt: skip
    driver = types.SimpleNamespace(
        memory=world.memory, _pages=[(1, 0, 0x5001)], _sints={(0, 2): route}
    )

    def interrupt(fd: int, value: int) -> None:
        slot = 0x5000 + 2 * 256
        length = world.memory.read_u32(slot + 4) & 0xFF
        written.append(world.memory.read(slot + 16, length))
        world.memory.write_u32(slot, 0)
        if len(written) == 1:
            InKernel.drop_messages(driver, 0, 2, tlfs.HVMSG_VMBUS)
            route.queue.append((1, b"new"))

    import pyhv.hyperv.in_kernel as module

    real, module.os = module.os, types.SimpleNamespace(eventfd_write=interrupt)
    try:
        InKernel._deliver(driver, route)
    finally:
        module.os = real
    assert written == [b"first", b"other", b"new"]
    InKernel.drop_messages(driver, 1, 2, tlfs.HVMSG_VMBUS)  # a route that nobody has
