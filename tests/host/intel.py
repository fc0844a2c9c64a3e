"""Bochs as a computer with an Intel CPU (VMX, EPT): KVM in it has the enlightened VMCS.

A library of tests/host/test_intel.py. The CPU is interpreted, so a boot takes some 20 s of CPU time
and Python starts in 2; no folder is shared, so what runs in it is put into its disk.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tools")]

import debian  # noqa: E402
import debian_image  # noqa: E402
import initramfs  # noqa: E402

PACKAGES = ["bochs", "bochsbios", "vgabios", "isolinux", "syslinux-common", "xorriso",
            "python3-minimal", "libpython3-stdlib"]  # fmt: skip
LIB = "usr/lib/x86_64-linux-gnu"
#: the disk's driver first; all but the last are dependencies in load order
MODULES = ["scsi_mod", "libata", "ata_piix", "sd_mod", "irqbypass", "kvm-intel"]
# Bochs 3.0 wants the posted-interrupt descriptor at the begin of a page, which KVM does not
# promise: without enable_apicv=0 no guest with a LAPIC in the kernel is entered.
INIT = """#!/bin/busybox sh
export PATH=/bin:/usr/bin HOME=/root LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read module; do case $module in *kvm_intel*) options=enable_apicv=0 ;; esac
    insmod $module $options; done </modules/order
