"""The tracer's host half: rings, console lines, what the machine is and how it ended."""

from __future__ import annotations

import json
import pathlib
import struct
import types
import zlib

import pytest
import stor_sim
from bus_helpers import sector
from guest_sim import Guest, packet

from pyhv.disk import Disk
from pyhv.stop import Stop
from pyhv.trace import host, packets
from pyhv.trace.event import Event
from pyhv.trace.session import TraceSession
from pyhv.trace.tracer import Tracer
from pyhv.trace.writers import line
from pyhv.vmbus import protocol
from pyhv.vmbus.storvsc import Scsi


def short(event: Event) -> str:
    return line(event._replace(duration_ns=-1), event.time_ns).split(None, 1)[1]


def board(**parts: object) -> types.SimpleNamespace:
    given = {"threads": [], "vmbus": None, "driver": types.SimpleNamespace(name="in_user")}
    return types.SimpleNamespace(**given | parts)


@pytest.fixture
def storage(tmp_path: pathlib.Path):
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(map(sector, range(64))))
    disk = Disk(path)
    guest = Guest(Scsi([disk]))
    yield guest
    guest.close()
    disk.close()


def test_ring_packets_of_storage(storage: Guest) -> None:
    """Both ways, decoded; and the guest gets what it would have got."""
    events: list[Event] = []
    Tracer(frozenset(("ring",)), events.append).install(board(vmbus=storage.server))
    stor = stor_sim.start(storage)
    events.clear()
    assert stor.run(stor_sim.cdb_10(0x28, 3, 1), 512).data == sector(3)
    assert [short(event) for event in events] == [
        "host  VM_PKT_COMP(to=guest, relid=1, class=scsi, transaction=1, "
        "message=COMPLETE_IO, srb_status=1, scsi_status=0, bytes=0x40)",
        "host  VM_PKT_DATA_USING_GPA_DIRECT(from=guest, relid=1, class=scsi, transaction=1, "
        "message=EXECUTE_SRB, cdb=READ_10, lba=3, blocks=1, bytes=0x40)",
    ]
    assert events[1].duration_ns >= 0 > events[0].duration_ns


def test_bytes_of_packets_and_memory(storage: Guest) -> None:
    """What a device reads before it is served, a sum of what it writes after, each packet whole."""
    events: list[Event] = []
    Tracer(frozenset(("ring", "bytes")), events.append).install(board(vmbus=storage.server))
    stor = stor_sim.start(storage)
    events.clear()
    stor.run(stor_sim.cdb_10(0x28, 3, 1), 512)
    answer, request = events
    at = stor.buffer[0] * 4096
    assert request.fields["after"] == zlib.crc32(sector(3))
    assert "before" not in request.fields
    assert len(bytes.fromhex(answer.fields["data"])) == 80
    assert len(bytes.fromhex(request.fields["data"])) == 16 + 8 + 8 + 8 + 64
    events.clear()
    stor.run(stor_sim.cdb_10(0x2A, 3, 1), data=b"new".ljust(512, b"\0"))
    assert events[-1].fields["before"] == [[at, 512, b"new".hex()]]
    assert "after" not in events[-1].fields


@pytest.mark.parametrize("direction", [0, 1, 2])
@pytest.mark.parametrize("count", [0, 1, 2, 0xFFFFFFFF])
@pytest.mark.parametrize("page", [0, 1 << 60, 3])
def test_bytes_of_any_page_list(storage: Guest, direction: int, count: int, page: int) -> None:
    """A list that does not add up is shown as far as it does; the bus says what was wrong."""
    events: list[Event] = []
    Tracer(frozenset(("ring", "bytes")), events.append).install(board(vmbus=storage.server))
    stor = stor_sim.start(storage)
    ranges = struct.pack("<IIIIQ", 0, count, 0xFFFFFFF0, 4095, page)
    body = stor_sim.srb(stor_sim.cdb_10(0x28, 3, 1), 512, direction)
    stor.channel.send(packet(9, body, extra=ranges))
    assert events[-1].fields["message"] == "EXECUTE_SRB"


def test_untraced_channels_are_plain(storage: Guest) -> None:
    """Off, it costs nothing: a channel's functions are those of its class and its device."""
    Tracer(frozenset(("vmbus", "synic")) - {"vmbus", "synic"}, print).install(
        board(vmbus=storage.server)
    )
    channel = storage.server.channels[1]
    assert channel.packet == channel.device.packet
    assert "send" not in vars(channel)
    assert not storage.server.new_channel


