"""A trace of a simulated guest played again: nothing differs, and what does has a name."""

from __future__ import annotations

import json
import struct

import pytest
import stor_sim
from bus_helpers import Recorder, sector
from guest_sim import MEMORY, packet
from net_sim import NetGuest, watch_ranges

from pyhv.errors import ConfigError
from pyhv.lookup import replay as command
from pyhv.net.backend import Backend
from pyhv.replay.player import play
from pyhv.trace import names
from pyhv.trace.event import Event
from pyhv.trace.host import HostTracer
from pyhv.vmbus.keyboard import SynthKeyboard
from pyhv.vmbus.netvsc import Netvsc
from pyhv.vmbus.storvsc import Scsi

MAC = bytes.fromhex("525400123456")


class Recording:
    """A simulated guest whose bus is traced with its bytes; ``lines`` are its JSON Lines."""

    def __init__(self, make_guest, *devices, disks=(), nics=()) -> None:
        self.events: list[dict] = []
        self.clock = 0
        board = {
            "memory": MEMORY, "cpus": 2, "max_version": 0x50003, "nics": list(nics),
            "disks": [
                {"lun": lun, "bytes": disk.size_bytes, "sector": disk.sector_size,
                 "readonly": disk.readonly, "cache": disk.cache, "identity": disk.identity.hex()}
                for lun, disk in enumerate(disks)
            ],
        }  # fmt: skip
        self.add("machine", "board", board)
        self.guest = make_guest(trace=self._message)
        tracer = HostTracer(frozenset(("ring", "bytes")), self._packet)
        self.guest.server.new_channel.append(tracer._channel)
        for device in devices:
            self.guest.server.offer(device)

    def add(self, category: str, name: str, fields: dict, result: object = None) -> None:
        self.clock += 1000
        self.events.append(
            {"time_ns": self.clock, "category": category, "name": name, "fields": fields,
             "result": result}
        )  # fmt: skip

    def _message(self, way: str, message: bytes) -> None:
        name, fields = names.channel_message(message)
        side = {"from": "guest"} if way == "in" else {"to": "guest"}
        status = "HV_STATUS_SUCCESS" if way == "in" else None
        self.add("vmbus", name, side | fields | {"data": message.hex()}, status)

    def _packet(self, event: Event) -> None:
        """A packet of the guest has the time of its beginning, before that of its answers."""
        self.add("ring", event.name, event.fields, event.result)
        if "from" in event.fields:
            self.events[-1]["time_ns"] = self.begin
        self.begin = self.clock + 1

    begin = 0

    @property
    def lines(self) -> list[str]:
        return [json.dumps(event) for event in self.events]

    def change(self, name: str, number: int, **fields: object) -> None:
        """Falsify the event *number* of that name."""
        found = [event for event in self.events if event["name"] == name]
        found[number]["fields"] |= fields


@pytest.fixture
def storage(make_guest, disk):
    """A driver that reads, writes, flushes, and asks for what there is not."""
    recording = Recording(make_guest, Scsi([disk]), disks=[disk])
    driver = stor_sim.start(recording.guest)
    driver.run(stor_sim.cdb_6(0x12, 0, 36), 36)
    assert driver.run(stor_sim.cdb_10(0x28, 3, 1), 512).data == sector(3)
    assert driver.run(stor_sim.cdb_10(0x2A, 5, 1), data=b"new!" * 128).srb == 1
    assert driver.run(stor_sim.cdb_10(0x35, 0, 0)).srb == 1
    assert driver.run(stor_sim.cdb_10(0x28, 5, 1), 512).data == b"new!" * 128
    assert driver.run(stor_sim.cdb_6(0xEE, 0, 0)).sense is not None
    return recording


def test_the_same(storage, image) -> None:
    """Played on an image of then nothing differs; on an empty disk READs are not compared."""
    fresh = image.with_name("fresh.img")
    fresh.write_bytes(b"".join(map(sector, range(2048))))
    result = play(storage.lines, [str(fresh)])
    assert result.differences == []
    assert (result.lives, result.messages, result.packets) == (1, 6, 10)
    assert result.compared > 15
    assert fresh.read_bytes()[5 * 512 :][:4] == (5).to_bytes(4, "little")
    assert play(storage.lines).differences == []


def test_another_image(storage, tmp_path) -> None:
    """What it left in memory is not what was left then."""
    other = tmp_path / "other.img"
    other.write_bytes(bytes(1 << 20))
    (difference,) = play(storage.lines, [str(other)]).differences
    assert "EXECUTE_SRB" in difference.what
    assert "READ_10: what it leaves in memory is" in difference.what


