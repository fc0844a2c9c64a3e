"""What the "storage" initramfs of debian_image.py has beside the small one: tools for disks."""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/host"))

import debian  # noqa: E402

#: loaded at boot, after those of the small one
MODULES = ["sr_mod", "isofs", "ext4"]
#: what a root lacks, by suite
PACKAGES = {
    "trixie": ["e2fsprogs", "libext2fs2t64", "fdisk", "libfdisk1", "libreadline8t64"],
    "bookworm": ["e2fsprogs", "libext2fs2", "fdisk", "libfdisk1", "libreadline8"],
}
PROGRAMS = ["mke2fs", "e2fsck", "fstrim", "blkdiscard", "sfdisk"]
LIBRARIES = [
    "libc.so.6", "libblkid.so.1", "libuuid.so.1", "libcom_err.so.2", "libext2fs.so.2",
    "libe2p.so.2", "libmount.so.1", "libselinux.so.1", "libpcre2-8.so.0", "libfdisk.so.1",
    "libsmartcols.so.1", "libreadline.so.8", "libtinfo.so.6", "ld-linux-x86-64.so.2",
]  # fmt: skip
RECIPE = (MODULES, PACKAGES, PROGRAMS, LIBRARIES)


def files(
    base: Path, suite: str, modules: list[tuple[str, bytes]], scratch: Path
) -> dict[str, bytes]:
    """Return programs and libraries by path, whatever *modules* are loaded.

    :param base: the folder with *suite*. *scratch*: where to unpack what it lacks.
    """
    scratch.mkdir()
    with debian.package_lists(base):
        for package in PACKAGES[suite]:
            debian.unpack(base, package, scratch)

    def content(name: str) -> bytes:
        places = (root / folder / name for root in (scratch, base)
                  for folder in ("usr/sbin", "sbin", "usr/lib/x86_64-linux-gnu",
                                 "lib/x86_64-linux-gnu"))  # fmt: skip
        return next(path for path in places if path.is_file()).read_bytes()

    found = {f"usr/sbin/{name}": content(name) for name in PROGRAMS}
    found["usr/sbin/mkfs.ext4"] = found["usr/sbin/mke2fs"]
    found |= {f"lib/x86_64-linux-gnu/{name}": content(name) for name in LIBRARIES}
    found["lib64/ld-linux-x86-64.so.2"] = found.pop("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    shutil.rmtree(scratch)
    return found
