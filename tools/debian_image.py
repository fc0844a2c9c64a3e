#!/usr/bin/env python3
"""Real Debian guests for the boot tests and the benchmark, built once into the cache.

    debian_image.py disk SUITE [-o FILE] [--terminal console|serial]
    debian_image.py kernel SUITE       prints two lines: the kernel, its stock initrd
    debian_image.py vmlinux SUITE      the same kernel as an uncompressed ELF file
    debian_image.py decoders SUITE     a folder with cpuid and virt-what, to be put into a disk
    debian_image.py initramfs SUITE    a small busybox initramfs with the Hyper-V modules
    debian_image.py services SUITE     the same, and in /usr/sbin Debian's Hyper-V daemons; what
                                       they need beside hv_utils lies in /later, not loaded
    debian_image.py storage SUITE      the same without them, and with what disks and DVDs need:
                                       sr_mod, isofs; mkfs.ext4, e2fsck, fstrim, blkdiscard, sfdisk
    debian_image.py screen SUITE       two lines: Debian's generic kernel, which has hyperv_drm, and
                                       such an initramfs for it, with a console on the screen

Each prints a path; SUITE is bookworm (Linux 6.1) or trixie (6.12). Never write
to what is printed: copy it (``-o``, or ``cp --sparse=always --reflink=auto``).

The disk: GRUB in the MBR, one ext4 partition with the label "pyhv", systemd, a
login prompt on ttyS0; "root" has no password. ``--terminal`` is where GRUB
speaks: "serial" (default), or "console", the BIOS's INT 10h.

The initramfs prints PYHV-USERSPACE, then runs a shell on the console. With
``pyhv.run=COMMAND`` on the kernel command line, COMMAND in percent-encoding
(urllib.parse.quote), it runs that, prints ``PYHV-DONE STATUS`` and powers off.
``--module NAME`` (of Debian's kernel) or ``--module FILE.ko`` puts a module under
test into it as /modules/NAME.ko: not loaded, unlike what it depends on. With a
FILE the archive is not kept in the cache, so it needs -o.
"""

import argparse
import lzma
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/host"))

import debian  # noqa: E402
import debian_grub  # noqa: E402
import debian_module  # noqa: E402
import debian_screen  # noqa: E402
import debian_services  # noqa: E402
import debian_storage  # noqa: E402
import initramfs as archive  # noqa: E402
from debian_grub import DISK_BYTES, GRUB_MODULES, PARTITION_LBA, SECTOR  # noqa: E402

SUITES = ("trixie", "bookworm")
PACKAGES = [
    "linux-image-cloud-amd64",
    "grub-pc-bin",
    "grub-common",
    "grub2-common",
    "busybox",
    "initramfs-tools",
    "zstd",
    "systemd-sysv",
    "udev",
    "dbus",
    "klibc-utils",
    "hyperv-daemons",
    "kmod",
    "login",
    "iproute2",
    "dropbear-bin",  # an SSH server that is only a program: nothing starts it
]

#: what tests/boot/test_decoders.py compares pyhv's decoders with; the disks do without
DECODERS = ["cpuid", "virt-what"]

LABEL = "pyhv"

# Each costs seconds under emulation and does nothing for a guest of some minutes.
MASKED = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "man-db.timer",
    "systemd-tmpfiles-clean.timer",
    "systemd-networkd-wait-online.service",
    "systemd-udev-settle.service",
    "systemd-pcrmachine.service",
    "systemd-binfmt.service",
    "systemd-journal-flush.service",
    "getty@tty1.service",
    "grub-common.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
]

WASTE = ["usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists", "var/cache/apt"]

SETTINGS = {
    "etc/fstab": f"LABEL={LABEL} / ext4 defaults,noatime 0 0\n",  # 0: no fsck at boot
    "etc/hostname": "pyhv\n",
    "etc/hosts": "127.0.0.1 localhost pyhv\n",
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/locale.conf": "LANG=C.UTF-8\n",
    # Not the first boot: that would run every preset.
    "etc/machine-id": "70796876" * 4 + "\n",
    # systemd-networkd is not enabled: who wants a network starts it
    "etc/systemd/network/80-dhcp.network": "[Match]\nName=eth* en*\n[Network]\nDHCP=yes\n",
    "etc/systemd/journald.conf.d/pyhv.conf": "[Journal]\nStorage=volatile\n",
}

# systemd gives up on ttyS0 after 90 s, which an emulated CPU under load may need
PATIENCE = "systemd.default_device_timeout_sec=900"
GRUB_CFG = """\
set timeout=1
{terminal}
menuentry "Debian" {{
    linux /boot/{kernel} root=LABEL={label} ro console=ttyS0 quiet {patience}
    initrd /boot/{initrd}
}}
"""
TERMINALS = {
    "serial": "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial",
    # `serial` scans all of PCI, thousands of exits; this one does not.
    "console": "terminal_input console\nterminal_output console",
}