@pytest.mark.parametrize(
    ("name", "number", "fields", "says"),
    [
        ("VM_PKT_COMP", 5, {"srb_status": 4}, "COMPLETE_IO #2: srb_status is 1, was 4"),
        ("CHANNELMSG_GPADL_CREATED", 0, {"status": 7}, "GPADL_CREATED: status is 0, was 7"),
        ("CHANNELMSG_VERSION_RESPONSE", 0, {"data": "0f" + 15 * "00"}, "byte 8 is 0x01, was 0x00"),
        ("VM_PKT_COMP", 4, {"data": "00"}, "has 80 bytes, had 1"),
    ],
)
def test_a_difference_has_a_name(storage, name, number, fields, says) -> None:
    storage.change(name, number, **fields)
    found = [str(one) for one in play(storage.lines).differences]
    assert len(found) == 1
    assert says in found[0]


def test_missing_and_new(storage) -> None:
    """An answer that was there, and one that was not."""
    events = storage.events
    del events[max(n for n, one in enumerate(events) if one["name"] == "VM_PKT_COMP")]
    storage.add("vmbus", "CHANNELMSG_UNLOAD_RESPONSE", {"to": "guest", "data": "11" + "00" * 7})
    found = [one.what for one in play(storage.lines).differences]
    assert any(text.endswith("was not there") for text in found)
    assert "UNLOAD_RESPONSE: is missing" in found


def test_a_card_and_a_keyboard(make_guest) -> None:
    """NVSP, RNDIS through buffers that the guest lent, and frames out of them."""
    card = Netvsc(Backend(), MAC)
    nics = [{"mac": MAC.hex(), "link": False}]
    recording = Recording(make_guest, card, SynthKeyboard(), nics=nics)
    offers = recording.guest.connect()
    net = NetGuest(recording.guest, recording.guest.open(offers[0].relid))
    watch_ranges(net)
    net.initialize()
    assert net.query(0x01010101) == MAC
    net.transmit(bytes(60))
    keys = recording.guest.open(offers[1].relid)
    keys.send(packet(6, struct.pack("<II", 1, 1 << 16)))
    found = [str(one) for one in play(recording.lines).differences]
    assert found == []
    recording.events[0]["fields"]["nics"][0]["mac"] = bytes(6).hex()
    (difference,) = play(recording.lines).differences
    assert "what it leaves in memory" in difference.what


def test_own_devices(make_guest) -> None:
    """A device of the caller's is replayed with its like; without it, it is left out."""
    recording = Recording(make_guest, Recorder())
    channel = recording.guest.open(recording.guest.connect()[0].relid)
    channel.send(packet(6, b"12345678"))
    result = play(recording.lines, devices=[Recorder()])
    assert (result.differences, result.left_out) == ([], {})
    assert play(recording.lines).left_out == {Recorder.class_guid: 2}
    (difference,) = play(recording.lines, devices=[Recorder(answer=False)]).differences
    assert difference.what.endswith("is missing")


def test_a_closed_channel(storage) -> None:
    """A packet that cannot be played since the host refuses its channel now."""
    storage.change("CHANNELMSG_OPENCHANNEL", 0, data="05" + "00" * 147)
    found = [one.what for one in play(storage.lines).differences]
    assert any(text.endswith("its channel is not open now") for text in found)


def test_lines_of_nonsense(storage) -> None:
    """A file that was cut, or is none."""
    for bad in ([], ["{"], [storage.lines[0]], storage.lines[1:]):
        with pytest.raises(ConfigError, match="nothing to replay in it: no "):
            play(bad)
    with pytest.raises(ConfigError, match="its machine is without bytes"):
        play(['{"time_ns": 1, "category": "machine", "name": "board", "fields": {}}'])
    assert play(["", "[]", *storage.lines]).differences == []
    for fields in ({"data": "xy"}, {"data": 7}, {"relid": []}, {"before": 3}, {"before": [[1]]},
                   {"before": [["a", 1, ""]]}):  # fmt: skip
        bad = {"time_ns": 5000, "category": "ring", "name": "x", "fields": fields}
        assert play([*storage.lines, json.dumps(bad)]).differences == []
    for size in (0, -1, 1 << 62, "x"):
        storage.events[0]["fields"]["memory"] = size
        with pytest.raises(ConfigError, match="its machine"):
            play(storage.lines)


def test_the_command(storage, tmp_path) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text("\n".join(storage.lines))
    text, status = command.main([str(trace)])
    assert status == 0
    assert text.endswith("answers compared, no differences")
    assert "disks are empty" in text
    storage.change("CHANNELMSG_GPADL_CREATED", 0, status=7)
    trace.write_text("\n".join(storage.lines))
    text, status = command.main([str(trace)])
    assert status == 1
    assert "scsi" not in text.splitlines()[0]
    assert "status is 0, was 7" in text.splitlines()[0]
    assert json.loads(command.main([str(trace), "--json"])[0])["count"] == 1
    with pytest.raises(ConfigError, match="No such file"):
        command.main([str(tmp_path / "none")])
    with pytest.raises(ConfigError, match="nothing to replay"):
        command.main(["/dev/null"])
