"""The devices of a recorded machine, made again from its offers and what the trace says of it."""

from __future__ import annotations

import os

from ..disk import Disk
from ..trace.names import CLASS_NAMES
from ..vmbus import protocol as p
from ..vmbus.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..vmbus.channel import Channel
    from .world import TraceEvents

MOST_DISK = 1 << 50


class Mute(Device):
    """In the place of a device that cannot be made again: it answers nothing."""

    def packet(
        self, channel: Channel, kind: int, flags: int, transaction: int,
        batch: bytes, start: int, body: int, end: int,
    ) -> None:  # fmt: skip
        """Say nothing."""


class RecordedDisk(Disk):
    """A disk that is as it was told to the guest; its flushes are done at once."""

    was_volatile = True

    @property
    def volatile(self) -> bool:
        """Whether the guest was told of a write cache."""
        return self.was_volatile

    def flush_soon(self, told: Callable[[OSError | None], None]) -> None:
        """Nothing is lost here."""
        told(None)


class Workshop:
    """Makes devices; :meth:`close` closes their disks.

    :param images: disk images in the order of the LUNs, in the place of empty ones. They are not
        written to.
    :param own: devices of the caller's, for offers of their class and instance GUIDs, or their
        class alone.
    """

    def __init__(
        self, board: dict[str, Any], events: TraceEvents, images: list[str], own: list[Device]
    ) -> None:
        self._board, self._events, self._images, self._own = board, events, images, list(own)
        self._disks: list[Disk] = []

    def make(self, offer: bytes) -> Device:
        """Return the device of an OFFERCHANNEL."""
        words = p.OFFER_CHANNEL.unpack(offer)
        guid, instance = _text(words[2]), _text(words[3])
        for device in self._own:
            free = device.server is None and device.instance_guid in ("", instance)
            if free and device.class_guid == guid:
                device.instance_guid = instance
                return device
        maker = MAKERS.get(guid)
        device = maker(self, int(instance[-4:], 16)) if maker is not None else None
        if device is None:
            device = Mute()
            device.class_guid, device.offer_flags = guid, words[4]
            device.mmio_megabytes, device.user_data = words[5], words[6]
        device.instance_guid = instance
        return device

    def close(self) -> None:
        """Close the disks."""
        for disk in self._disks:
            disk.close()
        self._disks.clear()

    def scsi(self, number: int) -> Device | None:
        """The controller with its disks."""
        from ..vmbus.storvsc import Scsi

        disks = {}
        for row in self._board.get("disks", ()) if not number else ():
            disks[int(row["lun"])] = self._disk(row)
        return Scsi(dict(disks))

    def _disk(self, row: dict[str, Any]) -> RecordedDisk:
        order = len(self._disks)
        if order < len(self._images):
            disk = RecordedDisk(self._images[order], snapshot=True, sector_size=int(row["sector"]))
        else:
            fd = os.memfd_create("replay", os.MFD_CLOEXEC)
            try:
                os.ftruncate(fd, min(int(row["bytes"]), MOST_DISK))
                disk = RecordedDisk(f"/proc/self/fd/{fd}", sector_size=int(row["sector"]))
            finally:
                os.close(fd)
        self._disks.append(disk)
        disk.readonly, disk.cache = bool(row["readonly"]), str(row["cache"])
        disk.writethrough = disk.cache == "writethrough"
        disk._identity = bytes.fromhex(row["identity"])
        disk.was_volatile = bool(row.get("volatile", not disk.readonly and disk.cache != "unsafe"))
        return disk

    def net(self, number: int) -> Device | None:
        """A card that no frame comes to."""
        from ..net.backend import Backend
        from ..vmbus.netvsc import Netvsc

        rows = self._board.get("nics", ())
        if number >= len(rows):
            return None
        backend = Backend()
        backend.link = bool(rows[number]["link"])
        backend.coalesces = bool(rows[number].get("coalesces"))
        return Netvsc(backend, bytes.fromhex(rows[number]["mac"]), number)

    def timesync(self, number: int) -> Device:
        """By the trace's time."""
        from ..vmbus.ic import Timesync

        return Timesync(lambda: self._events.now_ns)


def _plain(module: str, name: str) -> Callable[[Workshop, int], Device]:
    def make(workshop: Workshop, number: int) -> Device:
        import importlib

        found = importlib.import_module(f"..vmbus.{module}", __package__)
        device: Device = getattr(found, name)()
        return device

    return make


MAKERS: dict[str, Callable[[Workshop, int], Device | None]] = {
    p.GUID_SCSI: Workshop.scsi, p.GUID_NET: Workshop.net, p.GUID_TIMESYNC: Workshop.timesync,
    p.GUID_HEARTBEAT: _plain("ic", "Heartbeat"), p.GUID_SHUTDOWN: _plain("ic", "Shutdown"),
    p.GUID_KVP: _plain("kvp", "Kvp"), p.GUID_VSS: _plain("vss", "Vss"),
    p.GUID_KEYBOARD: _plain("keyboard", "SynthKeyboard"),
    p.GUID_DYNMEM: _plain("balloon", "Balloon"), p.GUID_MOUSE: _plain("mouse", "SynthMouse"),
}  # fmt: skip


def name_of(device: Device) -> str:
    """Return what to call it."""
    return CLASS_NAMES.get(device.class_guid, device.class_guid)


def _text(raw: bytes) -> str:
    import uuid

    return str(uuid.UUID(bytes_le=raw))