@pytest.mark.parametrize(
    ("guid", "data", "message"),
    [
        (protocol.GUID_SCSI, (9).to_bytes(64, "little"), "QUERY_PROTOCOL_VERSION"),
        (protocol.GUID_SCSI, b"", "operation 0"),
        (protocol.GUID_NET, (107).to_bytes(40, "little"), "NVSP_MSG1_TYPE_SEND_RNDIS_PKT"),
        (protocol.GUID_HEARTBEAT, bytes(12) + b"\1\0", "ICMSGTYPE_HEARTBEAT"),
        (protocol.GUID_SHUTDOWN, bytes(12) + b"\3\0", "ICMSGTYPE_SHUTDOWN"),
        (protocol.GUID_TIMESYNC, bytes(5), None),
        (protocol.GUID_KVP, bytes(12) + b"\2\0", "ICMSGTYPE_KVPEXCHANGE"),
        (protocol.GUID_VSS, bytes(12) + b"\5\0", "ICMSGTYPE_VSS"),
        (protocol.GUID_FCOPY, bytes(12) + b"\7\0", "ICMSGTYPE_FCOPY"),
        (protocol.GUID_KEYBOARD, bytes((3, 0, 0, 0)), "SYNTH_KBD_EVENT"),
        (protocol.GUID_MOUSE, bytes(8) + bytes((4, 0, 0, 0)), "SYNTH_HID_INPUT_REPORT"),
        (protocol.GUID_VIDEO, bytes(8) + bytes((10, 0, 0, 0)), "SYNTHVID_DIRT"),
        (protocol.GUID_DYNMEM, bytes((5, 0, 80, 0)), "DM_STATUS_REPORT"),
        (protocol.GUID_DYNMEM, bytes((77, 0)), "message 77"),
        ("not-a-guid", b"abc", None),
    ],
)
def test_packets_by_class(guid: str, data: bytes, message: str | None) -> None:
    name, fields = packets.packet(guid, protocol.VM_PKT_DATA_INBAND, 7, data)
    assert name == "VM_PKT_DATA_INBAND"
    assert fields.get("message") == message
    assert (fields["transaction"], fields["bytes"]) == (7, len(data))


@pytest.mark.parametrize("decode", packets.DECODERS.values())
def test_decoders_take_any_bytes(decode) -> None:
    for size in range(70):
        assert isinstance(decode(bytes([3] * size)), dict)


def test_console_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line an event, a prompt too when more follows late; bytes go through untouched."""
    written, events, clock = bytearray(), [], [0]
    monkeypatch.setattr(host, "now", lambda: clock[0])
    lines = host.ConsoleLines(written.extend, events.append)
    for text in (b"one\r\n\n", b"tw", b"o\nlogin: "):
        clock[0] += 1000
        lines(text)
    clock[0] += host.GATHER_NS + 1
    lines(b"root\n" + b"x" * 600 + b"\n")
    assert [event.fields["text"] for event in events] == [
        "one", "two", "login: ", "root", "x" * 500, "x" * 100,
    ]  # fmt: skip
    assert events[1].time_ns == 2000
    assert written == b"one\r\n\ntwo\nlogin: root\n" + b"x" * 600 + b"\n"


def test_the_console_is_wrapped_once() -> None:
    """A machine's console outlives its boards; a second life must not double the lines."""
    written, events = bytearray(), []
    console = types.SimpleNamespace(write=written.extend)
    machine = types.SimpleNamespace(console=console, bios=None)
    for _ in range(2):
        made = board(machine=machine, uart=types.SimpleNamespace(_out=console.write))
        Tracer(frozenset(("console",)), events.append).install(made)
        made.uart._out(b"a line\n")
    assert [event.fields["text"] for event in events] == ["a line", "a line"]
    assert written == b"a line\n" * 2


def test_the_end_is_told(tmp_path: pathlib.Path) -> None:
    stop = Stop("poweroff", 0, "the guest powered off", {})
    machine = types.SimpleNamespace(add_instrument=lambda install: None, ended=stop)
    path = tmp_path / "t.jsonl"
    TraceSession(machine, "machine", "jsonl", str(path), False, lambda text: None).close()
    event = json.loads(path.read_text())
    assert (event["category"], event["name"]) == ("machine", "end")
    assert event["fields"] == {"kind": "poweroff", "status": 0, "text": "the guest powered off"}
