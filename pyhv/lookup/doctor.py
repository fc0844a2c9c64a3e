"""``pyhv doctor``: why /dev/kvm does not work, and what to do about it.

Every check reads files below a root folder, so that tests can show it any broken host.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import HostError
from ..kvm import uapi
from ..kvm.system import Kvm
from ..record import Record
from . import commands
from .arguments import help_text, parse
from .text import GREEN, RED, YELLOW, coloured, printable, wrapped

OK, MIND, WRONG = "ok", "mind", "wrong"
KVM_DEVICE = (10, 232)
#: what pyhv cannot do without
NEEDED = {
    "KVM_CAP_IRQCHIP": "the interrupt controllers in the kernel",
    "KVM_CAP_SYNC_REGS": "registers in kvm_run (Linux 4.17)",
    "KVM_CAP_IMMEDIATE_EXIT": "stopping a vCPU without a race (Linux 4.12)",
    "KVM_CAP_SIGNAL_MSI": "interrupts from user space",
}


class Finding(Record):
    """One check: *state* OK, MIND or WRONG, what was found, what to do ("" for nothing)."""

    state: str
    found: str
    todo: str = ""


class Host:
    """The files of a host below *root*, its user's ids, and the way to open KVM."""

    def __init__(
        self, root: str = "/", *, uid: int | None = None, groups: set[int] | None = None,
        make: Callable[[str], Kvm] = Kvm,
    ) -> None:  # fmt: skip
        self.root = Path(root)
        self.uid = os.geteuid() if uid is None else uid
        self.groups = {os.getegid(), *os.getgroups()} if groups is None else groups
        self.make = make
        self.text = self.read("proc/cpuinfo")

    def read(self, name: str) -> str:
        """Return a file's text, "" if there is none."""
        try:
            with open(self.root / name, errors="replace") as file:
                return file.read(1 << 20)
        except OSError:
            return ""

    def has(self, name: str) -> bool:
        """Tell whether a file or folder is there."""
        return (self.root / name).exists()

    @property
    def flags(self) -> set[str]:
        """CPU flags of the first CPU."""
        for line in self.text.splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
        return set()

    @property
    def module(self) -> str:
        """Return kvm_intel or kvm_amd, by the CPU's vendor."""
        return "kvm_amd" if "svm" in self.flags or "AuthenticAMD" in self.text else "kvm_intel"


def cpu(host: Host) -> Finding:
    """Does the CPU show virtualization?"""
    if {"vmx", "svm"} & host.flags:
        which = "vmx" if "vmx" in host.flags else "svm"
        return Finding(OK, f"the CPU has virtualization ({which})")
    if "microsoft" in host.read("proc/version").lower():
        todo = (
            "in Windows, write nestedVirtualization=true under [wsl2] in .wslconfig; wsl --shutdown"
        )
        return Finding(WRONG, "WSL2, and the CPU shows no virtualization", todo)
    if "hypervisor" in host.flags:
        if host.has("dev/kvm"):
            found = "a VM whose CPU shows no virtualization, but it has /dev/kvm"
            return Finding(MIND, found, "a KVM without hardware may do (kvm_pvm); see below")
        todo = (
            "switch nested virtualization on in the outer hypervisor: modprobe kvm_intel nested=1 "
            "(or kvm_amd) there, and -cpu host for this VM; in a cloud, a machine type that has it"
        )
        return Finding(WRONG, "this is a VM, and its CPU shows no virtualization", todo)
    todo = "enable Intel VT-x or AMD-V (SVM) in the firmware's setup, then power off and on"
    return Finding(WRONG, "the CPU shows no virtualization", todo)


def module(host: Host) -> Finding:
    """Are the kernel's modules loaded?"""
    if host.has("sys/module/kvm_intel") or host.has("sys/module/kvm_amd"):
        return Finding(OK, "KVM's modules are loaded")
    other = [path.name for path in (host.root / "sys/module").glob("kvm_*")] if host.has(
        "sys/module") else []  # fmt: skip
    if other:
        return Finding(OK, f"KVM's modules are loaded ({printable(', '.join(sorted(other)))})")
    if host.has("dev/kvm"):
        return Finding(OK, "KVM is built into the kernel, or given from outside a container")
    for name in ("etc/modprobe.d", "usr/lib/modprobe.d"):
        for path in sorted((host.root / name).glob("*.conf")) if host.has(name) else []:
            lines = host.read(str(path.relative_to(host.root))).splitlines()
            if any(line.split() == ["blacklist", host.module] for line in lines):
                found = f"{host.module} is not loaded: /{path.relative_to(host.root)} blacklists it"
                return Finding(WRONG, found, f"sudo modprobe {host.module}, and take that line out")
    if host.has("sys/module/vboxdrv"):
        todo = f"close VirtualBox's machines, sudo modprobe -r vboxdrv; sudo modprobe {host.module}"
        return Finding(WRONG, "VirtualBox's module is loaded, KVM's are not", todo)
    return Finding(WRONG, "KVM's modules are not loaded", f"sudo modprobe {host.module}")


def container(host: Host) -> Finding | None:
    """Is this a container that was not given the device?"""
    inside = host.has("run/.containerenv") or host.has(".dockerenv")
    if not inside or host.has("dev/kvm"):
        return None
    return Finding(WRONG, "this is a container without /dev/kvm",
                   "start it with --device /dev/kvm (docker, podman)")  # fmt: skip


