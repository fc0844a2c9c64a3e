"""Dynamic memory against a simulated hv_balloon: pages out and back, reports, and nonsense."""

from __future__ import annotations

import random
import struct

import pytest
from fuzzing import SEEDS
from guest_sim import MEMORY, PAGE, Guest, packet
from test_snapshot_bus import carry

from pyhv.ballooning import Ballooning
from pyhv.errors import ConfigError, HostError
from pyhv.vmbus.balloon import Balloon

PAGES = MEMORY // PAGE
MIB = 1 << 20


class Count:
    """Counts how often somebody was told."""

    calls = 0

    def __call__(self, left: int | None) -> None:
        self.calls += 1


class Driver:
    """hv_balloon: gives up pages from the top of RAM, *per_range* at a time, at most *most*."""

    def __init__(self, make_guest, per_range: int = 512, most: int = PAGES) -> None:
        self.device = Balloon()
        self.guest: Guest = make_guest(self.device)
        self.channel = self.guest.open(self.guest.connect()[0].relid, (5, 5))
        self.per_range, self.most = per_range, most
        self.out: set[int] = set()
        self.next = PAGES
        self.returns = 0

    def send(self, kind: int, body: bytes, size: int | None = None) -> None:
        head = struct.pack("<HHI", kind, 8 + len(body) if size is None else size, 7)
        self.channel.send(packet(6, head + body, flags=0))

    def take(self) -> list[tuple[int, bytes]]:
        """Return (type, body) of what the host sent."""
        found = []
        for one in self.channel.receive():
            assert one.kind == 6
            kind, size, _ = struct.unpack_from("<HHI", one.data)
            assert size <= 4096
            found.append((kind, one.data[8:size]))
        return found

    def start(self, version: int = 0x20000) -> Driver:
        self.send(1, struct.pack("<II", version, 0))
        assert self.take() == [(2, b"\1" + bytes(7))]
        self.send(3, struct.pack("<QQQ", 0x1F, 0, (1 << 64) - 1))
        assert self.take() == [(4, b"\1" + bytes(7))]
        return self

    def serve(self) -> None:
        """Answer the host until it asks no more."""
        while messages := self.take():
            for kind, body in messages:
                {6: self.give_up, 8: self.take_back}[kind](body)

    def give_up(self, body: bytes) -> None:
        wanted, zero = struct.unpack("<II", body)
        assert not zero
        left = min(wanted, self.most)
        while True:
            ranges = []
            while left and len(ranges) < 509:
                count = min(left, self.per_range)
                self.next -= count
                pages = range(self.next, self.next + count)
                for page in pages:
                    self.guest.memory.write(page * PAGE, b"old")
                self.out.update(pages)
                ranges.append(self.next | count << 40)
                left -= count
            word = len(ranges) << 1 | bool(left)
            self.send(7, struct.pack(f"<II{len(ranges)}Q", 0, word, *ranges))
            if not left:
                return

    def take_back(self, body: bytes) -> None:
        more, count = struct.unpack_from("<II", body)
        for (one,) in struct.iter_unpack("<Q", body[8 : 8 + 8 * count]):
            pages = range(one & (1 << 40) - 1, (one & (1 << 40) - 1) + (one >> 40))
            assert self.out.issuperset(pages)
            self.out.difference_update(pages)
            self.next = max(self.next, pages.stop)
        self.returns += 1
        if not more:
            self.send(9, b"")

    def rule(self) -> str:
        return self.guest.server.violations[-1].rule


class Vm(Ballooning):
    """A machine around the simulated guest, whose driver answers at once."""

    def __init__(self, driver: Driver, answers: bool = True) -> None:
        self.driver, self.answers = driver, answers
        self.started, self.ended, self.board = True, None, self
        self.memory, self.offered = driver.guest.memory, {"balloon": driver.device}

    def call(self, function) -> None:
        function()
        if self.answers:
            self.driver.serve()


@pytest.mark.parametrize("per_range", [512, 37, 1])
def test_out_and_back(make_guest, per_range: int) -> None:
    vm = Vm(Driver(make_guest, per_range).start())
    assert vm.guest_memory == MEMORY
    assert vm.balloon("12M") == vm.guest_memory == 12 * MIB
    assert vm.driver.out == set(range(PAGES - 1024, PAGES))
    for page in vm.driver.out:
        assert vm.memory.read(page * PAGE, 3) == bytes(3)  # the host has it
    assert vm.balloon(10 * MIB) == 10 * MIB
    assert vm.balloon("14M") == 14 * MIB
    assert len(vm.driver.out) == 512
    assert vm.balloon(14 * MIB) == 14 * MIB
    assert vm.balloon(MEMORY) == vm.guest_memory == MEMORY
    assert not vm.driver.out
    assert vm.driver.guest.server.violation_count == 0


