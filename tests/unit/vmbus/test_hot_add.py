"""Memory added to a simulated hv_balloon: where it lies, what a guest may answer, and nonsense."""

from __future__ import annotations

import random
import struct

import pytest
from fuzzing import SEEDS
from guest_sim import MEMORY, PAGE, packet
from test_balloon_device import MIB, Count, Driver, Vm

from pyhv.errors import ConfigError, HostError
from pyhv.memory import BLOCK, HIGH

CAPACITY = MEMORY + 8 * BLOCK
BLOCK_PAGES = BLOCK // PAGE
CAPABILITIES = 0x1F  # Linux: balloon, hot add, 2**7 MiB at once


class Adder(Driver):
    """hv_balloon of a guest that adds all it is offered, or *adds* pages at most."""

    def __init__(self, make_guest, adds: int = CAPACITY, result: int = 1) -> None:
        super().__init__(lambda device: make_guest(device, capacity=CAPACITY), most=CAPACITY)
        memory = self.guest.memory
        self.slots: list[tuple[int, int]] = []
        self.device._plug = lambda added: memory.grow(added, self.tell)
        self.adds, self.result, self.added = adds, result, []

    def tell(self, gpa: int, size: int, address: int) -> None:
        self.slots.append((gpa, size))

    def begin(self, capabilities: int = CAPABILITIES) -> Adder:
        self.send(1, struct.pack("<II", 0x20000, 0))
        self.send(3, struct.pack("<QQQ", capabilities, 0, 0))
        self.take()
        return self

    def serve(self) -> None:
        while messages := self.take():
            for kind, body in messages:
                {6: self.give_up, 8: self.take_back, 10: self.add}[kind](body)

    def add(self, body: bytes) -> None:
        pages, region = struct.unpack("<QQ", body)
        assert pages == region  # all that is there may be used
        gpa, count = (pages & (1 << 40) - 1) * PAGE, pages >> 40
        self.guest.memory.write(gpa + count * PAGE - 4, b"mine")  # it is RAM already
        assert gpa % BLOCK == 0
        count = min(count, self.adds)
        self.added.append((gpa, count * PAGE))
        self.send(11, struct.pack("<II", count, self.result if not count else 1))


def test_more_than_it_began_with(make_guest) -> None:
    driver = Adder(make_guest).begin()
    vm = Vm(driver)
    assert vm.balloon(MEMORY + BLOCK) == vm.guest_memory == MEMORY + BLOCK
    assert driver.slots == driver.added == [(HIGH, BLOCK)]
    assert vm.balloon(MEMORY + 3 * BLOCK) == MEMORY + 3 * BLOCK
    assert driver.added[1:] == [(HIGH + BLOCK, 2 * BLOCK)]
    driver.next = (HIGH + 3 * BLOCK) // PAGE
    assert vm.balloon(MEMORY + 2 * BLOCK) == MEMORY + 2 * BLOCK
    assert vm.balloon(CAPACITY) == CAPACITY  # what it gave up first, then the rest
    assert not driver.out
    assert sum(size for _, size in driver.added) == 8 * BLOCK
    assert vm.driver.guest.server.violation_count == 0


def test_between_two_blocks_the_guest_gives_up_what_is_too_much(make_guest) -> None:
    driver = Adder(make_guest).begin()
    vm = Vm(driver)
    driver.next = (HIGH + BLOCK) // PAGE  # from the top of what is added
    assert vm.balloon(MEMORY + 100 * MIB) == MEMORY + 100 * MIB
    assert driver.added == [(HIGH, BLOCK)]
    assert len(driver.out) * PAGE == 28 * MIB
    assert vm.balloon(MEMORY + 200 * MIB) == MEMORY + 200 * MIB
    assert driver.added[1:] == [(HIGH + BLOCK, BLOCK)]


