"""-m, -smp, -drive and the keywords of Machine: what is read, and one clear line for the rest."""

from __future__ import annotations

import pytest

from pyhv.config import (
    CACHE,
    Drive,
    MachineConfig,
    Smp,
    cdrom,
    machine_config,
    parse_drive,
    parse_memory,
    parse_size,
    parse_smp,
)
from pyhv.errors import ConfigError

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256M", 256 * MIB),
        ("256m", 256 * MIB),
        ("1G", GIB),
        ("1.5G", 3 * GIB // 2),
        ("256", 256 * MIB),
        ("0x100", 256 * MIB),
        ("4096k", 4 * MIB),
        ("8388608B", 8 * MIB),
        ("1T", 1 << 40),
        ("size=512M", 512 * MIB),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("512", (512 * MIB, None)),
        ("512M,maxmem=2G", (512 * MIB, 2 * GIB)),
        ("maxmem=2G,size=1G", (GIB, 2 * GIB)),
        ("1G,slots=4,maxmem=4G", (GIB, 4 * GIB)),
        ("1G,slots=4", (GIB, None)),
    ],
)
def test_memory_that_may_grow(text: str, sizes: tuple[int, int | None]) -> None:
    assert parse_memory(text) == sizes


@pytest.mark.parametrize(
    "text", ["maxmem=2G", "1G,maxmem", "1G,maxmem=x", "1G,slots=x", "1G,share=on", ""]
)
def test_bad_memory(text: str) -> None:
    with pytest.raises(ConfigError, match="^-m "):
        parse_memory(text)


BAD_SIZES = ["", "M", "12Q", "-1", "0", "1.5.1G", "1..G", "1e3", "5000B", "²M", "size=", "9" * 30]
BAD_SIZES += ["0x1G", "256M,slots=2", "256M,size", "maxmem=1G", "1_0M", "0.0000000001G"]


@pytest.mark.parametrize("text", BAD_SIZES)
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="^-m "):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "smp"),
    [
        ("1", Smp(1, 1, 1, 1)),
        ("2", Smp(2, 1, 2, 1)),
        ("cpus=4", Smp(4, 1, 4, 1)),
        ("4,sockets=2", Smp(4, 2, 2, 1)),
        ("4,cores=2", Smp(4, 2, 2, 1)),
        ("8,sockets=2,threads=2", Smp(8, 2, 2, 2)),
        ("8,cores=2,threads=2", Smp(8, 2, 2, 2)),
        ("8,sockets=2,cores=2", Smp(8, 2, 2, 2)),
        ("sockets=2,cores=2,threads=2", Smp(8, 2, 2, 2)),
        ("maxcpus=4", Smp(4, 1, 4, 1)),
        ("4,maxcpus=4,threads=2", Smp(4, 1, 2, 2)),
        ("254", Smp(254, 1, 254, 1)),
        ("4,sockets=1,dies=1,clusters=1,cores=2,threads=2", Smp(4, 1, 2, 2)),
    ],
)
def test_smp(text: str, smp: Smp) -> None:
    """QEMU's rule since 6.2: what is left out is cores first, then sockets, then threads."""
    assert parse_smp(text) == smp


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0", "greater than zero"),
        ("2,cores=0", "greater than zero"),
        ("x", "expects a number"),
        ("", "expects a number"),
        ("-1", "expects a number"),
        ("3,cores=2", "product of the hierarchy must match maxcpus"),
        ("1,cores=2", "product of the hierarchy must match maxcpus"),
        ("4,sockets=1,cores=2,threads=1", "sockets (1) * cores (2) * threads (1) != maxcpus (4)"),
        ("2,maxcpus=4", "cannot add a CPU"),
        ("255", "at most 254"),
        ("2,dies=2", "'dies' is not provided"),
        ("2,clusters=0", "'clusters' is not provided"),
        ("2,cores", "no '='"),
    ],
)
def test_bad_smp(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_smp(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "drive"),
    [
        ("disk.img", Drive("disk.img")),
        ("file=disk.img", Drive("disk.img")),
        ("file=a,,b.img,format=raw", Drive("a,b.img", format="raw")),
        ("file=d,format=qcow2,snapshot=on", Drive("d", snapshot=True, format="qcow2")),
        ("file=d,format=vpc", Drive("d", format="vpc")),
        ("file=d,format=vhdx,readonly=on", Drive("d", True, format="vhdx")),
        ("file=x=y.img,readonly=on,snapshot=on", Drive("x=y.img", readonly=True, snapshot=True)),
        ("file=d,if=none,id=d0,media=disk,readonly=off", Drive("d")),
        *[(f"d,cache={mode}", Drive("d", cache=mode)) for mode in CACHE],
        ("file=d,logical_block_size=4096", Drive("d", sector_size=4096)),
        ("file=d.iso,media=cdrom,cache=none,readonly=on", cdrom("d.iso")),
    ],
)
def test_drive(text: str, drive: Drive) -> None:
    assert parse_drive(text) == drive


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no file"),
        ("format=raw", "no file"),
        ("file=d,format=vmdk", "pyhv has raw, qcow2, vpc, vhdx; convert it"),
        ("file=d,format=qcow2,media=cdrom", "an ISO image is raw"),
        ("file=d,aio=native", "'aio' is not provided by pyhv"),
        ("file=d,cache=directsync", "cache=directsync: pyhv has writeback, none"),
        ("file=d,logical_block_size=1024", "logical_block_size=1024: pyhv has 512, 4096"),
        ("file=d,if=virtio", "if=virtio"),
        ("file=d,media=tape", "media=tape: pyhv has disk, cdrom"),
        ("file=d,readonly=maybe", "expects 'on' or 'off'"),
        ("file=d,readonly", "no '='"),
    ],
)
def test_bad_drive(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match="^-drive") as caught:
        parse_drive(text)
    assert words in str(caught.value)


def test_keywords() -> None:
    config = machine_config(
        memory="64M", smp=2, disk="a.img", drives=[Drive("b.img", snapshot=True)], cpu="host"
    )
    assert config == MachineConfig(
        cpu="host",
        memory_bytes=64 * MIB,
        smp=Smp(2, 1, 2, 1),
        drives=(Drive("a.img"), Drive("b.img", snapshot=True)),
    )
    assert machine_config() == MachineConfig()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memroy": "1G"}, "did you mean memory?"),
        ({"hyperv": "both"}, "one of auto, kernel, user"),
        ({"initrd": "x"}, "need -kernel"),
        ({"append": "quiet"}, "need -kernel"),
        ({"kernel": "k", "firmware": "f"}, "one of them"),
        ({"time_limit": 0}, "more than 0"),
        ({"smp": 0}, "greater than zero"),
        ({"memory": "lots"}, "no size"),
    ],
)
def test_bad_keywords(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        machine_config(**options)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_does_not_change() -> None:
    with pytest.raises(AttributeError):
        MachineConfig().cpu = "max"  # type: ignore[misc]


def test_vmbus_version_is_one_of_the_protocol() -> None:
    assert machine_config(vmbus_version="4.1").vmbus_version == "4.1"
    with pytest.raises(ConfigError, match=r"VMBus version 4.2: pyhv has 0.13, 1.1, 2.4"):
        machine_config(vmbus_version="4.2")
