"""GRUB in the sectors before a disk's partition, without a program that needs a block device."""

from __future__ import annotations

import struct
from pathlib import Path

import debian

SECTOR = 512
PARTITION_LBA = 2048
DISK_BYTES = 800 << 20
GRUB_MODULES = [
    "biosdisk",
    "part_msdos",
    "ext2",
    "normal",
    "linux",
    "echo",
    "serial",
    "terminal",
    "configfile",
    "minicmd",
    "test",
]


def boot_sectors(base: Path, scratch: Path) -> bytes:
    """Return GRUB for the sectors before the partition, as grub-bios-setup would write them."""
    core_path = scratch / "core.img"
    lib = base / "usr/lib/grub/i386-pc"
    libraries = base / "usr/lib/x86_64-linux-gnu"
    debian.run(
        *(base / "lib64/ld-linux-x86-64.so.2", "--library-path", libraries),
        *(base / "usr/bin/grub-mkimage", "-d", lib, "-O", "i386-pc"),
        *("-p", "(hd0,msdos1)/boot/grub", "-o", core_path, *GRUB_MODULES),
    )
    boot = bytearray((lib / "boot.img").read_bytes())
    core = bytearray(core_path.read_bytes())
    core += bytes(-len(core) % SECTOR)
    if len(core) > (PARTITION_LBA - 1) * SECTOR:
        raise debian.SetupError("GRUB's core image does not fit before the partition")
    struct.pack_into("<Q", boot, 0x5C, 1)  # LBA of core.img
    boot[0x64] = 0xFF  # boot drive: the one in DL
    boot[0x66:0x68] = b"\x90\x90"  # no jump over the check of DL
    sectors = (DISK_BYTES // SECTOR) - PARTITION_LBA
    entry = struct.pack("<B3xB3xII", 0x80, 0x83, PARTITION_LBA, sectors)
    # boot.img has its floppy code where a hard disk has its partitions.
    boot[0x1B8:0x1FE] = bytes(6) + entry + bytes(48)
    boot[0x1FE:0x200] = b"\x55\xaa"
    # diskboot.img's last block list: the rest of core.img follows it, to 0x8200
    struct.pack_into("<QHH", core, 0x1F4, 2, len(core) // SECTOR - 1, 0x820)
    return bytes(boot + core)