def test_a_guest_adds_what_it_can(make_guest) -> None:
    driver = Adder(make_guest, adds=BLOCK_PAGES).begin()
    vm = Vm(driver)
    assert vm.balloon(MEMORY + 4 * BLOCK) == MEMORY + BLOCK
    assert vm.memory.added == 4 * BLOCK  # it is there; the guest may be told of it again
    assert vm.balloon(MEMORY + 2 * BLOCK) == MEMORY + 2 * BLOCK
    assert driver.added[1:] == [(HIGH + BLOCK, BLOCK)]
    driver.adds = 7  # no whole block: the next one begins behind it
    assert vm.balloon(MEMORY + 3 * BLOCK) == MEMORY + 2 * BLOCK + 7 * PAGE
    driver.adds = CAPACITY
    vm.balloon(MEMORY + 3 * BLOCK)
    assert driver.added[-1] == (HIGH + 3 * BLOCK, BLOCK)


@pytest.mark.parametrize(("result", "text"), [(0, "and may later"), (1, "and will not")])
def test_a_guest_adds_nothing(make_guest, result: int, text: str) -> None:
    driver = Adder(make_guest, adds=0, result=result).begin()
    vm = Vm(driver)
    with pytest.raises(HostError, match=f"balloon 256M: the guest added none of it, {text}"):
        vm.balloon("256M")
    assert vm.guest_memory == MEMORY
    driver.adds = CAPACITY
    assert vm.balloon("272M") == 272 * MIB


@pytest.mark.parametrize(
    ("capabilities", "text"),
    [
        (1, "adds no memory .Linux: CONFIG_MEMORY_HOTPLUG"),
        (0x1F & ~2, "adds no memory"),
        (0x3F, "in steps of 32768 MiB, and there is none"),
        (1 << 63 | 0x3F, "in steps of 32768 MiB"),
    ],
)
def test_guests_that_cannot(make_guest, capabilities: int, text: str) -> None:
    driver = Adder(make_guest).begin(capabilities)
    vm = Vm(driver)
    with pytest.raises(HostError, match=f"balloon 256M: .*{text}"):
        vm.balloon("256M")
    assert vm.balloon("12M") == 12 * MIB
    assert not driver.slots


def test_steps_of_another_size(make_guest) -> None:
    vm = Vm(Adder(make_guest).begin(3 | 8 << 2))
    vm.driver.next = (HIGH + 2 * BLOCK) // PAGE
    assert vm.balloon(MEMORY + BLOCK) == MEMORY + BLOCK
    assert vm.driver.added == [(HIGH, 2 * BLOCK)]
    assert len(vm.driver.out) == BLOCK_PAGES


def test_what_kvm_refuses(make_guest) -> None:
    driver = Adder(make_guest).begin()

    def refuse(*told: int) -> None:
        raise HostError("KVM_SET_USER_MEMORY_REGION(slot 1): EEXIST")

    driver.tell = refuse
    vm = Vm(driver)
    with pytest.raises(HostError, match="balloon 256M: KVM_SET_USER_MEMORY_REGION"):
        vm.balloon("256M")
    assert vm.guest_memory == MEMORY


def test_without_maxmem(make_guest) -> None:
    vm = Vm(Driver(make_guest).start())
    with pytest.raises(ConfigError, match="16 MiB of RAM at most; -m 512M,maxmem=2G lets more"):
        vm.balloon("256M")


def test_the_next_kernel_knows_nothing_of_it(make_guest) -> None:
    """A kexec: the memory is there, and may be added once more; not so behind an unbound driver."""
    driver = Adder(make_guest).begin()
    vm = Vm(driver)
    vm.balloon(MEMORY + 2 * BLOCK)
    relid = driver.channel.relid
    driver.guest.post(driver.channel.close_message())
    assert vm.guest_memory == MEMORY + 2 * BLOCK
    driver.channel = driver.guest.open(relid, (5, 5))
    driver.begin()
    assert vm.guest_memory == MEMORY + 2 * BLOCK
    driver.guest.server.reset()
    assert vm.guest_memory == MEMORY
    driver.channel = driver.guest.open(driver.guest.connect()[0].relid, (5, 5))
    driver.begin()
    assert vm.balloon(MEMORY + BLOCK) == MEMORY + BLOCK
    assert driver.added[-1] == (HIGH, BLOCK)
    assert driver.slots == [(HIGH, 2 * BLOCK)]