GUEST_MODULES = [
    "hv_vmbus",
    "hv_utils",
    "scsi_mod",
    "scsi_common",
    "scsi_transport_fc",
    "sd_mod",
    "hv_storvsc",
    "hv_netvsc",
    "hyperv-keyboard",
]
GUEST_INIT = r"""#!/bin/busybox sh
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read module; do insmod $module; done </modules/order
echo PYHV-USERSPACE
for word in $(cat /proc/cmdline); do
    case $word in pyhv.run=*)
        command=$(printf '%b' "$(echo "${word#pyhv.run=}" | sed 's/%/\\x/g')")
        sh -c "$command" </dev/null
        echo "PYHV-DONE $?"
        poweroff -f
    esac
done
setsid cttyhack sh
poweroff -f
"""


def root(suite: str) -> Path:
    """Return the folder with *suite* as it is on the disk; beside it, "busybox" is unpacked."""

    def build(both: Path) -> None:
        both.mkdir()
        folder = both / "root"
        debian.debootstrap(folder, suite, PACKAGES)
        debian.unpack(folder, "busybox-static", both / "busybox")
        for name, text in SETTINGS.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).unlink(missing_ok=True)  # may be a link out of the folder
            (folder / name).write_text(text)
        shadow = folder / "etc/shadow"
        shadow.write_text(shadow.read_text().replace("root:*:", "root::", 1))
        for waste in WASTE:
            shutil.rmtree(folder / waste, ignore_errors=True)
            (folder / waste).mkdir()
        # Newer than all of /usr: nothing to update at boot (ConditionNeedsUpdate=).
        for updated in ("etc/.updated", "var/.updated"):
            (folder / updated).touch()

    recipe = debian.digest(PACKAGES, SETTINGS, WASTE)
    return debian.once(f"root-{suite}-{recipe}", build) / "root"


def kernel(suite: str) -> tuple[Path, Path]:
    """Return the kernel and its stock initrd."""
    image = debian.kernel_image(root(suite))
    return image, image.with_name(image.name.replace("vmlinuz", "initrd.img"))


