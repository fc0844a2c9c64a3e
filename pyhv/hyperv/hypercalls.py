"""Hypercalls: the input value, the forms each call takes, and the table that leads to the calls.

Order of the checks and statuses as KVM's (linux 6.12 arch/x86/kvm/hyperv.c, kvm_hv_hypercall);
what KVM hands on to user space is answered as QEMU does.
"""

from __future__ import annotations

from ..errors import BadGpa, HypercallError, UndefinedOpcode
from ..record import Record
from . import features as f
from . import tlb
from . import tlfs as t
from .privileges import Features, Gate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .partition import Partition

#: Before the guest identified itself KVM takes the instruction for one of its own hypercalls, which
#: writes RAX; from 32-bit code EAX alone, and EDX keeps its value.
KVM_ENOSYS = -1000
LOW, HIGH = 0xFFFFFFFF, 0xFFFFFFFF00000000
XMM_WORDS = 12  # XMM0-5
FAST_WORDS = 2 + XMM_WORDS  # in1, in2, then the XMM halves: 112 bytes
VALUES_KEPT = 256  # a guest that tries all input values must not fill our memory
XMM_GATE = Gate(leaf3_edx=f.XMM_INPUT_AVAILABLE)


class Call:
    """What a handler gets: the VP, the decoded input value, and access to the input, in any form.

    One object per VP, used again for each of its hypercalls.
    """

    __slots__ = ("in1", "in2", "input", "partition", "vp_count", "vp_index", "xmm")

    input: InputValue
    in1: int
    in2: int

    def __init__(self, partition: Partition, vp_index: int, xmm: Callable[[], bytes]) -> None:
        self.partition, self.vp_index, self.vp_count = partition, vp_index, len(partition.vps)
        self.xmm = xmm

    def words(self, first: int, count: int) -> list[int]:
        """Return *count* qwords of input from qword *first* on, copied.

        :raises HypercallError: status 3, unreadable memory or more than the registers hold.
        """
        if not self.input.fast:
            try:
                data = self.partition.world.memory.read(self.in1 + first * 8, count * 8)
            except BadGpa as error:
                raise HypercallError(t.HV_STATUS_INVALID_HYPERCALL_INPUT) from error
        elif first + count <= 2:
            return [self.in1, self.in2][first : first + count]
        elif first + count > FAST_WORDS:
            raise HypercallError(t.HV_STATUS_INVALID_HYPERCALL_INPUT)
        else:
            registers = self.in1.to_bytes(8, "little") + self.in2.to_bytes(8, "little")
            data = (registers + self.xmm())[first * 8 : (first + count) * 8]
        return [int.from_bytes(data[at : at + 8], "little") for at in range(0, count * 8, 8)]


def _spin_wait(call: Call) -> int:
    call.partition.world.spin_wait(call.vp_index)
    return t.HV_STATUS_SUCCESS


def _signal_event(call: Call) -> int:
    status = call.partition.connections.signal_event(call.in1, call.input.fast)
    unknown = (t.HV_STATUS_INVALID_PORT_ID, t.HV_STATUS_INVALID_CONNECTION_ID)
    if status in unknown and not call.partition.features.synic:
        return t.HV_STATUS_INVALID_HYPERCALL_INPUT  # KVM asks user space only with a SynIC
    return status


def _post_message(call: Call) -> int:
    if not call.partition.features.synic:
        return t.HV_STATUS_INVALID_HYPERCALL_INPUT
    return call.partition.connections.post_message(call.in1, call.input.fast)


def _debug(call: Call) -> int:
    if not call.partition.features.syndbg:
        return t.HV_STATUS_INVALID_HYPERCALL_CODE
    return call.partition.syndbg.call_status()


def _unknown(call: Call) -> int:
    return t.HV_STATUS_INVALID_HYPERCALL_CODE


def _query_capabilities(call: Call) -> int:
    if not call.partition.features.free_pages:
        return _unknown(call)
    from .extended import query_capabilities

    return query_capabilities(call.partition.world.memory, call.in2)


def _memory_heat_hint(call: Call) -> int:
    if not call.partition.features.free_pages:
        return _unknown(call)
    from .extended import memory_heat_hint

    memory, reps = call.partition.world.memory, call.input.rep_count
    return memory_heat_hint(memory, call.in1, reps)


