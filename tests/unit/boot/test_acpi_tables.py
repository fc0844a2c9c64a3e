"""The ACPI tables byte by byte, and by ACPICA's own disassembler where it is installed."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pyhv.boot import acpi, aml
from pyhv.errors import ConfigError
from pyhv.memory import HIGH, GuestMemory


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(64 << 20)


def by_signature(memory: GuestMemory, vp_count: int = 2) -> dict[str, bytes]:
    return {data[:4].decode().strip(): data for data in acpi.tables(memory, vp_count).values()}


def test_the_chain_leads_from_rsdp_to_every_table(memory: GuestMemory) -> None:
    placed = acpi.tables(memory, 2)
    rsdp = placed[acpi.TABLES_GPA]
    (xsdt_gpa,) = struct.unpack_from("<Q", rsdp, 24)
    listed = struct.unpack_from("<2Q", placed[xsdt_gpa], 36)
    assert [placed[gpa][:4] for gpa in listed] == [b"FACP", b"APIC"]
    facs, dsdt = struct.unpack_from("<II", placed[listed[0]], 36)
    assert (placed[facs][:4], placed[dsdt][:4]) == (b"FACS", b"DSDT")
    assert facs % 64 == 0
    assert struct.unpack_from("<Q", placed[listed[0]], 140) == (dsdt,)


def test_lengths_and_checksums(memory: GuestMemory) -> None:
    for data in acpi.tables(memory, 2).values():
        if data.startswith(b"RSD PTR "):
            assert sum(data[:20]) % 256 == sum(data) % 256 == 0
            continue
        assert struct.unpack_from("<I", data, 4) == (len(data),)
        if data[:4] != b"FACS":
            assert sum(data) % 256 == 0
    assert len(by_signature(memory)["FACP"]) == 276


def test_build_writes_what_tables_say(memory: GuestMemory) -> None:
    gpa = acpi.build(memory, 3)
    assert gpa == 0xE0000
    assert memory.read(gpa, 8) == b"RSD PTR "
    for address, data in acpi.tables(memory, 3).items():
        assert memory.read(address, len(data)) == data


def test_tables_do_not_overlap(memory: GuestMemory) -> None:
    end = 0
    for address, data in sorted(acpi.tables(memory, 100).items()):
        assert address >= end
        end = address + len(data)
    assert end <= acpi.TABLES_END


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (46, "<H", acpi.SCI_GSI),
        (48, "<I", 0),  # SMI_CMD: no SMI, SCI_EN is fixed
        (56, "<I", acpi.PM1_EVENT),
        (64, "<I", acpi.PM1_CONTROL),
        (76, "<I", acpi.PM_TIMER),
        (88, "<B", 4),
        (89, "<B", 2),
        (91, "<B", 4),
        (108, "<B", acpi.CENTURY),
        (109, "<H", 0b101),  # legacy devices, no i8042, no VGA
        (112, "<I", 0x565),  # not hardware-reduced (bit 20)
        (116, "<BBBBQ", (1, 8, 0, 0, acpi.RESET_PORT)),
        (128, "<B", acpi.RESET_VALUE),
        (132, "<Q", 0),
        (148, "<BBBBQ", (1, 32, 0, 0, acpi.PM1_EVENT)),
        (172, "<BBBBQ", (1, 16, 0, 0, acpi.PM1_CONTROL)),
        (208, "<BBBBQ", (1, 32, 0, 0, acpi.PM_TIMER)),
    ],
)
def test_fadt_fields(memory: GuestMemory, offset: int, form: str, value: object) -> None:
    """Offsets: ACPI specification 6.4, table 5.9."""
    expected = value if isinstance(value, tuple) else (value,)
    assert struct.unpack_from(form, by_signature(memory)["FACP"], offset) == expected


def madt_entries(data: bytes) -> list[bytes]:
    entries, at = [], 44
    while at < len(data):
        entries.append(data[at : at + data[at + 1]])
        at += data[at + 1]
    return entries


@pytest.mark.parametrize("vp_count", [1, 2, 255, 256, 1024])
def test_madt_names_every_cpu_once(memory: GuestMemory, vp_count: int) -> None:
    ids = []
    for entry in madt_entries(by_signature(memory, vp_count)["APIC"]):
        if entry[0] == 0:
            ids.append(entry[3])
            assert entry[4:8] == b"\1\0\0\0"
        elif entry[0] == 9:
            ids.append(struct.unpack_from("<I", entry, 4)[0])
            assert struct.unpack_from("<II", entry, 8) == (1, ids[-1])
    assert ids == list(range(vp_count))


def test_madt_overrides(memory: GuestMemory) -> None:
    """The PIT on pin 2 as on a PC, the SCI level and active high."""
    entries = madt_entries(by_signature(memory)["APIC"])
    overrides = [struct.unpack("<BBBBIH", e) for e in entries if e[0] == 2]
    assert overrides == [(2, 10, 0, 0, 2, 0), (2, 10, 0, 9, 9, 0x0D)]
    assert [struct.unpack("<BBBBII", e) for e in entries if e[0] == 1] == [
        (1, 12, 0, 0, 0xFEC00000, 0)
    ]


def test_too_many_cpus_for_the_area_is_one_line(memory: GuestMemory) -> None:
    with pytest.raises(ConfigError, match=r"^-smp 5000: .* fewer vCPUs$"):
        acpi.tables(memory, 5000)


def test_high_window_lies_above_ram() -> None:
    memory = GuestMemory(6 << 30)
    top = memory.regions[1].gpa + memory.regions[1].size
    window = aml.memory64(top, acpi.HIGH_MMIO_SIZE)
    assert top > HIGH
    assert window in by_signature(memory)["DSDT"]
    memory.close()


@pytest.mark.parametrize(
    ("size", "encoded"),
    [
        (0, "01"),
        (62, "3f"),
        (63, "4104"),
        (0xFFD, "4fff"),
        (0xFFE, "810001"),
        (0xFFFFC, "8fffff"),
        (0xFFFFD, "c1000001"),
    ],
)
def test_package_length_counts_itself(size: int, encoded: str) -> None:
    assert aml.package_length(size).hex() == encoded


def test_package_length_has_a_limit() -> None:
    with pytest.raises(ValueError, match="268435456"):
        aml.package_length(1 << 28)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0x10000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integers_take_the_shortest_form(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize(
    ("path", "encoded"),
    [("RTC", b"RTC_"), ("\\_SB", b"\\_SB_"), ("\\_SB.VMOD", b"\\._SB_VMOD")],
)
def test_names(path: str, encoded: bytes) -> None:
    assert aml.name_string(path) == encoded


@pytest.mark.parametrize("path", ["TOOLONG", "A.B.C", ""])
def test_bad_names_are_refused(path: str) -> None:
    if path:
        with pytest.raises(ValueError, match="AML name"):
            aml.name_string(path)
    else:
        assert aml.name_string(path) == b"____"


def test_eisa_id() -> None:
    """PNP0501 is 0x0105d041, as every DSDT with a serial port shows."""
    assert aml.eisa_id("PNP0501") == b"\x0c" + (0x0105D041).to_bytes(4, "little")


@pytest.mark.skipif(not shutil.which("iasl"), reason="iasl (acpica-tools) is not installed")
@pytest.mark.parametrize("vp_count", [1, 300])
def test_iasl_reads_all_tables(memory: GuestMemory, tmp_path: Path, vp_count: int) -> None:
    """ACPICA's disassembler is the reader that Linux has inside, too."""
    text = ""
    for signature, data in by_signature(memory, vp_count).items():
        if signature == "RSD":
            continue
        (tmp_path / f"{signature}.dat").write_bytes(data)
        done = subprocess.run(
            ["iasl", "-d", f"{signature}.dat"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        said = done.stdout + done.stderr
        assert "rror" not in said, said
        assert "arning" not in said, said
        text += (tmp_path / f"{signature}.dsl").read_text()
    for expected in (
        'Name (_HID, EisaId ("PNP0501")',
        'Name (_HID, EisaId ("PNP0B00")',
        'Name (_HID, "ACPI0004"',
        'Name (_HID, "VMBUS")',
        "DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,",
        "0xF8000000,         // Range Minimum",
        "Name (\\_S5, Package (0x04)",
        "Hardware Reduced (V5) : 0",
        "Reset Register Supported (V2) : 1",
        "8042 Present on ports 60/64 (V2) : 0",
    ):
        assert expected in text
