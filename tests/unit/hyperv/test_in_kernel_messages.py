"""in_kernel's message queues and routes on a fake KVM: order, pending flag, threads, limits."""

from __future__ import annotations

import os
import threading
from _collections import deque
from collections.abc import Callable, Iterator

import pytest

from pyhv.hyperv.in_kernel import InKernel
from pyhv.hyperv.privileges import Features
from pyhv.memory import GuestMemory

SIM, SIEF = 0x5000, 0x6000
SINT = 2
SLOT = SIM + 256 * SINT


class FakeKvm:
    """Vm and Events at once: counts routes, keeps the eventfds' callbacks."""

    def __init__(self) -> None:
        self.routes: list[tuple[int, ...]] = []
        self.watched: dict[int, Callable[[], None]] = {}

    def add_route(self, kind: int, *words: int) -> int:
        self.routes.append(words)
        return 24 + len(self.routes)

    def irqfd(self, gsi: int, fd: int, resample: int) -> None:
        pass

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        self.watched[fd] = callback

    def remove(self, fd: int) -> None:
        del self.watched[fd]


class FakeVcpu:
    """A vCPU's thread that serves its requests when told."""

    def __init__(self) -> None:
        self.index, self.exits = 0, {}
        self.requests: deque[Callable[[], None]] = deque()
        self.vcpu = type("Vcpu", (), {"m32": None, "m64": None})()

    def request(self, function: Callable[[], None]) -> None:
        self.requests.append(function)

    def serve(self) -> None:
        while self.requests:
            self.requests.popleft()()


@pytest.fixture
def kvm() -> FakeKvm:
    return FakeKvm()


@pytest.fixture
def vcpu() -> FakeVcpu:
    return FakeVcpu()


@pytest.fixture
def driver(kvm: FakeKvm, vcpu: FakeVcpu) -> Iterator[InKernel]:
    before = len(os.listdir("/proc/self/fd"))
    driver = InKernel(
        kvm,
        [object()],
        GuestMemory(1 << 20),
        Features(enabled=False),
        kvm,
        print,
        print,  # type: ignore
    )
    driver.attach([vcpu])  # type: ignore[list-item]
    driver._pages_moved(0, (1, SIEF | 1, SIM | 1))
    yield driver
    driver.close()
    assert kvm.watched == {}
    assert len(os.listdir("/proc/self/fd")) == before


def slot(driver: InKernel) -> tuple[int, int]:
    """Return message type and flags of the slot."""
    return driver.memory.read_u32(SLOT), driver.memory.read(SLOT + 5, 1)[0]


def interrupts(driver: InKernel) -> int:
    """Take the edges sent so far."""
    try:
        return os.eventfd_read(driver._sints[0, SINT].eventfd)
    except BlockingIOError:
        return 0


def acknowledge(driver: InKernel, kvm: FakeKvm, vcpu: FakeVcpu) -> None:
    """The guest empties the slot and writes EOM."""
    driver.memory.write_u32(SLOT, 0)
    resample = driver._sints[0, SINT].resample
    os.eventfd_write(resample, 1)
    kvm.watched[resample]()
    vcpu.serve()


def test_a_burst_leaves_the_pending_flag(driver, kvm, vcpu) -> None:
    """Without it a guest with auto-EOI, which writes EOM only then, gets the first one alone."""
    for kind in (1, 2, 3):
        driver.post_message(0, SINT, kind, b"x")
    assert driver.messages_waiting(0, SINT) == 3
    vcpu.serve()
    assert (slot(driver), interrupts(driver)) == ((1, 1), 1)
    acknowledge(driver, kvm, vcpu)
    assert (slot(driver), interrupts(driver)) == ((2, 1), 1)
    acknowledge(driver, kvm, vcpu)
    assert (slot(driver), interrupts(driver)) == ((3, 0), 1)
    acknowledge(driver, kvm, vcpu)
    assert (slot(driver), interrupts(driver)) == ((0, 0), 0)
    assert driver.messages_waiting(0, SINT) == 0


def test_messages_wait_for_the_page(driver, vcpu) -> None:
    driver._pages_moved(0, (1, 0, 0))
    driver.post_message(0, SINT, 7, b"x")
    vcpu.serve()
    assert driver.messages_waiting(0, SINT) == 1
    driver._pages_moved(0, (1, 0, SIM | 1))
    vcpu.serve()
    assert slot(driver) == (7, 0)


def test_a_route_is_made_once_by_any_number_of_threads(driver, kvm) -> None:
    """The guest's OUT on one vCPU, VMBus on the event loop."""
    gate = threading.Barrier(8)

    def raise_all() -> None:
        gate.wait()
        for sint in range(16):
            driver.raise_sint(0, sint)

    threads = [threading.Thread(target=raise_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kvm.routes) == [(0, sint) for sint in range(16)]
    assert interrupts(driver) == 8


def test_no_descriptor_is_no_route(driver, kvm, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was half made is given back, and the next attempt starts anew."""

    def full(*words: int) -> int:
        raise OSError(24, "EMFILE")

    with monkeypatch.context() as patch:
        patch.setattr(kvm, "add_route", full)
        with pytest.raises(OSError, match="EMFILE"):
            driver.raise_sint(0, SINT)
    driver.raise_sint(0, SINT)
    assert interrupts(driver) == 1


def test_after_close_nothing_is_made(kvm, vcpu, driver) -> None:
    driver.close()
    driver.post_message(0, SINT, 1, b"")
    driver.raise_sint(0, SINT)
    assert kvm.routes == []
