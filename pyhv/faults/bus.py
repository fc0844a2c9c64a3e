"""The rules at work on one bus: they stand between the server, its channels, and what those call.

Without a rule nothing of this is there. The first one puts itself before two functions of the
server and two of each channel, the last one that goes takes it all away.
"""

from __future__ import annotations

import time

from ..trace import names, packets
from ..vmbus import protocol as p
from ..vmbus.rules import BrokenRule
from .rule import ANSWER, PACKET, RELID_AT, STATUS_AT, Fault, Hit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..vmbus.channel import Channel
    from ..vmbus.device import Device
    from ..vmbus.server import VmbusServer

    Later = Callable[[], Any]

REQUESTS_KEPT = 4096  # of a channel, whose answers are awaited
SRB = "EXECUTE_SRB"
#: where a completion has its status, behind the ring's header; SCSI: of an SRB 1 byte, else a word
NET_STATUS_AT = {"NVSP_MSG_TYPE_INIT_COMPLETE": 12}


class BusFaults:
    """The *rules* of a machine on one of its buses; on the event loop, or before start."""

    def __init__(self, server: VmbusServer, rules: list[Fault]) -> None:
        self.server, self.rules = server, rules
        self._taps: dict[Channel, Tap] = {}
        self._installed = False
        self._target = 0  # VP of the channel that the guest is moving
        self.changed()

    def changed(self) -> None:
        """Come between, or go: there are rules now, or none."""
        server = self.server
        if self.rules and not self._installed:
            self._take, self._send = server._message, server.send
            server._message, server.send = self._message, self._sent  # type: ignore[method-assign]
            server.new_channel.append(self._tap)
            for channel in server.channels.values():
                self._tap(channel)
            self._installed = True
        elif not self.rules and self._installed:
            # what another instrument has put around us stays, and finds no rule here
            if server.__dict__.get("_message") == self._message:
                _restore(server, "_message", self._take)
            if server.__dict__.get("send") == self._sent:
                _restore(server, "send", self._send)
            server.new_channel.remove(self._tap)
            for tap in self._taps.values():
                tap.remove()
            self._taps.clear()
            self._installed = False

    def _tap(self, channel: Channel) -> None:
        for old in [one for one in self._taps if self.server.channels.get(one.relid) is not one]:
            del self._taps[old]
        self._taps[channel] = Tap(self, channel)

    def due(
        self, on: str, channel: Channel | None, fields: dict[str, object]
    ) -> Fault | None:
        """Return the first rule that is to be done to this, and count."""
        found = None
        for rule in list(self.rules):
            if rule.on != on or (rule.device is not None and channel is None):
                continue
            if (channel is None or rule.of(channel.device)) and rule.fits(fields) and rule.due():
                found = found or rule
        if found is not None:
            found.hit(Hit(time.monotonic_ns(), on, channel.relid if channel else 0, fields))
        return found

    def _message(self, message: bytes) -> None:
        if int.from_bytes(message[:4], "little") == p.CHANNELMSG_MODIFYCHANNEL:
            channel = self.server.channels.get(int.from_bytes(message[8:12], "little"))
            self._target = channel.target_vp if channel is not None else 0
        self._pass(message, self._take)

    def _sent(self, message: bytes) -> None:
        self._pass(message, self._send)

    def _pass(self, message: bytes, go_on: Callable[[bytes], None]) -> None:
        """Let a message through, either way, as the rules have it."""
        name, fields = names.channel_message(message)
        name = name.removeprefix("CHANNELMSG_")
        at = RELID_AT.get(name)
        relid = int.from_bytes(message[at : at + 4], "little") if at is not None else 0
        channel = self.server.channels.get(relid)
        rule = self.due(name, channel, fields)
        if rule is None:
            go_on(message)
        elif rule.do == "status":
            if rule.status:
                UNDO[name](self, channel, fields)
            go_on(_with(message, STATUS_AT[name], 4, rule.status or 0))
        elif rule.do == "change":
            go_on(_changed(rule, message))
        elif rule.do == "version":
            self._capped(rule, message, go_on)
        elif self.do(rule, channel, lambda: go_on(message)):
            go_on(message)

    def _capped(self, rule: Fault, message: bytes, go_on: Callable[[bytes], None]) -> None:
        most = self.server.max_version
        self.server.max_version = min(most, p.VERSIONS[rule.version or ""])
        try:
            go_on(message)
        finally:
            self.server.max_version = most

    def do(self, rule: Fault, channel: Channel | None, later: Later) -> bool:
        """Do what is the same to all; return whether what it was done to goes its way."""
        if rule.do == "drop":
            return False
        if rule.do == "delay":
            self.server.events.after(rule.seconds or 0, later)
            return False
        if channel is not None:
            self.act(rule, channel.device)
        return rule.do != "rescind"

    def act(self, rule: Fault, device: Device) -> None:
        """Do something to a device: for so many seconds, or until the rule is removed."""
        undo = DEEDS[rule.do](self.server, device)
        if undo is None:
            return
        if rule.seconds is None:
            rule.undo.append(undo)
        else:
            self.server.events.after(rule.seconds, undo)

    def now(self, rule: Fault) -> None:
        """Do a rule that waits for nothing to the devices that it is about; once, or *count* times.

        The next time is as long after the end of the last as that took.
        """
        if rule not in self.rules or self.server._closed or not rule.due():
            return
        for device in [one for one in self.server._devices if rule.of(one)]:
            rule.hit(Hit(time.monotonic_ns(), rule.on, 0, {"device": type(device).__name__}))
            self.act(rule, device)
        if rule.count is not None and rule.seconds is not None:
            self.server.events.after(2 * rule.seconds, lambda: self.now(rule))