def vmlinux(suite: str) -> Path:
    """Return the kernel as an uncompressed ELF file."""
    image = kernel(suite)[0]

    def build(file: Path) -> None:
        data = image.read_bytes()
        # linux: Documentation/arch/x86/boot.rst, setup_sects, payload_offset, payload_length
        (offset, length) = struct.unpack_from("<II", data, 0x248)
        start = (data[0x1F1] + 1) * SECTOR + offset
        payload = data[start : start + length]
        # All but gzip are followed by the length of the result.
        if payload.startswith(b"\x1f\x8b"):
            elf = zlib.decompress(payload, 31)
        elif payload.startswith(b"\xfd7zXZ"):
            elf = lzma.LZMADecompressor().decompress(payload)
        elif payload.startswith((b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18")):
            tool = "zstd" if payload[0] == 0x28 else "lz4"
            debian.need(**{tool: tool})
            elf = subprocess.run(
                [tool, "-dc"], input=payload[:-4], stdout=subprocess.PIPE, check=True
            ).stdout
        else:
            raise debian.SetupError(f"{image.name}: unknown compression {payload[:4].hex()}")
        file.write_bytes(elf)

    return debian.once(f"vmlinux-{suite}-{debian.digest(image.name)}", build)


def _small(kind: str, suite: str, modules: list[str], more: ModuleType | None = None) -> Path:
    """Return the small initramfs *kind*, which loads *modules* and has the files() of *more*."""
    base = root(suite)

    def build(file: Path) -> None:
        loaded = archive.find_modules(base, modules)
        files = more.files(base, suite, loaded, file.parent / "scratch") if more else {}
        program = next((base.parent / "busybox").glob("**/bin/busybox"))
        file.write_bytes(archive.build(program, GUEST_INIT, loaded, files))

    recipe = debian.digest(GUEST_INIT, modules, *([more.RECIPE] if more else []), archive.LINKS,
                           base.parent.name)  # fmt: skip
    return debian.once(f"{kind}-{suite}-{recipe}", build)


def initramfs(suite: str, modules: list[str] | tuple = (), output: Path | None = None) -> Path:
    """Return the small initramfs with the Hyper-V modules, and *modules* to be tested."""
    if modules:
        return debian_module.initramfs(
            root(suite), suite, GUEST_INIT, GUEST_MODULES, modules, output
        )
    return _small("initramfs", suite, GUEST_MODULES)


def services(suite: str) -> Path:
    """Return the small initramfs with Debian's Hyper-V daemons."""
    return _small("services", suite, GUEST_MODULES, debian_services)


def storage(suite: str) -> Path:
    """Return the small initramfs with modules and tools for disks and DVDs."""
    return _small("storage", suite, [*GUEST_MODULES, *debian_storage.MODULES], debian_storage)


def screen(suite: str) -> tuple[Path, Path]:
    """Return Debian's generic kernel and a small initramfs for it."""
    base = root(suite)

    def build(folder: Path) -> None:
        program = next((base.parent / "busybox").glob("**/bin/busybox"))
        with debian.package_lists(base):
            debian_screen.build(folder, base, program, GUEST_INIT)

    recipe = debian.digest(GUEST_INIT, debian_screen.RECIPE, archive.LINKS, base.parent.name)
    folder = debian.once(f"screen-{suite}-{recipe}", build)
    return folder / "vmlinuz", folder / "initramfs"


def disk(suite: str, terminal: str = "serial") -> Path:
    """Return the bootable raw disk."""
    base = root(suite)
    image, initrd = kernel(suite)
    debian.need(mke2fs="e2fsprogs", debugfs="e2fsprogs")

    config = GRUB_CFG.format(
        terminal=TERMINALS[terminal], kernel=image.name, initrd=initrd.name, label=LABEL,
        patience=PATIENCE,
    )  # fmt: skip

    def build(file: Path) -> None:
        grub, edit = file.parent / "grub.cfg", file.parent / "edit"
        grub.write_text(config)
        masks = "".join(f"symlink {unit} /dev/null\n" for unit in MASKED)
        edit.write_text(
            f"cd /etc/systemd/system\n{masks}"
            f"mkdir /boot/grub\ncd /boot/grub\nwrite {grub} grub.cfg\n"
        )
        offset = PARTITION_LBA * SECTOR
        with open(file, "wb") as raw:
            raw.truncate(DISK_BYTES)
            raw.write(debian_grub.boot_sectors(base, file.parent))
        # The two features are too new for GRUB 2.06 or for bookworm's e2fsprogs.
        debian.run(
            *("mke2fs", "-q", "-t", "ext4", "-L", LABEL, "-d", base, "-m", "0"),
            *("-O", "^orphan_file,^metadata_csum_seed", "-E", f"offset={offset}"),
            *(file, f"{(DISK_BYTES - offset) // 1024}k"),
        )
        debian.run("debugfs", "-w", "-f", edit, f"{file}?offset={offset}")
        # debugfs never fails.
        check = ["debugfs", "-R", "cat /boot/grub/grub.cfg", f"{file}?offset={offset}"]
        if subprocess.run(check, capture_output=True, text=True).stdout != config:
            raise debian.SetupError("debugfs could not write grub.cfg into the disk")
        file.chmod(0o444)

    recipe = debian.digest(config, MASKED, DISK_BYTES, GRUB_MODULES, base.parent.name)
    return debian.once(f"disk-{suite}-{terminal}-{recipe}.img", build)


def decoders(suite: str) -> Path:
    """Return a folder with Debian's cpuid and virt-what, unpacked and not in the disks."""
    base = root(suite)

    def build(folder: Path) -> None:
        folder.mkdir()
        with debian.package_lists(base):
            for package in DECODERS:
                debian.unpack(base, package, folder)

    return debian.once(f"decoders-{suite}-{debian.digest(DECODERS, base.parent.name)}", build)


#: what is made from a suite alone
MAKERS = {
    "vmlinux": vmlinux,
    "initramfs": initramfs,
    "services": services,
    "storage": storage,
    "decoders": decoders,
}
PAIRS = {"kernel": kernel, "screen": screen}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["disk", *PAIRS, *MAKERS])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="a copy of your own")
    parser.add_argument("--module", action="append", default=[], metavar="NAME|FILE.ko",
                        help="initramfs: a module to be tested")  # fmt: skip
    parser.add_argument("--terminal", choices=sorted(TERMINALS), default="serial")
    options = parser.parse_args()
    if options.output and options.what in PAIRS:
        parser.error(f"-o: {options.what} is two files")
    if options.module and options.what != "initramfs":
        parser.error("--module: only an initramfs takes one")
    if not options.output and any(module.endswith(".ko") for module in options.module):
        parser.error("--module FILE.ko: needs -o, because it is not kept in the cache")
    try:
        if options.what in PAIRS:
            print(*PAIRS[options.what](options.suite), sep="\n")
            return 0
        if options.what == "disk":
            path = disk(options.suite, options.terminal)
        else:
            more = (options.module, options.output) if options.module else ()
            path = MAKERS[options.what](options.suite, *more)
        if options.output and path != options.output:
            debian.run("cp", "--sparse=always", "--reflink=auto", path, options.output)
            options.output.chmod(0o644)
            path = options.output
        print(path)
    except debian.SetupError as error:
        print(f"debian_image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
