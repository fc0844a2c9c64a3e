"""HvPostMessage and HvSignalEvent: checks in QEMU's order, routing, doorbells."""

from __future__ import annotations

import os

import pytest
from fake_world import FakeWorld, make, no_xmm

from pyhv.errors import HostError
from pyhv.hyperv.partition import Partition

GPA = 0x10000
SUCCESS, CODE, INPUT, ALIGNMENT, MEMORY, PORT, CONNECTION = 0, 2, 3, 4, 11, 17, 18


@pytest.fixture
def ready() -> tuple[Partition, FakeWorld, list[tuple[int, bytes]]]:
    """A partition with a message handler at connection 1; it answers 19 to type 0xBAD."""
    partition, world = make()
    came: list[tuple[int, bytes]] = []

    def handler(message_type: int, payload: bytes) -> int:
        came.append((message_type, payload))
        return 19 if message_type == 0xBAD else 0

    partition.connections.connect_messages(1, handler)
    return partition, world, came


def block(connection: int, message_type: int, payload: bytes, size: int | None = None) -> bytes:
    """Return the 256 bytes of HvPostMessage's input."""
    words = (connection, 0xDEAD, message_type, len(payload) if size is None else size)
    return b"".join(word.to_bytes(4, "little") for word in words) + payload.ljust(240, b"\xaa")


def post(partition: Partition, gpa: int = GPA, control: int = 0x5C) -> int:
    return partition.hypercall(0, control, gpa, 0, no_xmm, long_mode=True)


def signal(partition: Partition, value: int, control: int = 0x1005D) -> int:
    return partition.hypercall(0, control, value, 0, no_xmm, long_mode=True)


@pytest.mark.parametrize("size", [0, 1, 16, 239, 240])
def test_message_reaches_its_handler(ready, size: int) -> None:
    partition, world, came = ready
    world.memory.write(GPA, block(1, 1, bytes(range(size))))
    assert post(partition) == SUCCESS
    assert came == [(1, bytes(range(size)))]


def test_upper_byte_of_the_id_is_not_looked_at(ready) -> None:
    partition, world, came = ready
    world.memory.write(GPA, block(0xFF000001, 1, b"x"))
    assert post(partition) == SUCCESS
    assert came


def test_the_handlers_status_is_the_answer(ready) -> None:
    partition, world, _ = ready
    world.memory.write(GPA, block(1, 0xBAD, b"x"))
    assert post(partition) == 19


@pytest.mark.parametrize(
    ("gpa", "control", "connection", "size", "status"),
    [
        (GPA, 0x1005C, 1, 8, CODE),
        (GPA + 2, 0x5C, 1, 8, ALIGNMENT),
        (GPA + 4, 0x5C, 1, 8, SUCCESS),  # QEMU: 4 will do
        (0x100000 - 252, 0x5C, 1, 8, MEMORY),
        (1 << 40, 0x5C, 1, 8, CONNECTION),  # QEMU reads zeros there: nobody has id 0
        (GPA, 0x5C, 1, 241, INPUT),
        (GPA, 0x5C, 1, 0xFFFFFFFF, INPUT),
        (GPA, 0x5C, 9, 241, INPUT),  # size before id
        (GPA, 0x5C, 9, 8, CONNECTION),
        (GPA, 0x2005C, 1, 8, INPUT),
        (GPA, 0x10000005C, 1, 8, INPUT),
    ],
)
def test_post_message_statuses(
    ready, gpa: int, control: int, connection: int, size: int, status: int
) -> None:
    partition, world, came = ready
    if gpa + 256 <= world.memory.size:
        world.memory.write(gpa, block(connection, 1, b"12345678", size))
    assert post(partition, gpa, control) == status
    assert bool(came) == (status == SUCCESS)


def test_disconnect(ready) -> None:
    partition, world, _ = ready
    world.memory.write(GPA, block(1, 1, b"x"))
    partition.connections.disconnect_messages(1)
    partition.connections.disconnect_messages(77)
    assert post(partition) == CONNECTION


@pytest.fixture
def bell(ready):
    """A doorbell at connection 2; call it to take what was rung."""
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    ready[0].connections.bind_event(2, fd)

    def rung() -> int:
        try:
            return os.eventfd_read(fd)
        except BlockingIOError:
            return 0

    rung.fd = fd
    yield rung
    os.close(fd)


def test_signal(ready, bell) -> None:
    partition, world, _ = ready
    assert signal(partition, 2) == SUCCESS
    world.memory.write(GPA, (2).to_bytes(8, "little"))
    assert signal(partition, GPA, 0x5D) == SUCCESS
    assert bell() == 2


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (3, CONNECTION),
        (1, CONNECTION),  # message connections are another table
        (1 << 32 | 2, PORT),  # flag number
        (0xFFFF << 32 | 2, PORT),
        (1 << 48 | 2, INPUT),  # reserved
        (1 << 24 | 2, INPUT),
        (1 << 48 | 1 << 32 | 2, PORT),  # the flag comes first
    ],
)
@pytest.mark.parametrize("slow", [False, True], ids=["fast", "slow"])
def test_signal_statuses(ready, bell, value: int, status: int, slow: bool) -> None:
    partition, world, _ = ready
    if slow:
        world.memory.write(GPA, value.to_bytes(8, "little"))
        assert signal(partition, GPA, 0x5D) == status
    else:
        assert signal(partition, value) == status
        assert partition.connections.signal_value(value) == status
    assert bell() == 0


@pytest.mark.parametrize("gpa", [GPA + 1, GPA + 4, GPA + 0xFFC, 1 << 40], ids=hex)
def test_slow_signal_address(ready, bell, gpa: int) -> None:
    assert signal(ready[0], gpa, 0x5D) == ALIGNMENT
    assert bell() == 0


def test_a_bound_connection_stays_its_owners(ready, bell) -> None:
    """As KVM_HYPERV_EVENTFD: hyperv-testdev cannot take VMBus' doorbell away."""
    with pytest.raises(HostError, match="EEXIST"):
        ready[0].connections.bind_event(2, 0)
    assert signal(ready[0], 2) == SUCCESS
    assert bell() == 1


def test_unbind(ready, bell) -> None:
    partition, _, _ = ready
    partition.connections.unbind_event(2)
    partition.connections.unbind_event(2)
    assert signal(partition, 2) == CONNECTION
    assert bell() == 0


def test_a_doorbell_at_its_limit_does_not_block(ready, bell) -> None:
    os.eventfd_write(bell.fd, 2**64 - 2)
    assert signal(ready[0], 2) == SUCCESS
    assert bell() == 2**64 - 2


def test_connections_outlive_a_reset(ready, bell) -> None:
    """They are the VMM's; VMBus resets its own state."""
    partition, world, came = ready
    partition.reset()
    partition.guest_os_id = 1
    world.memory.write(GPA, block(1, 1, b"x"))
    assert post(partition) == SUCCESS
    assert signal(partition, 2) == SUCCESS
    assert came
    assert bell() == 1
