"""Reset ports, the hole where PCI would be, the exit port and fw_cfg."""

from __future__ import annotations

import pytest

from pyhv.boot import acpi
from pyhv.devices import cf9, debugcon, exitport, fwcfg, i8042, pcihole, ports


@pytest.fixture
def why() -> list[str]:
    return []


@pytest.mark.parametrize("value", range(256))
def test_i8042_resets_on_a_pulse_of_line_0_only(why: list[str], value: int) -> None:
    device = i8042.I8042(why.append)
    device.pio_out(0, 1, value)
    assert bool(why) == (value >= 0xF0 and value % 2 == 0)
    assert device.pio_in(0, 1) == 0xFF


def test_i8042_reset_says_why(why: list[str]) -> None:
    i8042.I8042(why.append).pio_out(0, 1, 0xFE)
    assert why == ["i8042 command 0xfe"]


def test_port_92_has_a20_on_and_resets_on_bit_0(why: list[str]) -> None:
    device = i8042.SystemControl(why.append)
    device.pio_out(0, 1, 0)
    device.pio_out(0, 1, 2)
    assert (device.pio_in(0, 1), why) == (2, [])
    device.pio_out(0, 1, 3)
    assert why == ["port 0x92"]


def test_acpi_reset_register_resets(why: list[str]) -> None:
    hole = pcihole.PciHole(cf9.ResetControl(why.append))
    hole.pio_out(acpi.RESET_PORT - pcihole.FIRST, 1, acpi.RESET_VALUE)
    assert why == ["port 0xcf9"]


def test_reset_needs_a_rising_edge(why: list[str]) -> None:
    """Linux' BOOT_CF9 writes 2, waits, then 6."""
    hole = pcihole.PciHole(cf9.ResetControl(why.append))
    hole.pio_out(1, 1, 2)
    assert hole.pio_in(1, 1) == 2
    assert why == []
    hole.pio_out(1, 1, 6)
    assert why == ["port 0xcf9"]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pci_finds_nothing_and_resets_nothing(why: list[str], size: int) -> None:
    hole = pcihole.PciHole(cf9.ResetControl(why.append))
    for offset in range(0, pcihole.PORTS, size):
        if (offset, size) != (pcihole.RESET_OFFSET, 1):
            hole.pio_out(offset, size, 0x80000604 & (1 << 8 * size) - 1)
            assert hole.pio_in(offset, size) == (1 << 8 * size) - 1
    assert why == []


@pytest.mark.parametrize(
    ("value", "status"), [(0, 1), (1, 3), (38, 77), (63, 127), (0xFFFFFFFF, 0x1FFFFFFFF)]
)
def test_exit_port_has_qemus_status(value: int, status: int) -> None:
    """1 passed, 3 failed, 77 skipped, 127 aborted: what kvm-unit-tests mean by them."""
    statuses: list[int] = []
    device = exitport.ExitPort(statuses.append)
    device.pio_out(0, 4, value)
    assert (statuses, device.pio_in(0, 1)) == ([status], 0)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (fwcfg.SIGNATURE, b"QEMU\0"),
        (fwcfg.ID, b"\1\0\0\0\0"),
        (fwcfg.RAM_SIZE, (64 << 20).to_bytes(8, "little")),
        (fwcfg.NB_CPUS, b"\3\0\0"),
        (fwcfg.MAX_CPUS, b"\3\0\0"),
        (fwcfg.FILE_DIR, b"\0\0\0\0\0"),
        (0x0011, bytes(8)),
        (0x8000, bytes(8)),
        (0xFFFF, bytes(8)),
        (0x4005, b"\3\0"),
    ],
)
def test_fw_cfg_items(key: int, expected: bytes) -> None:
    device = fwcfg.FwCfg(3, 64 << 20)
    for _ in range(2):  # choosing again starts again
        device.pio_out(0, 2, key)
        assert bytes(device.pio_in(1, 1) for _ in expected) == expected


def test_fw_cfg_lists_its_files() -> None:
    device = fwcfg.FwCfg(1, 1 << 20, {"etc/sercon-port": b"\xf8\x03"})
    device.pio_out(0, 2, fwcfg.FILE_DIR)
    listed = bytes(device.pio_in(1, 1) for _ in range(68))
    assert listed == b"\0\0\0\1\0\0\0\2\0\x20\0\0" + b"etc/sercon-port".ljust(56, b"\0")
    device.pio_out(0, 2, 0x20)
    assert device.pio_in(1, 1) | device.pio_in(1, 1) << 8 == 0x3F8


def test_fw_cfg_ignores_other_accesses() -> None:
    device = fwcfg.FwCfg(3, 64 << 20)
    device.pio_out(0, 1, 5)
    device.pio_out(1, 1, 5)
    assert (device.pio_in(0, 1), device.pio_in(0, 2)) == (0, ord("Q") << 8)


def test_byte_ports_default_to_all_ones() -> None:
    device = ports.BytePorts()
    device.pio_out(0, 4, 0x12345678)
    assert (device.pio_in(0, 1), device.pio_in(0, 4)) == (0xFF, 0xFFFFFFFF)


def test_debug_console_prints_and_is_there() -> None:
    printed: list[bytes] = []
    device = debugcon.DebugConsole(printed.append)
    device.pio_out(0, 1, ord("x"))
    assert (printed, device.pio_in(0, 1)) == ([b"x"], 0xE9)
