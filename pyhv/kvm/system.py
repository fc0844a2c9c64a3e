"""/dev/kvm itself: why it cannot be opened, and what this kernel's KVM can do."""

from __future__ import annotations

import errno
import os

from ..errors import HostError
from . import requests
from .cpuid import get_supported
from .uapi import (
    KVM_API_VERSION,
    KVM_CAP_HYPERV,
    KVM_CAP_SYS_HYPERV_CPUID,
    KVM_CAP_X86_MSR_FILTER,
    KVM_CAP_X86_USER_SPACE_MSR,
)

DEVICE = "/dev/kvm"
GROUP_READ_WRITE = 0o060


def _why(path: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return (
            "no such device; load kvm_intel or kvm_amd, and enable virtualization in the firmware "
            "(in a VM: nested virtualization)"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        import grp

        status = os.stat(path)
        try:
            group = grp.getgrgid(status.st_gid).gr_name
        except KeyError:
            group = str(status.st_gid)
        mode = status.st_mode & 0o777
        remedy = f"sudo usermod -aG {group} $USER, then log in again"
        if not status.st_gid or mode & GROUP_READ_WRITE != GROUP_READ_WRITE:
            remedy = f"sudo chgrp kvm {path}; sudo chmod 660 {path}; sudo usermod -aG kvm $USER"
        return f"permission denied; it belongs to group {group} (mode {mode:o}): {remedy}"
    if error.errno in (errno.ENXIO, errno.ENODEV):
        return "the device node is there, its driver is not; load kvm_intel or kvm_amd"
    return str(error.strerror)


class Kvm:
    """An open /dev/kvm.

    :raises HostError: it cannot be opened, is not KVM, or speaks another API version.
    """

    def __init__(self, path: str = DEVICE) -> None:
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"open {path}: {_why(path, error)}") from error
        try:
            version = requests.GET_API_VERSION.raw(self.fd)
            if version != KVM_API_VERSION:
                raise HostError(f"{path}: KVM API version {version}, pyhv needs {KVM_API_VERSION}")
            self.run_size = requests.GET_VCPU_MMAP_SIZE(self.fd)
        except HostError:
            os.close(self.fd)
            raise

    def check(self, capability: int) -> int:
        """Return what KVM_CHECK_EXTENSION says: 0 is no."""
        return requests.CHECK_EXTENSION(self.fd, capability)

    def has_hyperv(self) -> bool:
        """Tell whether this KVM has Hyper-V in the kernel, complete enough for ``in_kernel``."""
        return bool(self.check(KVM_CAP_HYPERV) and self.check(KVM_CAP_SYS_HYPERV_CPUID))

    def has_msr_exits(self) -> bool:
        """Tell whether ``in_user`` can work: MSR accesses can be sent to user space."""
        return bool(self.check(KVM_CAP_X86_USER_SPACE_MSR) and self.check(KVM_CAP_X86_MSR_FILTER))

    def supported_cpuid(self) -> list[tuple[int, ...]]:
        """Return rows (leaf, index, flags, eax, ebx, ecx, edx)."""
        return get_supported(self.fd)

    def supported_hv_cpuid(self) -> list[tuple[int, ...]]:
        """Return KVM's own Hyper-V leaves, rows as :meth:`supported_cpuid`."""
        return get_supported(self.fd, requests.GET_SUPPORTED_HV_CPUID)

    def close(self) -> None:
        """Close the descriptor; VMs made from it live on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
