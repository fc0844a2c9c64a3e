"""hyperv-testdev against a fake SynicPort: every command, echoes, and nonsense."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from pyhv.devices import testdev as t
from pyhv.errors import HostError

INSUFFICIENT_BUFFERS, INVALID_CONNECTION_ID = 0x13, 0x12


class World:
    """SynicPort and Events at once; the loop's callbacks run when :meth:`turn` is called."""

    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []
        self.handlers: dict[int, Callable[[int, bytes], int]] = {}
        self.doorbells: dict[int, int] = {}
        self.watched: dict[int, Callable[[], None]] = {}
        self.calls: list[Callable[[], None]] = []
        self.queued = 0
        self.taken: set[int] = set()

    def raise_sint(self, vp_index: int, sint: int) -> None:
        self.done.append(("raise", vp_index, sint))

    def messages_waiting(self, vp_index: int, sint: int) -> int:
        return self.queued

    def post_message(self, vp_index: int, sint: int, message_type: int, payload: bytes) -> None:
        self.done.append(("post", vp_index, sint, message_type, payload))

    def event_signaller(self, vp_index: int, sint: int, flag: int) -> Callable[[], None]:
        return lambda: self.done.append(("event", vp_index, sint, flag))

    def connect_messages(self, connection_id: int, handler: Callable[[int, bytes], int]) -> None:
        self.handlers[connection_id] = handler

    def bind_event(self, connection_id: int, eventfd: int) -> None:
        if connection_id in self.taken:
            raise HostError("VMBus channel doorbell: EEXIST")
        self.doorbells[connection_id] = eventfd

    def unbind_event(self, connection_id: int) -> None:
        del self.doorbells[connection_id]

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        self.watched[fd] = callback

    def remove(self, fd: int) -> None:
        del self.watched[fd]

    def call(self, function: Callable[[], None]) -> None:
        self.calls.append(function)

    def turn(self) -> None:
        while self.calls:
            self.calls.pop(0)()
        for callback in list(self.watched.values()):
            callback()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def device(world: World) -> Iterator[t.HypervTestDevice]:
    before = len(os.listdir("/proc/self/fd"))
    device = t.HypervTestDevice(world, world, vp_count=2)  # type: ignore[arg-type]
    yield device
    device.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert world.watched == {}


def command(
    device: t.HypervTestDevice, control: int, vp: int = 0, sint: int = 0, connection: int = 0
) -> None:
    device.pio_out(0, 4, sint | vp << 8 | control << 16 | connection << 24)


def test_only_a_created_route_can_be_raised(world: World, device: t.HypervTestDevice) -> None:
    command(device, 3, vp=1, sint=5)
    command(device, 1, vp=1, sint=5)
    command(device, 3, vp=1, sint=5)
    command(device, 3, vp=0, sint=5)
    command(device, 2, vp=1, sint=5)
    command(device, 3, vp=1, sint=5)
    assert world.done == [("raise", 1, 5)]


def test_messages_come_back_and_one_may_wait(world: World, device: t.HypervTestDevice) -> None:
    command(device, 4, vp=1, sint=8, connection=0x11)
    post = world.handlers[0x11]
    assert post(0x12345678, b"payload!") == 0
    assert world.done == [("post", 1, 8, 0x12345678, b"payload!")]
    world.queued = 1
    assert post(0x12345678, b"payload!") == INSUFFICIENT_BUFFERS
    assert len(world.done) == 1
    command(device, 5, connection=0x11)
    assert world.handlers[0x11](1, b"") == INVALID_CONNECTION_ID


def test_signals_come_back_as_the_flag_of_the_connection(
    world: World, device: t.HypervTestDevice
) -> None:
    command(device, 6, vp=1, sint=9, connection=0x21)
    command(device, 6, vp=1, sint=9, connection=0x21)  # again: nothing new
    assert len(world.watched) == 1
    world.turn()
    assert world.done == []
    os.eventfd_write(world.doorbells[0x21], 1)
    world.turn()
    assert world.done == [("event", 1, 9, 0x21)]
    command(device, 7, connection=0x21)
    command(device, 7, connection=0x21)
    world.turn()
    assert world.doorbells == {}
    command(device, 6, vp=0, sint=9, connection=0x21)  # and it can be made anew, on the same fd
    assert len(world.watched) == 1
    os.eventfd_write(world.doorbells[0x21], 1)
    world.turn()
    assert world.done[1:] == [("event", 0, 9, 0x21)]


def test_a_destroyed_connection_is_gone_when_the_guests_out_is(
    world: World, device: t.HypervTestDevice
) -> None:
    for _ in range(1000):
        command(device, 6, vp=1, sint=9, connection=0x21)
        assert 0x21 in world.doorbells
        command(device, 7, connection=0x21)
        assert world.doorbells == {}
    assert world.calls == []
    assert len(world.watched) == 1


def test_a_connection_of_somebody_else_is_left_alone(
    world: World, device: t.HypervTestDevice
) -> None:
    world.taken.add(0x21)
    command(device, 6, connection=0x21)
    assert world.doorbells == {}
    command(device, 7, connection=0x21)  # not ours to destroy


@pytest.mark.parametrize(
    ("offset", "size", "value"),
    [
        (0, 4, 0x0001_0000 | 16),  # no such SINT
        (0, 4, 0x0001_0200),  # no such VP
        (0, 4, 0x0000_0000),
        (0, 4, 0x00FF_0000),
        (0, 4, 0xFFFFFFFF),
        (0, 2, 0x0001),
        (0, 1, 0x01),
        (1, 1, 0x01),
    ],
)
def test_nonsense_is_ignored(
    world: World, device: t.HypervTestDevice, offset: int, size: int, value: int
) -> None:
    device.pio_out(offset, size, value)
    command(device, 3)
    assert (world.done, world.handlers, world.doorbells) == ([], {}, {})
    assert device.pio_in(offset, size) == 0


def test_all_256_connections_are_bounded(world: World, device: t.HypervTestDevice) -> None:
    for _ in range(3):
        for connection in range(256):
            command(device, 6, connection=connection)
            command(device, 4, connection=connection)
    assert len(world.watched) == len(world.handlers) == 256
