"""The two extended hypercalls with which a guest tells of pages that hold nothing (cold discard).

Layouts: linux include/asm-generic/hyperv-tlfs.h (from 6.14 on include/hyperv/); who calls
them: drivers/hv/hv_balloon.c, when page reporting finds free pages of 2 MiB.
"""

from __future__ import annotations

from ..errors import BadGpa
from .tlfs import (
    HV_STATUS_INVALID_HYPERCALL_INPUT,
    HV_STATUS_INVALID_PARAMETER,
    HV_STATUS_SUCCESS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..memory import GuestMemory

HV_EXT_CAPABILITY_MEMORY_COLD_DISCARD_HINT = 1 << 8
HV_EXT_MEMORY_HEAT_HINT_TYPE_COLD_DISCARD = 2
TYPE_MASK = 3
# hv_gpa_page_range: 10..0 additional pages, 11 large, then 63..12 page number; of a large one
# 12 "1 GiB, not 2 MiB" and 63..21 number of the 2 MiB
ADDITIONAL, LARGE, ONE_GIB = 0x7FF, 1 << 11, 1 << 12
PAGE_SHIFT, LARGE_SHIFT = 12, 21
MAX_RANGES = (4096 - 8) // 8  # the input is one page


def query_capabilities(memory: GuestMemory, output: int) -> int:
    """HvExtCallQueryCapabilities: what there is of extended calls, 8 bytes at *output*."""
    try:
        memory.write(output, HV_EXT_CAPABILITY_MEMORY_COLD_DISCARD_HINT.to_bytes(8, "little"))
    except BadGpa:
        return HV_STATUS_INVALID_HYPERCALL_INPUT
    return HV_STATUS_SUCCESS


def memory_heat_hint(memory: GuestMemory, parameter: int, reps: int) -> int:
    """HvExtCallMemoryHeatHint: the host may have *reps* ranges of pages; return the result value.

    All of them in one go. Of a bad one and those behind it none. RAM of a snapshot stays: what it
    had would come back, and a guest may count on zeros (Linux: init_on_free).
    """
    if not 0 < reps <= MAX_RANGES:
        return HV_STATUS_INVALID_HYPERCALL_INPUT
    try:
        data = memory.read(parameter, 8 + 8 * reps)
    except BadGpa:
        return HV_STATUS_INVALID_HYPERCALL_INPUT
    if data[0] & TYPE_MASK != HV_EXT_MEMORY_HEAT_HINT_TYPE_COLD_DISCARD:
        return HV_STATUS_INVALID_PARAMETER
    for done in range(reps):
        word = int.from_bytes(data[8 + 8 * done : 16 + 8 * done], "little")
        shift = LARGE_SHIFT if word & LARGE else PAGE_SHIFT
        refused = word & LARGE and word & ONE_GIB
        try:
            if not refused and not memory.adopted:
                memory.discard(word >> shift << shift, (word & ADDITIONAL) + 1 << shift)
        except (BadGpa, OSError):  # OSError: the host keeps them, locked
            refused = True
        if refused:
            return HV_STATUS_INVALID_PARAMETER | done << 32
    return HV_STATUS_SUCCESS | reps << 32