def test_a_driver_that_goes_while_it_adds(make_guest) -> None:
    driver, told = Adder(make_guest).begin(), []
    assert driver.device.resize(CAPACITY // PAGE, told.append)
    assert driver.device.busy
    driver.guest.server.reset()
    assert told == [None]
    assert not driver.device.busy


NONSENSE = {
    "nobody offered": (False, struct.pack("<HHIII", 11, 16, 0, 1, 1), "device-state"),
    "more than offered": (
        True, struct.pack("<HHIII", 11, 16, 0, BLOCK_PAGES + 1, 1), "packet-ranges",
    ),
    "all of it": (True, struct.pack("<HHIII", 11, 16, 0, 0xFFFFFFFF, 1), "packet-ranges"),
    "short": (True, struct.pack("<HHII", 11, 12, 0, 1), "packet-short"),
    "pages of it, unasked": (
        True, struct.pack("<HHIIIQ", 7, 24, 0, 0, 2, HIGH >> 12 | 1 << 40), "device-state",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_closes_the_channel(make_guest, name: str) -> None:
    asked, data, rule = NONSENSE[name]
    driver, told = Adder(make_guest).begin(), []
    assert driver.device.resize((MEMORY + asked * BLOCK) // PAGE, told.append)
    driver.take()
    driver.channel.send(packet(6, data))
    assert driver.rule() == rule
    assert told[-1:] == [None if asked else MEMORY // PAGE]
    assert driver.device.pages_added == 0


def test_offered_memory_is_not_given_up_before_it_is_added(make_guest) -> None:
    driver = Adder(make_guest, adds=BLOCK_PAGES).begin()
    Vm(driver).balloon(MEMORY + 2 * BLOCK)
    told: list = []
    driver.device.resize(MEMORY // PAGE, told.append)
    driver.take()
    end = HIGH + 2 * BLOCK >> 12  # beyond what it said it has
    driver.send(7, struct.pack("<IIQ", 0, 2, end - 1 | 1 << 40))
    assert driver.device.pages >= 0
    assert driver.device.pages_out <= BLOCK_PAGES


@pytest.mark.fuzz("Balloon", share=0.5)
@SEEDS
def test_a_mad_guest(make_guest, fuzz, seed: int) -> None:
    """Whatever it answers: no more slots than maxmem, and the books are right."""
    rng = random.Random(seed)
    driver, told, resizes = Adder(make_guest), Count(), 0
    device = driver.device
    for _ in fuzz.rounds(150):
        if device.channel is None:
            driver.guest.server.reset()
            driver.guest.next_page = 16
            driver.channel = driver.guest.open(driver.guest.connect()[0].relid, (5, 5))
            driver.begin(rng.choice((0x1F, 0x1F, 0x1F, 3, 0x3F, 1, rng.getrandbits(64))))
        pages = rng.choice((MEMORY - rng.randrange(99) * PAGE, rng.randrange(CAPACITY + 1))) // PAGE
        resizes += device.resize(pages, told)
        kind = rng.choice((7, 9, 9, 11, 11, 11, rng.randrange(99)))
        count = rng.choice((0, 1, BLOCK_PAGES, rng.randrange(8 * BLOCK_PAGES), 1 << 31))
        one = rng.randrange(2000, MEMORY // PAGE) | rng.randrange(50) << 40
        body = {7: struct.pack("<IIQ", 0, rng.choice((2, 3)), one), 9: b"",
                11: struct.pack("<II", count, rng.randrange(3))}  # fmt: skip
        driver.send(kind, body.get(kind, rng.randbytes(16)))
        driver.channel.receive()
        assert device.pages_out == device._map.count(1)
        assert 0 <= device.pages <= CAPACITY // PAGE
        assert driver.guest.memory.added <= 8 * BLOCK
        assert sum(size for _, size in driver.slots) == driver.guest.memory.added
    driver.guest.server.reset()
    assert told.calls == resizes