def test_many_small_pieces_come_back_in_turns(make_guest, monkeypatch) -> None:
    monkeypatch.setattr("pyhv.vmbus.balloon.RANGES_PER_MESSAGE", 10)
    monkeypatch.setattr("pyhv.vmbus.balloon.MESSAGES_PER_TURN", 3)
    driver = Driver(make_guest).start()
    vm = Vm(driver)
    vm.balloon("15M")
    driver.device._map[::2] = bytes(len(driver.device._map[::2]))  # every other page
    driver.device.pages_out = 128
    driver.out = set(range(PAGES - 255, PAGES, 2))
    assert vm.balloon(MEMORY) == MEMORY
    assert driver.returns == 13
    assert not driver.out


def test_a_guest_gives_what_it_can(make_guest) -> None:
    vm = Vm(Driver(make_guest, most=100).start())
    assert vm.balloon("8M") == MEMORY - 100 * PAGE


def test_a_snapshot_knows_which_pages_are_out(make_guest) -> None:
    driver = Driver(make_guest, per_range=37).start()
    vm = Vm(driver)
    vm.balloon("15M")
    driver.device = Balloon()
    carry(driver.guest, driver.device)
    vm = Vm(driver)
    assert vm.guest_memory == 15 * MIB
    assert vm.balloon(MEMORY) == MEMORY
    assert not driver.out
    told: list = []
    assert driver.device.resize(PAGES - 10, told.append)  # under way when the snapshot is taken
    driver.device = Balloon()
    carry(driver.guest, driver.device)
    assert driver.device.busy
    driver.serve()
    assert driver.device.pages_out == 10
    assert not driver.device.busy


@pytest.mark.parametrize("version", [0x20000, 0x10000, 3])
def test_versions(make_guest, version: int) -> None:
    driver = Driver(make_guest).start(version)
    assert driver.device.version == version


def test_a_version_of_the_future_is_declined(make_guest) -> None:
    driver = Driver(make_guest)
    driver.send(1, struct.pack("<II", 0x30000, 0))
    assert driver.take() == [(2, bytes(8))]
    driver.start()


def test_reports(make_guest) -> None:
    driver = Driver(make_guest).start()
    vm = Vm(driver)
    assert vm.memory_report is None
    driver.send(5, struct.pack("<QQQQII", 1000, 2000, 0, 0, 0, 0))
    report = vm.memory_report
    assert (report.available, report.committed) == (1000 * PAGE, 2000 * PAGE)
    assert 0 <= report.age < 60


@pytest.mark.parametrize("target", ["17M", -1, "x", "1", MEMORY + PAGE])
def test_targets_that_cannot_be(make_guest, target) -> None:
    vm = Vm(Driver(make_guest).start())
    if target == "1":
        assert vm.balloon(target, timeout=5) == MIB  # as for -m, a plain number is MiB
        return
    with pytest.raises(ConfigError, match=f"balloon {target}: "):
        vm.balloon(target)


def test_no_driver(make_guest) -> None:
    driver = Driver(make_guest)
    vm = Vm(driver)
    with pytest.raises(ConfigError, match=r"balloon 8M: .* no driver for it now .Linux: hv_ba"):
        vm.balloon("8M")
    driver.send(1, struct.pack("<II", 0x20000, 0))
    driver.take()
    driver.send(3, struct.pack("<QQQ", 0, 0, 0))  # it cannot balloon
    driver.take()
    with pytest.raises(ConfigError, match="no driver"):
        vm.balloon("8M")


def test_silence_then_a_late_answer(make_guest) -> None:
    driver = Driver(make_guest).start()
    vm = Vm(driver, answers=False)
    with pytest.raises(HostError, match="balloon 15M: the guest's driver has not answered in time"):
        vm.balloon("15M", timeout=0.05)
    with pytest.raises(HostError, match="still works at the request before"):
        vm.balloon("14M", timeout=0.05)
    vm.answers = True
    driver.serve()
    assert vm.guest_memory == 15 * MIB
    assert vm.balloon("14M") == 14 * MIB


def test_begin_and_do_not_wait(make_guest) -> None:
    driver = Driver(make_guest)
    vm = Vm(driver, answers=False)
    with pytest.raises(ConfigError, match="no driver for it now"):
        vm.begin_balloon(8 * MIB)
    driver.start()
    vm.begin_balloon(15 * MIB)
    with pytest.raises(ConfigError, match="still works at the request before"):
        vm.begin_balloon(14 * MIB)
    driver.serve()
    assert vm.guest_memory == 15 * MIB


def test_a_driver_that_goes(make_guest) -> None:
    """A reset, or a kernel started by kexec: all RAM is the guest's again."""
    driver = Driver(make_guest).start()
    Vm(driver).balloon("8M")
    told = []
    assert driver.device.resize(PAGES - 3000, told.append)
    driver.guest.server.reset()
    assert told == [None]
    assert driver.device.pages_out == 0
    assert not driver.device.busy


