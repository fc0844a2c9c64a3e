"""QEMU under TCG as a computer with AMD-V: its files, its command line, its life and its death."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import debian
import initramfs

# PID 1 inside. The share is the outer machine's root, so the paths are the caller's.
INIT = """#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for word in $(cat /proc/cmdline); do
    case $word in pyhv.work=*) work=/share${word#*=} ;; esac
done
while read module; do insmod $module; done </modules/order
mkdir -p /share /dev/pts /dev/shm
mount -t virtiofs root /share || { echo "no share"; poweroff -f; }
mount -t devpts dev /dev/pts
mount -t tmpfs shm /dev/shm
for folder in proc sys dev; do mount --rbind /$folder /share/$folder; done
mount -t tmpfs run /share/run
ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr
ifconfig lo 127.0.0.1
# A way out that leads nowhere: passt wants a default route, and serves the guest from this host.
ip link add uplink type dummy
ip addr add 192.0.2.2/24 dev uplink
ip link set uplink up
ip route add default via 192.0.2.1
hostname nested
# A pipe, as a shell would give: a file would be overwritten by who opens /dev/stdout.
mknod /run/output p
cat </run/output >>$work/output &
cat=$!
# The share becomes the root of a mount namespace: a mere chroot may not make the user namespace in
# which passt shuts itself up.
export work
setsid unshare -m sh -c 'cd /share; mount --move . /; exec chroot . /bin/sh ${work#/share}/run' \
    </dev/null >/run/output 2>&1
# A daemon left behind may hold the pipe for ever.
(sleep 2; kill $cat) &
wait $cat
sync
poweroff -f
"""
MODULES = ["kvm-amd", "tun", "dummy"]
INSTALLED_OK = 10  # QEMU 7.2's cmpxchg16b leaves wrong flags in nested code: the guest oopses


class Died(Exception):
    """The nested host ended without the command's exit status; carries its console."""


def _installed() -> bool:
    """Say whether this machine's own QEMU and virtiofsd will do."""
    qemu = shutil.which("qemu-system-x86_64")
    if not qemu or not Path("/usr/libexec/virtiofsd").exists():
        return False
    version = subprocess.run([qemu, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"version (\d+)", version)
    return bool(found) and int(found[1]) >= INSTALLED_OK


class Files:
    """What a nested host is made of, taken from the cache or put there."""

    def __init__(self, suite: str) -> None:
        own = _installed()
        packages = ["busybox-static"] + ([] if own else ["qemu-system-x86", "seabios", "virtiofsd"])

        def build(root: Path) -> None:
            debian.debootstrap(root, suite, packages)
            debian.unpack(root, debian.CLOUD_KERNEL, root / "kernel")

        self.root = debian.once(f"nested-{suite}" + ("" if own else "-qemu"), build)
        self.kernel = debian.kernel_image(self.root / "kernel")
        recipe = debian.digest(INIT, MODULES, self.kernel.name)
        self.initramfs = debian.once(f"nested-{suite}-initramfs-{recipe}", self._initramfs)
        if own:
            self.qemu, self.virtiofsd = ["qemu-system-x86_64"], ["/usr/libexec/virtiofsd"]
        else:
            # The root's own loader and libraries: runs without a chroot, on an older Debian.
            lib = self.root / "usr/lib/x86_64-linux-gnu"
            load = [str(lib / "ld-linux-x86-64.so.2"), "--library-path", str(lib)]
            share = self.root / "usr/share"
            self.qemu = [*load, str(self.root / "usr/bin/qemu-system-x86_64")]
            self.qemu += ["-L", str(share / "qemu"), "-L", str(share / "seabios")]
            self.virtiofsd = [*load, str(self.root / "usr/libexec/virtiofsd")]

    def _initramfs(self, file: Path) -> None:
        modules = initramfs.find_modules(self.root / "kernel", MODULES)
        if not modules:
            raise debian.SetupError("the kernel has no kvm-amd module")
        file.write_bytes(initramfs.build(self.root / "bin/busybox", INIT, modules))


@contextlib.contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* beside us; it is dead when the block ends, or when we are."""
    with open(log, "wb") as out:
        # setpriv: also our SIGKILL ends it. Own session: Ctrl-C is ours to handle.
        child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def _qemu(files: Files, options: object, work: Path) -> list[str]:
    memory = f"{options.memory}M"  # type: ignore[attr-defined]
    append = "console=ttyS0 panic=-1 mitigations=off tsc=reliable"
    append += ("" if options.verbose else " quiet") + f" pyhv.work={work}"  # type: ignore[attr-defined]
    if options.icount:  # type: ignore[attr-defined]
        speed = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"]
    else:
        speed = ["-accel", "tcg,thread=multi", "-smp", str(options.cpus)]  # type: ignore[attr-defined]
    return [
        *files.qemu,
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-cpu", "max", "-m", memory, *speed, "-rtc", "base=utc"),
        *("-kernel", str(files.kernel), "-initrd", str(files.initramfs), "-append", append),
        *("-serial", f"file:{work}/console"),
        *("-object", f"memory-backend-memfd,id=mem,size={memory},share=on"),
        *("-numa", "node,memdev=mem", "-chardev", f"socket,id=fs,path={work}/socket"),
        *("-device", "vhost-user-fs-pci,chardev=fs,tag=root"),
    ]


def _copy(source: BinaryIO, target: BinaryIO | None) -> None:
    """Pass on what was added to *source* since the last call."""
    while data := source.read(1 << 16):
        if target:
            target.write(data)
            target.flush()


def boot(files: Files, script: str, options: object) -> int:
    """Boot, run the shell *script* inside, copy its output to our stdout, return its exit status.

    :raises TimeoutError: ``options.timeout`` seconds have passed.
    :raises Died: QEMU or the kernel inside ended first.
    """
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyhv-nested-")))
        (work / "run").write_text(script)
        for name in ("output", "console"):
            (work / name).touch()
        sandbox = "chroot" if os.geteuid() == 0 else "none"
        share = ["--socket-path", f"{work}/socket", "--shared-dir", "/", "--sandbox", sandbox]
        share += ["--cache", "auto", "--no-announce-submounts"]
        daemon = stack.enter_context(process([*files.virtiofsd, *share], work / "virtiofsd.log"))
        deadline = time.monotonic() + options.timeout  # type: ignore[attr-defined]
        while not (work / "socket").exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise Died("virtiofsd: " + (work / "virtiofsd.log").read_text())
            time.sleep(0.01)
        qemu = stack.enter_context(process(_qemu(files, options, work), work / "qemu.log"))
        output = stack.enter_context(open(work / "output", "rb"))
        console = stack.enter_context(open(work / "console", "rb"))
        running = True
        while running:
            running = qemu.poll() is None  # before the last copy, not after
            _copy(output, sys.stdout.buffer)
            _copy(console, sys.stderr.buffer if options.verbose else None)  # type: ignore[attr-defined]
            if running and time.monotonic() > deadline:
                raise TimeoutError
            if running:
                time.sleep(0.03)
        status = work / "status"
        if not status.exists():
            texts = [(work / name).read_text(errors="replace") for name in ("console", "qemu.log")]
            raise Died("\n".join(texts))
        return int(status.read_text())
