"""Numbers into names and fields: MSRs, hypercalls, statuses, VMBus messages, ports."""

from __future__ import annotations

import struct

from ..hyperv import tlfs
from ..hyperv.hypercalls import HYPERCALLS
from ..hyperv.msrs import MSRS
from ..vmbus import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

Fields = dict[str, object]

#: architectural ones that turn up in #GP and in a debugger; Intel SDM vol. 4
MSR_NAMES = {
    0x10: "IA32_TSC", 0x1B: "IA32_APIC_BASE", 0x3A: "IA32_FEATURE_CONTROL", 0x3B: "IA32_TSC_ADJUST",
    0x8B: "IA32_BIOS_SIGN_ID", 0xFE: "IA32_MTRRCAP", 0x174: "IA32_SYSENTER_CS",
    0x175: "IA32_SYSENTER_ESP", 0x176: "IA32_SYSENTER_EIP", 0x1A0: "IA32_MISC_ENABLE",
    0x277: "IA32_PAT", 0x2FF: "IA32_MTRR_DEF_TYPE", 0x6E0: "IA32_TSC_DEADLINE",
    0xC0000080: "IA32_EFER", 0xC0000081: "IA32_STAR", 0xC0000082: "IA32_LSTAR",
    0xC0000084: "IA32_FMASK", 0xC0000100: "IA32_FS_BASE", 0xC0000101: "IA32_GS_BASE",
    0xC0000102: "IA32_KERNEL_GS_BASE", 0xC0000103: "IA32_TSC_AUX",
}  # fmt: skip
for _row in MSRS:  # an array's name has its 0 where the others have their number
    _stem, _, _rest = _row.name.rpartition("0") if _row.array > 1 else (_row.name, "", "")
    for _n in range(_row.array):
        _name = f"{_stem}{_n}{_rest}" if _row.array > 1 else _row.name
        MSR_NAMES[_row.number + _n * _row.step] = _name

STATUS_NAMES = {value: name for name, value in vars(tlfs).items() if name.startswith("HV_STATUS_")}
CHANNEL_MESSAGES = {
    value: name for name, value in vars(protocol).items() if name.startswith("CHANNELMSG_")
}
MESSAGE_TYPES = {tlfs.HVMSG_VMBUS: "HVMSG_VMBUS", tlfs.HVMSG_TIMER_EXPIRED: "HVMSG_TIMER_EXPIRED"}


def msr_name(number: int) -> str:
    """Return the official name of an MSR, or its number."""
    return MSR_NAMES.get(number) or f"{number:#x}"


def _page(value: int) -> Fields:
    return {"enable": value & 1, "gpa": value & tlfs.HV_PAGE_MASK}


def _sint(value: int) -> Fields:
    return {
        "vector": value & tlfs.HV_SYNIC_SINT_VECTOR_MASK,
        "masked": int(bool(value & tlfs.HV_SYNIC_SINT_MASKED)),
        "auto_eoi": int(bool(value & tlfs.HV_SYNIC_SINT_AUTO_EOI)),
    }


def _stimer(value: int) -> Fields:
    found: Fields = {
        "enable": value & 1, "periodic": value >> 1 & 1, "lazy": value >> 2 & 1,
        "auto_enable": value >> 3 & 1,
    }  # fmt: skip
    if value & tlfs.HV_STIMER_DIRECT:
        return found | {"direct_vector": value >> tlfs.HV_STIMER_VECTOR_SHIFT & 0xFF}
    return found | {"sint": value >> tlfs.HV_STIMER_SINT_SHIFT & 0xF}


def _os_id(value: int) -> Fields:
    """TLFS 2.6: bit 63 set is open source, its type in 62:56; Linux is 1 and has its version."""
    if value >> 48 == 0x8100:
        version = value >> 16 & 0xFFFFFFFF
        return {"os": f"Linux {version >> 16 & 0xFF}.{version >> 8 & 0xFF}.{version & 0xFF}"}
    return {"open_source": value >> 63, "vendor": value >> 48 & 0x7FFF}


MSR_FIELDS: dict[int, Callable[[int], Fields]] = {
    tlfs.HV_X64_MSR_GUEST_OS_ID: _os_id,
    **dict.fromkeys(
        (tlfs.HV_X64_MSR_HYPERCALL, tlfs.HV_X64_MSR_REFERENCE_TSC, tlfs.HV_X64_MSR_SIEFP,
         tlfs.HV_X64_MSR_SIMP, tlfs.HV_X64_MSR_VP_ASSIST_PAGE),
        _page,
    ),
    **{tlfs.HV_X64_MSR_SINT0 + n: _sint for n in range(tlfs.HV_SYNIC_SINT_COUNT)},
    **{tlfs.HV_X64_MSR_STIMER0_CONFIG + 2 * n: _stimer for n in range(4)},
}  # fmt: skip


def msr_fields(number: int, value: int) -> Fields:
    """Return the fields of an MSR's value by name, {} where it is just a number."""
    decode = MSR_FIELDS.get(number)
    return decode(value) if decode is not None else {}


