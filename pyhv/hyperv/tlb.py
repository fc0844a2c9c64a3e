"""HvFlushVirtualAddress* and HvSendSyntheticClusterIpi*: calls that name a set of VPs.

Statuses, and what goes unchecked, are KVM's (linux 6.12 arch/x86/kvm/hyperv.c, kvm_hv_flush_tlb,
kvm_hv_send_ipi): the address space and most flags are not looked at, all is flushed.
"""

from __future__ import annotations

from ..errors import HypercallError
from .tlfs import (
    HV_FLUSH_ALL_PROCESSORS,
    HV_GENERIC_SET_ALL,
    HV_GENERIC_SET_SPARSE_4K,
    HV_HYPERCALL_REP_COMP_OFFSET,
    HV_IPI_HIGH_VECTOR,
    HV_IPI_LOW_VECTOR,
    HV_STATUS_INVALID_HYPERCALL_INPUT,
    HV_STATUS_SUCCESS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .hypercalls import Call

U32 = 0xFFFFFFFF
BANK_VPS = 64
#: KVM reads a list of up to this many entries; a longer one means "all" and is not read.
LIST_READ = 15


def _sparse(call: Call, valid_banks: int, banks: list[int]) -> list[int]:
    """Return the VPs of a sparse set; *banks* has one mask for each bit of *valid_banks*."""
    found: list[int] = []
    for mask in banks:
        first = ((valid_banks & -valid_banks).bit_length() - 1) * BANK_VPS
        valid_banks &= valid_banks - 1
        last = min(first + BANK_VPS, call.vp_count)
        found += [vp for vp in range(first, last) if mask >> vp - first & 1]
    return found


def _check_banks(call: Call, valid_banks: int) -> None:
    """Refuse a variable header that is not as long as the set says."""
    if call.input.var_count != valid_banks.bit_count():
        raise HypercallError(HV_STATUS_INVALID_HYPERCALL_INPUT)


def _flush(call: Call, vps: list[int] | None, consumed: int) -> int:
    """Check that the list can be read, and flush; *consumed*: qwords of input before the list."""
    if call.input.rep_count and call.input.rep_count <= LIST_READ:
        call.words(consumed, call.input.rep_count)
    targets = list(range(call.vp_count)) if vps is None else vps
    if targets:
        call.partition.world.flush_tlb(targets, call.vp_index)
    return HV_STATUS_SUCCESS | call.input.rep_count << HV_HYPERCALL_REP_COMP_OFFSET


def flush(call: Call) -> int:
    """Serve 0002 and 0003. Input qwords: address space, flags, VP mask, then the list."""
    _, flags, mask = call.words(0, 3)
    # A mask of 0 means all: KVM's way around a WS2012 that expects a flush from it.
    if flags & HV_FLUSH_ALL_PROCESSORS or not mask:
        return _flush(call, None, 3)
    return _flush(call, _sparse(call, 1, [mask]), 3)


def flush_ex(call: Call) -> int:
    """Serve 0013 and 0014. Input: address space, flags, format, valid banks, banks, the list."""
    _, _, form, valid_banks = call.words(0, 4)
    _check_banks(call, valid_banks)
    if form != HV_GENERIC_SET_SPARSE_4K:
        return _flush(call, None, 4 + call.input.var_count)
    if not call.input.var_count:  # nobody: done, and the list is not looked at
        return HV_STATUS_SUCCESS | call.input.rep_count << HV_HYPERCALL_REP_COMP_OFFSET
    banks = call.words(4, call.input.var_count)
    return _flush(call, _sparse(call, valid_banks, banks), 4 + call.input.var_count)


def _send(call: Call, vector: int, vps: list[int]) -> int:
    if not HV_IPI_LOW_VECTOR <= vector <= HV_IPI_HIGH_VECTOR:
        raise HypercallError(HV_STATUS_INVALID_HYPERCALL_INPUT)
    interrupt = call.partition.world.interrupt
    for vp in vps:
        interrupt(vp, vector)
    return HV_STATUS_SUCCESS


def send_ipi(call: Call) -> int:
    """Serve 000B. Input: 0:4 vector, 4:1 VTL, 8:8 VP mask."""
    vector, mask = call.words(0, 2)
    # the slow form's upper half (VTL, padding) is not looked at; the fast form's must be 0
    if call.input.fast and vector >> 32:
        raise HypercallError(HV_STATUS_INVALID_HYPERCALL_INPUT)
    return _send(call, vector & U32, _sparse(call, 1, [mask]))


def send_ipi_ex(call: Call) -> int:
    """Serve 0015. Input: 0:4 vector, 4:1 VTL, 8:8 format, 16:8 valid banks, 24: banks."""
    vector, form, valid_banks = call.words(0, 3)
    _check_banks(call, valid_banks)
    if form == HV_GENERIC_SET_ALL:
        return _send(call, vector & U32, list(range(call.vp_count)))
    count = call.input.var_count
    if not count:  # nobody: the vector is not looked at
        return HV_STATUS_SUCCESS
    return _send(call, vector & U32, _sparse(call, valid_banks, call.words(3, count)))
