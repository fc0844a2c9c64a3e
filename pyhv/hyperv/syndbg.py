"""The synthetic debugger's MSRs and calls, for a machine without the debugger device.

Answers are those of KVM with a QEMU that has no ``-device hv-syndbg``: registers keep what is
written, a transfer fails with status 0, the calls do not exist.
"""

from __future__ import annotations

from .tlfs import (
    HV_STATUS_INVALID_HYPERCALL_CODE,
    HV_STATUS_OPERATION_DENIED,
    HV_X64_SYNDBG_OPTION_USE_HCALLS,
)

HV_SYNDBG_STATUS_INVALID = 0
REGISTERS = ("control", "status", "send_buffer", "recv_buffer", "pending_buffer", "options")


class Syndbg:
    """HV_X64_MSR_SYNDBG_*, partition-wide."""

    def __init__(self) -> None:
        self.reset()

    def write_control(self, value: int) -> None:
        """Take a guest's WRMSR to HV_X64_MSR_SYNDBG_CONTROL: send or receive, which fails."""
        self.control, self.status = value, HV_SYNDBG_STATUS_INVALID

    def call_status(self) -> int:
        """Return the HV_STATUS of HvCallPostDebugData, RetrieveDebugData, ResetDebugSession."""
        if not self.options & HV_X64_SYNDBG_OPTION_USE_HCALLS:
            return HV_STATUS_OPERATION_DENIED
        return HV_STATUS_INVALID_HYPERCALL_CODE

    def reset(self) -> None:
        """Zero all registers."""
        self.control = self.status = self.send_buffer = self.recv_buffer = 0
        self.pending_buffer = self.options = 0
