"""One vCPU: its descriptor, its kvm_run page as views, its registers; runloop.py runs it."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os

from ..errors import HostError, KvmError
from . import requests, uapi
from .ioctl import array
from .vm import Vm, enable_cap

PAGE = 4096
TSC_TOLERANCE_PPM = 250  # as in QEMU, and as Linux's KVM has it by default


class Vcpu:
    """A vCPU of *vm* with APIC id and VP index *index*.

    ``m8``, ``m16``, ``m32``, ``m64`` are views of kvm_run (all pages) by item size; ``regs`` and
    ``sregs`` are the sync-regs copies inside it (valid after an exit when ``valid_regs`` asks for
    them; write ``dirty_regs`` to give changes back).
    """

    def __init__(self, vm: Vm, index: int) -> None:
        self.vm, self.index = vm, index
        self.fd = requests.CREATE_VCPU(vm.fd, index, f"id {index}")
        try:
            self.run = mmap.mmap(self.fd, vm.kvm.run_size)
        except OSError as error:
            os.close(self.fd)
            raise KvmError("mmap of kvm_run", error.errno or 0) from error
        self.m8 = memoryview(self.run)
        self.m16, self.m32, self.m64 = self.m8.cast("H"), self.m8.cast("I"), self.m8.cast("Q")
        self.regs = uapi.Regs.from_buffer(self.run, uapi.RUN_SYNC_REGS)
        self.sregs = uapi.Sregs.from_buffer(self.run, uapi.RUN_SYNC_SREGS)
        end = uapi.RUN_SYNC_SREGS + ctypes.sizeof(uapi.Sregs)
        self._sregs_bytes = self.m8[uapi.RUN_SYNC_SREGS : end]

    @property
    def valid_regs(self) -> int:
        """KVM_SYNC_X86_*: what every exit copies into ``regs`` and ``sregs``."""
        return self.m64[uapi.RUN_KVM_VALID_REGS >> 3]

    @valid_regs.setter
    def valid_regs(self, value: int) -> None:
        self.m64[uapi.RUN_KVM_VALID_REGS >> 3] = value

    def mark_dirty(self, mask: int) -> None:
        """Let the next KVM_RUN load the changed ``regs`` (1) or ``sregs`` (2)."""
        self.m64[uapi.RUN_KVM_DIRTY_REGS >> 3] |= mask

    def fetch(self, mask: int) -> None:
        """Make ``regs`` (1), ``sregs`` (2) current, by ioctl where the exit did not copy them."""
        missing = mask & ~self.valid_regs
        if missing & uapi.KVM_SYNC_X86_REGS:
            requests.GET_REGS(self.fd, self.regs)
        if missing & uapi.KVM_SYNC_X86_SREGS:
            requests.GET_SREGS(self.fd, self.sregs)

    def read_sregs(self) -> None:
        """Make ``sregs`` current, as :meth:`fetch` does, in the cheapest way; between exits."""
        if not self.m64[uapi.RUN_KVM_VALID_REGS >> 3] & uapi.KVM_SYNC_X86_SREGS:
            fcntl.ioctl(self.fd, requests.GET_SREGS.number, self._sregs_bytes)

    def store(self, mask: int) -> None:
        """Give ``regs`` (1) and ``sregs`` (2) to KVM now."""
        if mask & uapi.KVM_SYNC_X86_SREGS:
            requests.SET_SREGS(self.fd, self.sregs, f"vcpu {self.index}")
        if mask & uapi.KVM_SYNC_X86_REGS:
            requests.SET_REGS(self.fd, self.regs, f"vcpu {self.index}")

    def get_msr(self, index: int) -> int | None:
        """Return an MSR as the host sees it; None when KVM has none such."""
        raw = array(ctypes.c_uint64, 3)(1, index)
        return raw[2] if requests.GET_MSRS(self.fd, raw) == 1 else None

    def set_msr(self, index: int, value: int) -> bool:
        """Write an MSR from the host side; False when KVM refuses it."""
        raw = array(ctypes.c_uint64, 3)(1, index, value)
        return requests.SET_MSRS(self.fd, raw, f"{index:#x} = {value:#x}") == 1

    def get_struct(self, request: requests.Ioctl, kind: type) -> ctypes.Structure:
        """Return a new *kind* filled by *request* (KVM_GET_VCPU_EVENTS, _FPU, _LAPIC, ...)."""
        value = kind()
        request(self.fd, value)
        return value

    def tsc_khz(self) -> int:
        """Return the guest's TSC frequency in kHz."""
        return requests.GET_TSC_KHZ(self.fd)

    def set_tsc_khz(self, khz: int) -> None:
        """Make the guest's TSC run at *khz*; without scaling what is near enough stays as it is.

        :raises HostError: this KVM cannot scale the TSC to it.
        """
        if requests.SET_TSC_KHZ.raw(self.fd, khz) >= 0:
            return
        now = self.tsc_khz()
        if abs(now - khz) * 1_000_000 > now * TSC_TOLERANCE_PPM:
            raise HostError(
                f"tsc-frequency={khz * 1000}: TSC frequency mismatch between VM ({khz} kHz) and "
                f"host ({now} kHz), and TSC scaling unavailable; leave it out"
            )

    def tsc_offset(self) -> int:
        """Return guest TSC - host TSC, modulo 2**64 (KVM_VCPU_TSC_OFFSET); 0 if KVM has no such."""
        value = ctypes.c_uint64()
        attribute = uapi.DeviceAttr(
            0, uapi.KVM_VCPU_TSC_CTRL, uapi.KVM_VCPU_TSC_OFFSET, ctypes.addressof(value)
        )
        return value.value if requests.GET_DEVICE_ATTR.raw(self.fd, attribute) == 0 else 0

    def set_tsc_offset(self, offset: int) -> None:
        """Set what :meth:`tsc_offset` returns, modulo 2**64.

        :raises KvmError: KVM has no such (before Linux 5.16).
        """
        value = ctypes.c_uint64(offset)
        attribute = uapi.DeviceAttr(
            0, uapi.KVM_VCPU_TSC_CTRL, uapi.KVM_VCPU_TSC_OFFSET, ctypes.addressof(value)
        )
        requests.SET_DEVICE_ATTR(self.fd, attribute, f"vcpu {self.index}, TSC offset")

    def clock_stopped(self) -> None:
        """Tell a guest with kvmclock that it was paused, so that its watchdogs do not bark.

        Linux: KVM_KVMCLOCK_CTRL sets PVCLOCK_GUEST_STOPPED; EINVAL where nobody uses kvmclock.
        """
        requests.KVMCLOCK_CTRL.raw(self.fd)

    def enable_cap(self, capability: int, *args: int) -> None:
        """KVM_ENABLE_CAP on the vCPU."""
        enable_cap(self.fd, capability, *args)

    def close(self) -> None:
        """Unmap kvm_run and close the descriptor; the vCPU's thread must have ended."""
        if self.fd < 0:
            return
        del self.regs, self.sregs
        for view in (self._sregs_bytes, self.m64, self.m32, self.m16, self.m8):
            view.release()
        try:
            self.run.close()
        except BufferError:
            pass  # somebody keeps a view, in a traceback perhaps; the mapping goes with it
        os.close(self.fd)
        self.fd = -1