class Tap:
    """What stands between one channel and its device."""

    def __init__(self, bus: BusFaults, channel: Channel) -> None:
        self._bus, self._channel = bus, channel
        self._guid = channel.device.class_guid
        self._serve, self._send = channel.packet, channel.send
        self._requests: dict[int, dict[str, object]] = {}
        self._ring = channel._in  # of the opening that the requests are of
        channel.packet, channel.send = self._packet, self._answer  # type: ignore[method-assign]

    def remove(self) -> None:
        """Go, unless another instrument stands around this one."""
        channel = self._channel
        if channel.packet == self._packet:
            channel.packet = self._serve
        if channel.__dict__.get("send") == self._answer:
            _restore(channel, "send", self._send)

    def _packet(
        self, channel: Channel, kind: int, flags: int, transaction: int,
        batch: bytes, start: int, body: int, end: int,
    ) -> None:  # fmt: skip
        """A packet of the guest."""
        name, fields = packets.packet(self._guid, kind, transaction, batch[body:end])
        if channel._in is not self._ring:
            self._requests.clear()
            self._ring = channel._in
        if len(self._requests) < REQUESTS_KEPT:
            self._requests[transaction] = fields
        life = channel._in

        def serve() -> None:
            self._serve(channel, kind, flags, transaction, batch, start, body, end)

        def later() -> None:
            if channel._in is not life or life is None:
                return
            try:
                serve()
                if channel._in is life:
                    channel.device.batch_done(channel)
            except BrokenRule as error:
                channel.server.broken(error, channel)

        rule = self._bus.due(PACKET, channel, fields | {"kind": name})
        if rule is None or self._bus.do(rule, channel, later):
            serve()

    def _answer(self, data: bytes) -> bool:
        """A packet of the host."""
        channel, send = self._channel, self._send
        name, fields = packets.sent(self._guid, data)
        kind, offset8, _, _, transaction = p.PACKET_HEADER.unpack_from(data)
        request = self._requests.pop(transaction, {}) if kind == p.VM_PKT_COMP else {}
        rule = self._bus.due(ANSWER, channel, fields | request | {"kind": name})
        if rule is None:
            return send(data)
        life = channel._in
        if rule.do == "status":
            return send(self._with_status(rule, data, offset8 * 8, fields, request))
        if rule.do == "change":
            head = offset8 * 8
            return send(data[:head] + _changed(rule, data[head:]))
        later: Later = lambda: channel._in is life and send(data)  # noqa: E731
        return send(data) if self._bus.do(rule, channel, later) else True

    def _with_status(
        self, rule: Fault, data: bytes, at: int, fields: dict[str, object],
        request: dict[str, object],
    ) -> bytes:  # fmt: skip
        message = request.get("message", SRB)
        if self._guid == p.GUID_SCSI and message == SRB:
            if rule.status is not None:
                data = _with(data, at + 14, 1, rule.status)
            if rule.scsi_status is not None:
                data = _with(data, at + 15, 1, rule.scsi_status)
            return data
        offset = 8 if self._guid == p.GUID_SCSI else 4
        offset = NET_STATUS_AT.get(str(fields.get("message")), offset)
        return _with(data, at + offset, 4, rule.status or 0)