def node(host: Host) -> Finding:
    """Is /dev/kvm there, a device, and ours to open?"""
    path = host.root / "dev/kvm"
    try:
        status = path.stat()
    except OSError as error:
        return Finding(WRONG, f"/dev/kvm: {error.strerror}", "see above; then sudo udevadm trigger")
    if not stat.S_ISCHR(status.st_mode):
        todo = "sudo rm /dev/kvm; sudo mknod -m 660 /dev/kvm c 10 232; sudo chgrp kvm /dev/kvm"
        return Finding(WRONG, "/dev/kvm is no character device", todo)
    if (os.major(status.st_rdev), os.minor(status.st_rdev)) != KVM_DEVICE:
        return Finding(WRONG, "/dev/kvm is another device than 10:232",
                       "sudo rm /dev/kvm; sudo udevadm trigger")  # fmt: skip
    return permission(status.st_mode, status.st_uid, status.st_gid, host)


def permission(mode: int, uid: int, gid: int, host: Host) -> Finding:
    """May this user open it for reading and writing? (An ACL may still say yes.)"""
    name = _group(gid)
    shown = f"mode {mode & 0o777:o}, group {name}"
    if host.uid == 0 or (host.uid == uid and mode & 0o600 == 0o600):
        return Finding(OK, f"/dev/kvm is yours ({shown})")
    if gid in host.groups and mode & 0o060 == 0o060:
        return Finding(OK, f"you are in the group of /dev/kvm ({shown})")
    if mode & 0o006 == 0o006:
        return Finding(OK, f"/dev/kvm is open to all ({shown})")
    if mode & 0o060 != 0o060:
        return Finding(MIND, f"/dev/kvm is not open to its group ({shown})",
                       "sudo chmod g+rw /dev/kvm; not 666: that gives it to everybody")  # fmt: skip
    if gid == 0:  # nobody should be put into root's group for this
        todo = "sudo chgrp kvm /dev/kvm; sudo usermod -aG kvm $USER, then log out and in"
        return Finding(MIND, f"/dev/kvm is root's alone ({shown})", todo)
    return Finding(MIND, f"you are not in the group of /dev/kvm ({shown})",
                   f"sudo usermod -aG {name} $USER, then log out and in")  # fmt: skip


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def opened(host: Host) -> list[Finding]:
    """Does it open, and can it do what pyhv needs?"""
    path = str(host.root / "dev/kvm")
    try:
        kvm = host.make(path)
    except HostError as error:
        text = str(error)
        if "EBUSY" in text or "busy" in text:
            todo = "another hypervisor (VirtualBox, VMware) has the CPU; close it"
            return [Finding(WRONG, text, todo)]
        return [Finding(WRONG, text, "" if "; " in text else "see above")]
    try:
        lacks = [name for name in NEEDED if not kvm.check(getattr(uapi, name))]
        found = [Finding(OK, "/dev/kvm opens, API version 12")]
        found += [
            Finding(WRONG, f"KVM lacks {name}: {NEEDED[name]}", "a newer kernel") for name in lacks
        ]
        if kvm.has_hyperv():
            found.append(Finding(OK, "KVM has Hyper-V: pyhv can use it (--hyperv kernel)"))
        elif kvm.has_msr_exits():
            todo = "nothing: pyhv serves Hyper-V itself (--hyperv user), slower"
            found.append(Finding(MIND, "KVM has no Hyper-V (CONFIG_KVM_HYPERV)", todo))
        else:
            todo = "Linux 5.10 or later, or a kernel with CONFIG_KVM_HYPERV=y"
            found.append(Finding(WRONG, "KVM has no Hyper-V and no MSR exits", todo))
    finally:
        kvm.close()
    return found


def diagnose(host: Host) -> list[Finding]:
    """Return all findings, in the order in which to mend them."""
    if os.uname().machine != "x86_64" or not sys.platform.startswith("linux"):
        return [Finding(WRONG, f"{sys.platform} on {os.uname().machine}",
                        "pyhv needs Linux on x86-64")]  # fmt: skip
    checks = [cpu(host), module(host), container(host), node(host)]
    found = [finding for finding in checks if finding is not None]
    last = opened(host)
    if not any(finding.state == WRONG for finding in last):
        # it works: what looked wrong before it is only worth a look
        found = [f._replace(state=MIND) if f.state == WRONG else f for f in found]
    return found + last


def main(arguments: list[str]) -> tuple[str, int]:
    """Return what to print, and the status: 1 if something is wrong."""
    command = commands.DOCTOR
    parsed = parse(command, arguments)
    if "h" in parsed:
        return help_text(command), 0
    return show(diagnose(Host()), "json" in parsed)


def show(found: list[Finding], as_json: bool) -> tuple[str, int]:
    """Return the findings as text or JSON, and the status."""
    status = int(any(finding.state == WRONG for finding in found))
    if as_json:
        return json.dumps([finding._asdict() for finding in found], indent=1), status
    colour = {OK: GREEN, MIND: YELLOW, WRONG: RED}
    lines = []
    for finding in found:
        text = wrapped(finding.found, "        ", f"{finding.state:6}  ")
        lines += [coloured(line, colour[finding.state]) for line in text]
        if finding.todo:
            lines += wrapped(finding.todo, "           ", "        -> ")
    lines.append("" if status else "pyhv can run guests here.")
    return "\n".join(lines).rstrip("\n"), status