def _shows(**bits: int) -> Callable[[Features], bool]:
    gate = Gate(**bits)
    return lambda features: features.grants(gate)


def _spinlocks_shown(features: Features) -> bool:
    return features.leaf4_ebx not in (0, 0xFFFFFFFF)


def _debugging_shown(features: Features) -> bool:
    # without syndbg the call goes on, to "unknown code"
    return not features.syndbg or features.grants(Gate(leaf3_ebx=f.DEBUGGING))


NONE, SOME, ANY = "none", "some", "any"


class Hypercall(Record):
    """A row. ``gate`` is asked only under hv-enforce-cpuid.

    ``reps``: NONE count and start 0; SOME a count and start 0; ANY unchecked. ``var``: NONE no
    variable header; ANY what the handler makes of it. ``fast``: False, status 5 in that form.
    ``xmm``: the fast form goes on in XMM registers.
    """

    code: int
    name: str
    handler: Callable[[Call], int]
    gate: Callable[[Features], bool]
    reps: str = NONE
    var: str = NONE
    fast: bool = True
    xmm: bool = False


_FLUSH = _shows(leaf4_eax=f.REMOTE_TLB_FLUSH_RECOMMENDED)
_FLUSH_EX = _shows(leaf4_eax=f.REMOTE_TLB_FLUSH_RECOMMENDED | f.EX_PROCESSOR_MASKS_RECOMMENDED)
_IPI = _shows(leaf4_eax=f.CLUSTER_IPI_RECOMMENDED)
_IPI_EX = _shows(leaf4_eax=f.CLUSTER_IPI_RECOMMENDED | f.EX_PROCESSOR_MASKS_RECOMMENDED)
_EXTENDED = _shows(leaf3_ebx=f.ENABLE_EXTENDED_HYPERCALLS)

#: the extended calls that free page reporting needs; without it, and of others, none is known
EXTENDED = {
    t.HV_EXT_CALL_QUERY_CAPABILITIES: _query_capabilities,
    t.HV_EXT_CALL_MEMORY_HEAT_HINT: _memory_heat_hint,
}

ROWS: tuple[Hypercall, ...] = (
    Hypercall(t.HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE, "HvCallFlushVirtualAddressSpace",
              tlb.flush, _FLUSH, xmm=True),
    Hypercall(t.HVCALL_FLUSH_VIRTUAL_ADDRESS_LIST, "HvCallFlushVirtualAddressList",
              tlb.flush, _FLUSH, reps=SOME, xmm=True),
    Hypercall(t.HVCALL_NOTIFY_LONG_SPIN_WAIT, "HvCallNotifyLongSpinWait",
              _spin_wait, _spinlocks_shown),
    Hypercall(t.HVCALL_SEND_IPI, "HvCallSendSyntheticClusterIpi", tlb.send_ipi, _IPI),
    Hypercall(t.HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE_EX, "HvCallFlushVirtualAddressSpaceEx",
              tlb.flush_ex, _FLUSH_EX, var=ANY, xmm=True),
    Hypercall(t.HVCALL_FLUSH_VIRTUAL_ADDRESS_LIST_EX, "HvCallFlushVirtualAddressListEx",
              tlb.flush_ex, _FLUSH_EX, reps=SOME, var=ANY, xmm=True),
    Hypercall(t.HVCALL_SEND_IPI_EX, "HvCallSendSyntheticClusterIpiEx",
              tlb.send_ipi_ex, _IPI_EX, var=ANY, xmm=True),
    Hypercall(t.HVCALL_POST_MESSAGE, "HvCallPostMessage",
              _post_message, _shows(leaf3_ebx=f.POST_MESSAGES)),
    Hypercall(t.HVCALL_SIGNAL_EVENT, "HvCallSignalEvent",
              _signal_event, _shows(leaf3_ebx=f.SIGNAL_EVENTS)),
    Hypercall(t.HVCALL_POST_DEBUG_DATA, "HvCallPostDebugData",
              _debug, _debugging_shown, reps=ANY, var=ANY, fast=False),
    Hypercall(t.HVCALL_RETRIEVE_DEBUG_DATA, "HvCallRetrieveDebugData",
              _debug, _debugging_shown, reps=ANY, var=ANY, fast=False),
    Hypercall(t.HVCALL_RESET_DEBUG_SESSION, "HvCallResetDebugSession",
              _debug, _debugging_shown, reps=ANY, var=ANY),
    # the extended calls: KVM hands all of them to QEMU, which knows none
    *(Hypercall(code, f"HvExtCall{code:04X}", EXTENDED.get(code, _unknown), _EXTENDED,
                reps=ANY, var=ANY, fast=False)
      for code in range(t.HV_EXT_CALL_QUERY_CAPABILITIES, t.HV_EXT_CALL_MAX + 1)),
)  # fmt: skip
HYPERCALLS = {row.code: row for row in ROWS}