def hypercall(control: int) -> tuple[str, Fields]:
    """Return a hypercall's name and what its input value says."""
    row = HYPERCALLS.get(control & 0xFFFF)
    fields: Fields = {"fast": control >> 16 & 1}
    if control >> tlfs.HV_HYPERCALL_VARHEAD_OFFSET & tlfs.HV_HYPERCALL_VARHEAD_MASK:
        fields["var"] = control >> 17 & tlfs.HV_HYPERCALL_VARHEAD_MASK
    if control >> tlfs.HV_HYPERCALL_REP_COMP_OFFSET & tlfs.HV_HYPERCALL_REP_MASK:
        fields["reps"] = control >> 32 & tlfs.HV_HYPERCALL_REP_MASK
    return (row.name if row is not None else f"hypercall {control & 0xFFFF:#06x}"), fields


def status(result: int) -> str:
    """Return a hypercall's result in words: status, and the reps that were completed."""
    reps = result >> 32 & tlfs.HV_HYPERCALL_REP_MASK
    name = STATUS_NAMES.get(result & 0xFFFF, f"{result & 0xFFFF:#x}")
    return f"{name}, {reps} reps" if reps else name


#: fields of channel messages: name -> (offset, format)
_RELID = {"relid": (8, "<I")}
MESSAGE_FIELDS: dict[int, dict[str, tuple[int, str]]] = {
    protocol.CHANNELMSG_OFFERCHANNEL: {"relid": (184, "<I"), "connection": (192, "<I")},
    protocol.CHANNELMSG_RESCIND_CHANNELOFFER: _RELID,
    protocol.CHANNELMSG_OPENCHANNEL: _RELID | {"open_id": (12, "<I"), "gpadl": (16, "<I"),
                                               "target_vp": (20, "<I")},
    protocol.CHANNELMSG_OPENCHANNEL_RESULT: _RELID | {"open_id": (12, "<I"), "status": (16, "<I")},
    protocol.CHANNELMSG_CLOSECHANNEL: _RELID,
    protocol.CHANNELMSG_GPADL_HEADER: _RELID | {"gpadl": (12, "<I"), "bytes": (16, "<H")},
    protocol.CHANNELMSG_GPADL_BODY: {"number": (8, "<I"), "gpadl": (12, "<I")},
    protocol.CHANNELMSG_GPADL_CREATED: _RELID | {"gpadl": (12, "<I"), "status": (16, "<I")},
    protocol.CHANNELMSG_GPADL_TEARDOWN: _RELID | {"gpadl": (12, "<I")},
    protocol.CHANNELMSG_GPADL_TORNDOWN: {"gpadl": (8, "<I")},
    protocol.CHANNELMSG_RELID_RELEASED: _RELID,
    protocol.CHANNELMSG_INITIATE_CONTACT: {"version": (8, "<I"), "target_vp": (12, "<I")},
    protocol.CHANNELMSG_VERSION_RESPONSE: {"supported": (8, "<B"), "state": (9, "<B")},
    protocol.CHANNELMSG_MODIFYCHANNEL: _RELID | {"target_vp": (12, "<I")},
    protocol.CHANNELMSG_MODIFYCHANNEL_RESPONSE: _RELID | {"status": (12, "<I")},
    protocol.CHANNELMSG_TL_CONNECT_REQUEST: {"port": (24, "<I")},
    protocol.CHANNELMSG_TL_CONNECT_RESULT: {"port": (24, "<I"), "status": (40, "<I")},
}  # fmt: skip
VERSION_NAMES = {value: name for name, value in protocol.VERSIONS.items()}
CLASS_NAMES = {
    value: name.removeprefix("GUID_").lower()
    for name, value in vars(protocol).items()
    if name.startswith("GUID_")
}


def channel_message(payload: bytes) -> tuple[str, Fields]:
    """Return a channel message's name and its fields; the guest's may be short or nonsense."""
    if len(payload) < 8:
        return "message", {"bytes": len(payload)}
    kind = int.from_bytes(payload[:4], "little")
    fields: Fields = {}
    for name, (at, form) in MESSAGE_FIELDS.get(kind, {}).items():
        if at + struct.calcsize(form) <= len(payload):
            fields[name] = struct.unpack_from(form, payload, at)[0]
    if kind == protocol.CHANNELMSG_INITIATE_CONTACT and fields.get("version") in VERSION_NAMES:
        fields["version"] = VERSION_NAMES[fields["version"]]  # type: ignore[index]
    if kind == protocol.CHANNELMSG_OFFERCHANNEL and len(payload) >= 24:
        import uuid

        guid = str(uuid.UUID(bytes_le=payload[8:24]))
        fields["class"] = CLASS_NAMES.get(guid, guid)
    return CHANNEL_MESSAGES.get(kind, f"channel message {kind}"), fields


#: what sits on a port, by the class of the device
DEVICES = {
    "SerialRing": "COM1", "Pm": "ACPI PM", "Cmos": "CMOS", "I8042": "i8042",
    "SystemControl": "port 92", "PciHole": "PCI", "ExitPort": "debug exit", "FwCfg": "fw_cfg",
    "HypervTestDevice": "hyperv-testdev", "DebugCon": "debugcon",
}  # fmt: skip


def device(owner: object) -> str:
    """Return what to call the owner of a port or an address."""
    return DEVICES.get(type(owner).__name__, type(owner).__name__) if owner is not None else "-"
