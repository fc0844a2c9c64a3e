"""The bus in a snapshot: contact, GPADLs, channels and the ends of their rings, devices."""

from __future__ import annotations

from ..errors import ConfigError, HostError
from ..saving import fields, put
from .channel import OFFERED, OPEN, Channel
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _collections import deque
    from collections.abc import Callable
    from typing import Any

    from ..hyperv.driver import Events
    from .device import Device
    from .gpadl import GpadlTable
    from .shareddoorbell import SharedDoorbell

SAVED = ("version", "vp", "sint", "_offers_wanted", "_next_relid", "_inbox")


class SavedServer:
    """The part of VmbusServer that is saved and put back."""

    channels: dict[int, Channel]
    events: Events
    gpadls: GpadlTable
    broken: Callable[..., None]
    _devices: list[Device]
    _doorbell: SharedDoorbell
    _inbox: deque[bytes]
    _inbox_called: bool
    _serve_inbox: Callable[[], None]

    def save(self) -> dict[str, Any]:
        """Return the state; on the event loop, between two messages.

        :raises ConfigError: a device that the guest uses cannot be saved.
        """
        used = {one.device.instance_guid for one in self.channels.values() if one.state != OFFERED}
        devices = {d.instance_guid: d.save() for d in self._devices if d.instance_guid in used}
        return {
            **fields(self, SAVED), "doorbell": self._doorbell.is_open,
            "gpadls": self.gpadls.save(), "devices": devices,
            "channels": [channel.save() for channel in self.channels.values()],
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save` on a new bus with the same devices.

        :raises ConfigError: it has others.
        """
        put(self, SAVED, state)
        self.gpadls.load(state["gpadls"])
        if state["doorbell"] and not self._doorbell.open():
            raise HostError("restore: no descriptor for VMBus is left")
        devices, self.channels = {one.instance_guid: one for one in self._devices}, {}
        for row in state["channels"]:  # a primary comes before its sub-channels
            device = devices.get(row["device"])
            if device is None:
                raise ConfigError(f"restore: this machine has no VMBus device {row['device']}")
            primary = self.channels[row["primary"]] if row["primary"] else None
            channel = Channel(self, device, row["relid"], primary, row["sub_index"])
            self.channels[channel.relid] = channel
            rings = self.gpadls.get(channel.relid, row["ring_gpadl"])
            try:
                channel.load(row, rings.pages.tolist() if rings is not None else [])
            except BrokenRule as error:
                channel.state = OPEN
                self.broken(error, channel)
        for guid, saved in state["devices"].items():
            opened = [c for c in self.channels.values() if c.state == OPEN]
            devices[guid].load(
                saved, {c.sub_index: c for c in opened if c.device is devices[guid]}
            )
        if self._inbox:
            self._inbox_called = True
            self.events.call(self._serve_inbox)