def test_high_memory(make_guest) -> None:
    """Above the hole a page's number is not its place in the mapping, and no range spans both."""
    driver = Driver(make_guest)
    memory = driver.guest.memory
    memory.regions[0].size -= 2 * MIB
    high = type(memory.regions[0])(4 << 30, 2 * MIB, memory.regions[0].size)
    memory.regions.append(high)
    memory._low -= 2 * MIB
    driver.start()
    told: list = []
    assert driver.device.resize(PAGES - 1024, told.append)
    driver.take()
    first, second = PAGES - 512 - 256, (4 << 30) // PAGE
    driver.send(7, struct.pack("<II2Q", 0, 2 << 1, first | 256 << 40, second | 256 << 40))
    assert told == [PAGES - 512]
    assert driver.device.resize(PAGES, told.append)
    ((kind, body),) = driver.take()
    assert (kind, *struct.unpack("<II2Q", body)) == (
        8, 0, 2, first | 256 << 40, second | 256 << 40,
    )  # fmt: skip


ONE = PAGES - 1 | 1 << 40
NONSENSE = {
    "short": (6, struct.pack("<HH", 7, 4), "packet-short"),
    "not in-band": (9, bytes(16), "packet-type"),
    "a type of the host": (6, struct.pack("<HHI", 6, 16, 0) + bytes(8), "packet-type"),
    "no such type": (6, struct.pack("<HHI", 99, 16, 0) + bytes(8), "packet-type"),
    "size says less": (6, struct.pack("<HHI", 7, 8, 0) + bytes(8), "packet-short"),
    "a second version": (6, struct.pack("<HHIII", 1, 16, 0, 0x20000, 0), "device-state"),
    "capabilities twice": (6, struct.pack("<HHI", 3, 32, 0) + bytes(24), "device-state"),
    "an answer to nothing": (6, struct.pack("<HHI", 9, 8, 0), "device-state"),
    "pages unasked": (6, struct.pack("<HHIIIQ", 7, 24, 0, 0, 2, ONE), "device-state"),
    "short status": (6, struct.pack("<HHI", 5, 24, 0) + bytes(16), "packet-short"),
}  # fmt: skip


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_closes_the_channel(make_guest, name: str) -> None:
    kind, data, rule = NONSENSE[name]
    driver = Driver(make_guest).start()
    driver.channel.send(packet(kind, data))
    assert driver.rule() == rule
    assert driver.device.channel is None


@pytest.mark.parametrize(
    ("ranges", "count", "rule"),
    [([ONE], 1 << 30, "packet-short"), ([PAGES | 1 << 40], 1, "packet-ranges"),
     ([PAGES - 1 | 2 << 40], 1, "packet-ranges"), ([5], 1, "packet-ranges"),
     ([(1 << 40) - 1 | 1 << 40], 1, "packet-ranges"), ([ONE, ONE], 2, "packet-ranges"),
     ([16 | 5 << 40, 100 | 6 << 40], 2, "packet-ranges")],  # more than were asked for
)  # fmt: skip
def test_ranges_of_nonsense(make_guest, ranges: list[int], count: int, rule: str) -> None:
    driver, told = Driver(make_guest).start(), []
    assert driver.device.resize(PAGES - 10, told.append)
    driver.take()
    driver.send(7, struct.pack(f"<II{len(ranges)}Q", 0, count << 1, *ranges))
    assert driver.rule() == rule
    assert told == [None]


@pytest.mark.fuzz("Balloon", share=0.5)
@SEEDS
def test_a_mad_driver(make_guest, fuzz, seed: int) -> None:
    """Anything in any order: the channel is closed or the books are right."""
    rng = random.Random(seed)
    driver, told, resizes = Driver(make_guest), Count(), 0
    device = driver.device

    def body(kind: int) -> bytes:
        if kind == 1:
            return struct.pack("<II", rng.choice((0x20000, 0x10000, 9)), 1)
        if kind == 3:
            return struct.pack("<QQQ", rng.choice((1, 0x1F, 0)), 0, 0)
        if kind == 7:
            count = rng.randrange(4)
            ranges = [rng.randrange(1000, PAGES + 2) | rng.randrange(8) << 40 for _ in range(count)]
            claimed = count if rng.random() < 0.9 else rng.getrandbits(31)
            return struct.pack(f"<II{count}Q", 0, claimed << 1 | rng.randrange(2), *ranges)
        return rng.randbytes(rng.choice((0, 8, 40, 100)))

    for _ in fuzz.rounds(400):
        if device.channel is None:
            driver.guest.server.reset()
            driver.guest.next_page = 16  # below what it gives up
            driver.channel = driver.guest.open(driver.guest.connect()[0].relid, (5, 5))
            if rng.random() < 0.9:
                driver.start()
        if device.resize(PAGES - rng.randrange(200), told):
            resizes += 1
        kind = rng.choice((1, 3, 5, 7, 7, 7, 7, 9, 9, rng.randrange(65536)))
        driver.send(kind, body(kind), rng.choice((None, None, None, rng.randrange(64))))
        driver.channel.receive()
        assert device.pages_out == device._map.count(1) <= 200
    driver.guest.server.reset()
    assert told.calls == resizes
