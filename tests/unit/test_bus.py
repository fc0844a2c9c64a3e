"""Port and MMIO dispatch without KVM: a bytearray stands for kvm_run."""

from __future__ import annotations

import pytest

from pyhv.bus import DATA, Bus, PioHandlers, io_word
from pyhv.errors import ConfigError


class Device:
    """Keeps writes; reads give offset and size."""

    def __init__(self) -> None:
        self.log: list[tuple[int, ...]] = []

    def pio_in(self, offset: int, size: int) -> int:
        return 0x1000 + offset * 16 + size

    def pio_out(self, offset: int, size: int, value: int) -> None:
        self.log.append((offset, size, value))

    mmio_read, mmio_write = pio_in, pio_out


@pytest.fixture
def parts():
    bus, device, page = Bus(), Device(), bytearray(3 * 4096)
    bus.claim_pio(0x100, 4, device)
    noted: list[int] = []
    handlers = PioHandlers(bus, memoryview(page), noted.append)

    def access(port: int, size: int, out: bool, count: int = 1) -> None:
        word = io_word(port, size, out, count)
        handlers.make(word)(word)
        assert noted.pop() == word, "the report of the last exits has each"
        assert not noted

    return bus, device, page, access


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_port_in_every_width_is_served(parts, size: int) -> None:
    """All 65,536 ports: nothing raises, unclaimed reads are ones."""
    bus, device, page, access = parts
    ones = (1 << 8 * size) - 1
    for port in range(65536):
        access(port, size, True)
        page[DATA : DATA + size] = bytes(size)
        access(port, size, False)
        if not bus.claimed(port, size):
            assert int.from_bytes(page[DATA : DATA + size], "little") == ones


def test_claim_twice_is_refused(parts) -> None:
    with pytest.raises(ConfigError, match="0x103 is claimed twice"):
        parts[0].claim_pio(0x103, 1, Device())


def test_access_that_crosses_the_claims_end_is_split(parts) -> None:
    bus, device, page, access = parts
    page[DATA : DATA + 4] = b"\x01\x02\x03\x04"
    access(0x102, 4, True)
    assert device.log == [(2, 1, 1), (3, 1, 2)]
    access(0x103, 2, False)
    assert page[DATA : DATA + 2] == bytes([0x1000 + 3 * 16 + 1 & 0xFF, 0xFF])


def test_string_access_serves_each_datum(parts) -> None:
    bus, device, page, access = parts
    page[DATA : DATA + 6] = b"\x01\x00\x02\x00\x03\x00"
    access(0x100, 2, True, count=3)
    assert device.log == [(0, 2, 1), (0, 2, 2), (0, 2, 3)]
    access(0x100, 2, False, count=2)
    assert page[DATA : DATA + 4] == b"\x02\x10\x02\x10"


def test_mmio_holes_and_claims() -> None:
    bus, device = Bus(), Device()
    bus.claim_mmio(0xF8000000, 8192, device)
    assert bus.mmio_read(0xF8001004, 4) == 0x1000 + 0x1004 * 16 + 4
    assert bus.mmio_read(0xF8001FFC, 8) == (1 << 64) - 1
    assert bus.mmio_read(0xFFFFFFFFFFFFFFFF, 8) == (1 << 64) - 1
    bus.mmio_write(0xF8000000, 8, 7)
    bus.mmio_write(1 << 63, 8, 7)
    assert device.log == [(0, 8, 7)]
    with pytest.raises(ConfigError, match="whole pages"):
        bus.claim_mmio(0x1000, 100, device)
