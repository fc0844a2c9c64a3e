"""The bus in a snapshot: contact, GPADLs, channels and the ends of their rings, devices."""

from __future__ import annotations

from ..errors import HostError
from ..saving import fields, put
from .channel import OFFERED, OPEN, RESCINDED, Channel
from .device import Device
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _collections import deque
    from collections.abc import Callable
    from typing import Any

    from ..hyperv.driver import Events
    from .gpadl import GpadlTable
    from .shareddoorbell import SharedDoorbell

SAVED = ("version", "vp", "sint", "_offers_wanted", "_next_relid", "_inbox")


class SavedServer:
    """The part of VmbusServer that is saved and put back."""

    channels: dict[int, Channel]
    events: Events
    gpadls: GpadlTable
    broken: Callable[..., None]
    _add: Callable[[Device], Channel]
    _devices: list[Device]
    _doorbell: SharedDoorbell
    _inbox: deque[bytes]
    _inbox_called: bool
    _rescind: Callable[[Channel], None]
    _serve_inbox: Callable[[], None]

    def save(self) -> dict[str, Any]:
        """Return the state; on the event loop, between two messages.

        :raises ConfigError: a device that the guest uses cannot be saved now.
        """
        used = {one.device for one in self.channels.values() if one.state != OFFERED}
        devices = {d.instance_guid: d.save() for d in self._devices if d in used and d.kept}
        return {
            **fields(self, SAVED), "doorbell": self._doorbell.is_open,
            "gpadls": self.gpadls.save(), "devices": devices,
            "channels": [channel.save() for channel in self.channels.values()],
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save` on a new bus.

        The guest is told that what is not kept, or is not here, has gone, and what came instead.

        :raises ConfigError: a device of the same name is another one.
        """
        put(self, SAVED, state)
        self.gpadls.load(state["gpadls"])
        if state["doorbell"] and not self._doorbell.open():
            raise HostError("restore: no descriptor for VMBus is left")
        devices, self.channels = {one.instance_guid: one for one in self._devices}, {}
        gone: list[Channel] = []
        for row in state["channels"]:  # a primary comes before its sub-channels
            device = devices.get(row["device"])
            stays = row["state"] == OFFERED or row["device"] in state["devices"]
            if device is None or not stays:
                device = Device()
                device.instance_guid = row["device"]
            primary = self.channels[row["primary"]] if row["primary"] else None
            channel = Channel(self, device, row["relid"], primary, row["sub_index"])
            self.channels[channel.relid] = channel
            if device.server is None:
                channel.state = RESCINDED if row["state"] == RESCINDED else OFFERED
                gone.append(channel)
                continue
            rings = self.gpadls.get(channel.relid, row["ring_gpadl"])
            try:
                channel.load(row, rings.pages.tolist() if rings is not None else [])
            except BrokenRule as error:
                channel.state = OPEN
                self.broken(error, channel)
        opened = [channel for channel in self.channels.values() if channel.state == OPEN]
        for device in self._devices:
            if device.instance_guid in state["devices"]:
                mine = {one.sub_index: one for one in opened if one.device is device}
                device.load(state["devices"][device.instance_guid], mine)
        for channel in reversed(gone):
            self._rescind(channel)
        here = {one.device for one in self.channels.values()}
        for device in [one for one in self._devices if one not in here]:
            self._add(device)
        if self._inbox:
            self._inbox_called = True
            self.events.call(self._serve_inbox)
