"""Ring packets into names and fields: what storvsc, netvsc and the integration components say."""

from __future__ import annotations

from ..vmbus import (
    balloon,
    keyboard,
    mouse,
    netvsc_protocol,
    protocol,
    scsi,
    storvsc,
    video,
)
from . import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from .names import Fields

KINDS = {value: name for name, value in vars(protocol).items() if name.startswith("VM_PKT_")}
STOR = {
    getattr(storvsc, name): name
    for name in ("COMPLETE_IO", "EXECUTE_SRB", "RESET_LUN", "RESET_ADAPTER", "RESET_BUS",
                 "BEGIN_INITIALIZATION", "END_INITIALIZATION", "QUERY_PROTOCOL_VERSION",
                 "QUERY_PROPERTIES", "ENUMERATE_BUS", "CREATE_SUB_CHANNELS")
}  # fmt: skip
CDBS = {
    getattr(scsi, name): name
    for name in ("TEST_UNIT_READY", "REQUEST_SENSE", "READ_6", "WRITE_6", "INQUIRY", "MODE_SENSE_6",
                 "START_STOP_UNIT", "ALLOW_MEDIUM_REMOVAL", "READ_CAPACITY_10", "READ_10",
                 "WRITE_10", "VERIFY_10", "SYNCHRONIZE_CACHE_10", "WRITE_SAME_10", "UNMAP",
                 "MODE_SENSE_10", "READ_16", "WRITE_16", "VERIFY_16", "SYNCHRONIZE_CACHE_16",
                 "WRITE_SAME_16", "SERVICE_ACTION_IN_16", "REPORT_LUNS", "READ_12", "WRITE_12")
}  # fmt: skip
NVSP = {
    value: name
    for name, value in vars(netvsc_protocol).items()
    if name.startswith("NVSP_MSG") and "_TYPE_" in name
}
ICMSG = {0: "NEGOTIATE", 1: "HEARTBEAT", 2: "KVPEXCHANGE", 3: "SHUTDOWN", 4: "TIMESYNC", 5: "VSS",
         7: "FCOPY"}  # fmt: skip
PIPE = 8  # vmpipe_proto_header: kind, bytes
IC_TYPE_AT = 12  # behind vmbuspipe_hdr and the frame's version
CDB_AT = 28


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _scsi(data: bytes) -> Fields:
    operation = _u32(data, 0)
    found: Fields = {"message": STOR.get(operation, f"operation {operation}")}
    if operation == storvsc.EXECUTE_SRB and len(data) > CDB_AT + 10:
        code = data[CDB_AT]
        found["cdb"] = CDBS.get(code, f"{code:#04x}")
        if code in (scsi.READ_10, scsi.WRITE_10):
            found["lba"] = int.from_bytes(data[CDB_AT + 2 : CDB_AT + 6], "big")
            found["blocks"] = int.from_bytes(data[CDB_AT + 7 : CDB_AT + 9], "big")
    elif operation == storvsc.COMPLETE_IO and len(data) > 15:
        found |= {"srb_status": data[14], "scsi_status": data[15]}
    return found


def _net(data: bytes) -> Fields:
    kind = _u32(data, 0)
    return {"message": NVSP.get(kind, f"message {kind}")} if data else {}


def _component(data: bytes) -> Fields:
    if len(data) < IC_TYPE_AT + 2:
        return {}
    kind = int.from_bytes(data[IC_TYPE_AT : IC_TYPE_AT + 2], "little")
    return {"message": f"ICMSGTYPE_{ICMSG[kind]}" if kind in ICMSG else f"icmsg {kind}"}


def _numbered(module: ModuleType, prefix: str, at: int, size: int) -> Callable[[bytes], Fields]:
    """Return a decoder of packets whose message is a number of *size* bytes at *at*."""
    known = {value: name for name, value in vars(module).items() if name.startswith(prefix)}

    def decode(data: bytes) -> Fields:
        if len(data) < at + size:
            return {}
        number = int.from_bytes(data[at : at + size], "little")
        return {"message": known.get(number, f"message {number}")}

    return decode


#: what a packet of a class says; of other classes only type and size are shown
DECODERS: dict[str, Callable[[bytes], Fields]] = {
    protocol.GUID_SCSI: _scsi,
    protocol.GUID_NET: _net,
    protocol.GUID_HEARTBEAT: _component,
    protocol.GUID_SHUTDOWN: _component,
    protocol.GUID_TIMESYNC: _component,
    protocol.GUID_KVP: _component,
    protocol.GUID_VSS: _component,
    protocol.GUID_FCOPY: _component,
    protocol.GUID_KEYBOARD: _numbered(keyboard, "SYNTH_KBD_", 0, 4),
    protocol.GUID_MOUSE: _numbered(mouse, "SYNTH_HID_", PIPE, 4),
    protocol.GUID_VIDEO: _numbered(video, "SYNTHVID_", PIPE, 4),
    protocol.GUID_DYNMEM: _numbered(balloon, "DM_", 0, 2),
}


def packet(guid: str, kind: int, transaction: int, data: bytes) -> tuple[str, Fields]:
    """Return a packet's type by name, and its fields; *data* is behind the type's own header."""
    fields: Fields = {"class": names.CLASS_NAMES.get(guid, guid), "transaction": transaction}
    decode = DECODERS.get(guid)
    if decode is not None:
        fields |= decode(data)
    return KINDS.get(kind, f"packet {kind}"), fields | {"bytes": len(data)}


def sent(guid: str, data: bytes) -> tuple[str, Fields]:
    """Return the same of a packet of the host's, with its ring header."""
    kind, offset8, _, _, transaction = protocol.PACKET_HEADER.unpack_from(data)
    return packet(guid, kind, transaction, data[offset8 * 8 :])