class InputValue:
    """A hypercall input value, decoded and checked: all that it says by itself.

    ``handler`` serves it, or tells the status with which it is refused. Counts as in the TLFS.
    """

    __slots__ = ("fast", "handler", "rep_count", "var_count")

    def __init__(self, features: Features, control: int) -> None:
        self.fast = bool(control & t.HV_HYPERCALL_FAST_BIT)
        self.var_count = control >> t.HV_HYPERCALL_VARHEAD_OFFSET & t.HV_HYPERCALL_VARHEAD_MASK
        self.rep_count = control >> t.HV_HYPERCALL_REP_COMP_OFFSET & t.HV_HYPERCALL_REP_MASK
        self.handler = self._check(features, control)

    def _check(self, features: Features, control: int) -> Callable[[Call], int]:
        """Return the handler; the order of the checks is KVM's."""
        row = HYPERCALLS.get(control & 0xFFFF)
        if row is not None and features.enforce and not row.gate(features):
            return _refuse(t.HV_STATUS_ACCESS_DENIED)
        if control & t.HV_HYPERCALL_RSVD_MASK:
            return _refuse(t.HV_STATUS_INVALID_HYPERCALL_INPUT)
        if row is None:
            return _refuse(t.HV_STATUS_INVALID_HYPERCALL_CODE)
        if self.fast and row.xmm and not features.allows(XMM_GATE):
            return _undefined
        if self.fast and not row.fast:
            return _refuse(t.HV_STATUS_INVALID_PARAMETER)
        rep_start = control >> t.HV_HYPERCALL_REP_START_OFFSET & t.HV_HYPERCALL_REP_MASK
        if (
            (row.var == NONE and self.var_count)
            or (row.reps == NONE and (self.rep_count or rep_start))
            or (row.reps == SOME and (not self.rep_count or rep_start))
        ):
            return _refuse(t.HV_STATUS_INVALID_HYPERCALL_INPUT)
        return row.handler


def _refuse(status: int) -> Callable[[Call], int]:
    return lambda call: status


def _undefined(call: Call) -> int:
    raise UndefinedOpcode("XMM input although CPUID does not show it")


def caller(
    partition: Partition, vp_index: int, xmm: Callable[[], bytes]
) -> Callable[[int, int, int, bool], int]:
    """Return what serves a VP's hypercalls: (input value, in1, in2, 64-bit mode) -> result.

    In 64-bit mode the arguments are RCX, RDX, R8 and the result is RAX; else EDX:EAX, EBX:ECX,
    EDI:ESI and EDX:EAX. The result has the HV_STATUS in [15:0], the reps completed in [43:32].
    The caller has seen to CPL 0 and protected mode; the hypercall page need not be on, KVM asks
    only for the guest's identity.

    :param xmm: gives XMM0-5, 96 bytes; called only if a call reads them.
    :raises UndefinedOpcode: #UD, by the function returned: input in XMM registers that CPUID does
        not show (enforced).

    A guest makes its calls with a few input values: each is decoded once.
    """
    call, features = Call(partition, vp_index, xmm), partition.features
    values: dict[int, InputValue] = {}

    def serve(control: int, in1: int, in2: int, long_mode: bool) -> int:
        if not partition.guest_os_id:
            return KVM_ENOSYS & (HIGH | LOW) if long_mode else control & HIGH | KVM_ENOSYS & LOW
        value = values.get(control)
        if value is None:
            value = InputValue(features, control)
            if len(values) < VALUES_KEPT:
                values[control] = value
        call.input, call.in1, call.in2 = value, in1, in2
        try:
            return value.handler(call)
        except HypercallError as error:
            return error.status

    return serve