def _restore(owner: Any, name: str, plain: Callable[..., Any]) -> None:
    """Take our function off *owner*, leaving what it had: its class's own, or an instrument's."""
    delattr(owner, name)
    if getattr(owner, name) != plain:
        setattr(owner, name, plain)


def _with(data: bytes, at: int, size: int, value: int) -> bytes:
    if at + size > len(data):
        return data
    return data[:at] + (value & (1 << 8 * size) - 1).to_bytes(size, "little") + data[at + size :]


def _changed(rule: Fault, data: bytes) -> bytes:
    found = rule.change(data) if rule.change is not None else data
    if len(found) != len(data):
        raise ValueError(f"{rule}: change gave {len(found)} bytes for {len(data)}")
    return found


# what the host takes back, since it tells the guest that it is not so


def _no_gpadl(faults: BusFaults, channel: Channel | None, fields: dict[str, Any]) -> None:
    gpadls = faults.server.gpadls
    found = gpadls.find(fields["gpadl"])
    if found is not None and found.complete:
        gpadls.remove(found)


def _not_open(faults: BusFaults, channel: Channel | None, fields: dict[str, Any]) -> None:
    if channel is not None:
        channel.close()


def _not_moved(faults: BusFaults, channel: Channel | None, fields: dict[str, Any]) -> None:
    if channel is not None and channel._in is not None:
        channel.retarget(faults._target)


UNDO = {
    "GPADL_CREATED": _no_gpadl, "OPENCHANNEL_RESULT": _not_open,
    "MODIFYCHANNEL_RESPONSE": _not_moved,
}  # fmt: skip


# what is done to a device; what they return ends it


def _rescind(server: VmbusServer, device: Device) -> Later | None:
    if device.server is not server:
        return None
    server.rescind(device)

    def again() -> None:
        if device.server is None and not server._closed:
            server.offer(device)

    return again


def _fill(server: VmbusServer, device: Device) -> Later:
    undo = [_hold(channel) for channel in server._channels_of(device) if channel._in is not None]
    return lambda: [one() for one in undo]


def _hold(channel: Channel) -> Later:
    """Let what the guest puts into the ring lie there; the device's own wish waits."""
    wish, life = [channel._held], channel._in
    mine: Callable[[bool], None] = lambda held: wish.__setitem__(0, held)  # noqa: E731
    channel._held = True
    channel.hold = mine  # type: ignore[method-assign]

    def serve() -> None:
        if channel.__dict__.get("hold") is mine:
            del channel.hold
        if channel._in is life and "hold" not in channel.__dict__:
            channel.hold(wish[0])

    return serve


def _link(server: VmbusServer, device: Any) -> Later | None:
    backend = getattr(device, "backend", None)
    if backend is None:
        return None
    was = backend.link
    backend.set_link(False)
    return lambda: backend.set_link(was)  # it outlives the bus


DEEDS: dict[str, Callable[[VmbusServer, Any], Later | None]] = {
    "rescind": _rescind, "fill": _fill, "link": _link,
}  # fmt: skip
