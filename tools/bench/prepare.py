"""What the outer machine makes beforehand: guests, the C loop, an initramfs, GRUB disks."""

from __future__ import annotations

import pathlib
import shutil
import struct
import subprocess
import sys

from . import guests, measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests/host"), str(ROOT / "tools")]

SUITE = "trixie"
BOOT_SECTORS = 2048  # MBR and GRUB's core, up to the partition
GRUB_DISK_MB = 64
GRUB_END = "outb 0xf4 0x10"  # the debug exit port
GRUB_CFG = """\
insmod (hd0,msdos1)/boot/iorw.mod
{before}
linux /boot/vmlinuz console=ttyS0
initrd /boot/initrd
{end}
"""


SYSTEM_PYTHON = pathlib.Path("/usr/bin/python3")
NEW_ENOUGH = "import sys; sys.exit(sys.version_info < (3, 11))"


def python() -> str:
    """Return the distribution's interpreter if pyhv runs on it, else the one that runs this.

    Never a shim that looks for one at each start; and a Python built at home is often not
    optimised as the distribution's is (3 % of an exit).
    """
    command = [SYSTEM_PYTHON, "-I", "-S", "-c", NEW_ENOUGH]
    system = SYSTEM_PYTHON.exists() and subprocess.run(command).returncode == 0
    return str((SYSTEM_PYTHON if system else pathlib.Path(sys.executable)).resolve())


def prepare(folder: pathlib.Path, parts: list[str], interpreter: str = "") -> dict[str, object]:
    """Make what *parts* need in *folder*; return the fields of machines.Setup."""
    import emulator

    files = {"cloop": guests.compile_c(folder, "cloop")}
    for name, program in (
        ("c_program", guests.assemble(folder, measure.C_OPERATIONS)),
        ("all", guests.assemble(folder, measure.ALL_OPERATIONS)),
        ("pyhv_program", guests.assemble(folder, measure.PYHV_OPERATIONS)),
        ("end", guests.assemble_end(folder)),
        ("idle", guests.assemble_idle(folder)),
    ):
        files[name], files[f"{name}_rom"] = program, program.with_suffix(".rom")
    if set(parts) & {"debian", "grub", "disk"}:
        files |= _debian(folder, parts)
    return {
        "python": interpreter or python(),
        "qemu": emulator.Files(SUITE).qemu,
        "files": {name: str(path) for name, path in files.items()},
    }


def linux() -> dict[str, object]:
    """Return the fields of machines.Setup for Debian's kernel with the small initramfs alone."""
    import debian_image
    import emulator

    files = {"kernel": debian_image.kernel(SUITE)[0], "initramfs": debian_image.initramfs(SUITE)}
    return {
        "python": python(),
        "qemu": emulator.Files(SUITE).qemu,
        "files": {name: str(path) for name, path in files.items()},
    }


def _debian(folder: pathlib.Path, parts: list[str]) -> dict[str, pathlib.Path]:
    import debian_image
    import initramfs

    kernel, initrd = debian_image.kernel(SUITE)
    files = {"kernel": kernel, "initramfs": debian_image.initramfs(SUITE)}
    if "disk" in parts:
        base = debian_image.root(SUITE)
        modules = initramfs.find_modules(base, [*debian_image.GUEST_MODULES, "virtio_blk"])
        busybox = next((base.parent / "busybox").glob("**/bin/busybox"))
        files["disk_initramfs"] = folder / "disk_initramfs"
        programs = {"bin/queue": guests.compile_c(folder, "queue", "-static").read_bytes()}
        files["disk_initramfs"].write_bytes(
            initramfs.build(busybox, debian_image.GUEST_INIT, modules, programs)
        )
    if "grub" in parts:
        boot = folder / "grub-root/boot"
        boot.mkdir(parents=True)
        shutil.copyfile(kernel, boot / "vmlinuz")
        shutil.copyfile(initrd, boot / "initrd")
        module = debian_image.root(SUITE) / "usr/lib/grub/i386-pc/iorw.mod"
        shutil.copyfile(module, boot / "iorw.mod")
        sectors = debian_image.disk(SUITE, "console")
        for name, before in (("grub_before", GRUB_END), ("grub_after", "")):
            config = GRUB_CFG.format(before=before, end=GRUB_END)
            files[name] = grub_disk(folder, name, config, sectors)
    return files


def grub_disk(folder: pathlib.Path, name: str, config: str, boot: pathlib.Path) -> pathlib.Path:
    """Build a disk whose GRUB runs *config*; MBR and core image come from the disk *boot*."""
    import debian

    grub = folder / "grub-root/boot/grub"
    grub.mkdir(exist_ok=True)
    (grub / "grub.cfg").write_text(config)
    made = folder / f"{name}.img"
    size, offset = GRUB_DISK_MB << 20, BOOT_SECTORS * 512
    with open(boot, "rb") as source, open(made, "wb") as disk:
        head = bytearray(source.read(offset))
        struct.pack_into("<I", head, 0x1BE + 12, (size - offset) // 512)  # the partition's length
        disk.write(head)
        disk.truncate(size)
    debian.run(
        *("mke2fs", "-q", "-t", "ext4", "-d", folder / "grub-root", "-m", "0"),
        *("-O", "^orphan_file,^metadata_csum_seed", "-E", f"offset={offset}"),
        *(made, f"{(size - offset) // 1024}k"),
    )
    return made