sleep 1
mount -t ext4 -o ro /dev/sda /root
for folder in proc sys dev; do mount --bind /$folder /root/$folder; done
mount -t tmpfs tmp /root/tmp
chroot /root /bin/sh /run
sleep 5  # the serial port is slow, and is not waited for
echo INTEL-DONE
sleep 3
poweroff -f
"""
LINKS = ("sh", "cat", "echo", "grep", "ls", "head", "tail", "sed", "sleep")
# kernel: quiet, since a character on the serial port costs thousands of instructions, and without
# its self-tests, which take a minute
OPTIONS = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on"
OPTIONS += " cryptomgr.notests"
ISOLINUX = f"default x\nlabel x\n kernel /vmlinuz\n append initrd=/initrd {OPTIONS}\n"
BOCHSRC = """\
config_interface: textconfig
display_library: rfb, options="timeout=0"
romimage: file={root}/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file={root}/usr/share/vgabios/vgabios.bin
megs: 1024
cpu: model=corei7_haswell_4770, count=1, ips=50000000
clock: sync=none
boot: cdrom
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
ata0-master: type=disk, path={work}/disk.img, mode=volatile
ata1-master: type=cdrom, path={work}/boot.iso, status=inserted
com1: enabled=1, mode=file, dev={work}/serial
log: {work}/bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
"""


def programs() -> Path:
    """Return a folder with Bochs and all that goes into its disk, unpacked from packages."""
    base = debian_image.root("trixie")

    def build(folder: Path) -> None:
        folder.mkdir()
        apt = ("apt-get", "-qq", "-y", "-o", "APT::Sandbox::User=root")
        lists, archives = base / "var/lib/apt/lists", base / "var/cache/apt/archives"
        try:
            debian.in_root(base, *apt, "update")
            (archives / "partial").mkdir(parents=True, exist_ok=True)
            debian.in_root(base, *apt, "--no-install-recommends", "--download-only", "install",
                           *PACKAGES)  # fmt: skip
            for file in archives.glob("*.deb"):
                debian.run("dpkg-deb", "-x", file, folder)
        finally:
            for waste in (lists, archives):  # as debian_image.WASTE has them
                shutil.rmtree(waste, ignore_errors=True)
                waste.mkdir()

    return debian.once(f"intel-{debian.digest(PACKAGES, base.parent.name)}", build)


def load(root: Path, program: str, *arguments: object) -> list[str]:
    """Return the command that runs *program* of *root* with its own loader and libraries."""
    base = debian_image.root("trixie")
    paths = [folder / part for folder in (root, base) for part in (LIB, f"{LIB}/pulseaudio")]
    loader = base / LIB / "ld-linux-x86-64.so.2"
    return [str(word) for word in
            (loader, "--library-path", ":".join(map(str, paths)), root / program, *arguments)]


def modules(names: list[str]) -> list[tuple[str, bytes]]:
    """Return the kernel modules without debug information: three times faster to load."""
    found = []
    for name, elf in initramfs.find_modules(debian_image.root("trixie"), names):
        with tempfile.NamedTemporaryFile(suffix=".ko") as file:
            Path(file.name).write_bytes(elf)
            debian.run("objcopy", "--strip-debug", "-R", ".BTF", file.name)
            found.append((name, Path(file.name).read_bytes()))
    return found


def busybox() -> Path:
    """Return the static busybox that goes with the Debian images."""
    return next((debian_image.root("trixie").parent / "busybox").glob("**/bin/busybox"))


def archive(init: str, names: list[str]) -> bytes:
    """Return an initramfs with busybox, *init* and the modules *names*."""
    return initramfs.build(busybox(), init, modules(names))


def _libraries(root: Path, file: Path, found: dict[str, Path]) -> None:
    done = subprocess.run(["objdump", "-p", file], capture_output=True, text=True, check=True)
    for name in re.findall(r"NEEDED\s+(\S+)", done.stdout):
        for folder in (root, debian_image.root("trixie")):
            path = folder / LIB / name
            if name not in found and path.exists():
                found[name] = path.resolve()
                _libraries(root, path, found)


def _disk(work: Path, root: Path, script: str, extra: dict[str, bytes]) -> None:
    tree = work / "tree"
    for folder in ("proc", "sys", "dev", "tmp", "bin", "usr/bin", LIB, "lib64"):
        (tree / folder).mkdir(parents=True)
    (python,) = root.glob("usr/bin/python3.[0-9]*")
    library = root / "usr/lib" / python.name
    shutil.copytree(library, tree / "usr/lib" / python.name, symlinks=True)
    shutil.copy(python, tree / "usr/bin/python3")
    needed: dict[str, Path] = {}
    for file in (python, *library.rglob("*.so")):
        _libraries(root, file, needed)
    for name, path in needed.items():
        shutil.copy(path, tree / LIB / name)
    shutil.copy(debian_image.root("trixie") / LIB / "ld-linux-x86-64.so.2", tree / "lib64")
    shutil.copy(busybox(), tree / "bin/busybox")
    for name in LINKS:
        (tree / "bin" / name).symlink_to("busybox")
    for name in ("pyhv", "firmware"):
        shutil.copytree(HERE.parents[1] / name, tree / "src" / name,
                        ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name, data in extra.items():
        (tree / name).write_bytes(data)
    (tree / "run").write_text(f"cd /src\n{script}\n")
    debian.need(mke2fs="e2fsprogs")
    debian.run("mke2fs", "-q", "-t", "ext4", "-d", tree, work / "disk.img", "400m")


def run(script: str, extra: dict[str, bytes], timeout: float) -> str:
    """Boot, run the shell *script* in a copy of pyhv, and return what the serial port showed.

    :param extra: files for the root of its disk.
    :raises TimeoutError: it did not end in *timeout* seconds; carries what came.
    """
    root, kernel = programs(), debian_image.kernel("trixie")[0]
    with tempfile.TemporaryDirectory(prefix="pyhv-intel-") as name:
        work = Path(name)
        _disk(work, root, script, extra)
        iso = work / "iso"
        iso.mkdir()
        for file in ("ISOLINUX/isolinux.bin", "syslinux/modules/bios/ldlinux.c32"):
            shutil.copy(root / "usr/lib" / file, iso)
        shutil.copy(kernel, iso / "vmlinuz")
        (iso / "initrd").write_bytes(archive(INIT, MODULES))
        (iso / "isolinux.cfg").write_text(ISOLINUX)
        debian.run(*load(root, "usr/bin/xorriso", "-as", "mkisofs", "-quiet", "-o",
                         work / "boot.iso", "-b", "isolinux.bin", "-c", "boot.cat",
                         "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", iso))
        (work / "bochsrc").write_text(BOCHSRC.format(root=root, work=work))
        variables = {"BXSHARE": str(root / "usr/share/bochs"),
                     "LTDL_LIBRARY_PATH": str(root / LIB / "bochs/plugins")}  # fmt: skip
        serial, deadline = work / "serial", time.monotonic() + timeout
        with open(work / "log", "wb") as log:
            bochs = subprocess.Popen(
                load(root, "usr/bin/bochs-bin", "-q", "-f", work / "bochsrc"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **variables}, start_new_session=True,
            )  # fmt: skip
        try:
            while bochs.poll() is None and time.monotonic() < deadline:
                time.sleep(0.2)
        finally:
            bochs.kill()
            bochs.wait()
        text = serial.read_text(errors="replace") if serial.exists() else ""
        if "INTEL-DONE" not in text:
            raise TimeoutError(f"{text[-3000:]}\n{(work / 'log').read_text(errors='replace')}")
        return text
