"""What the bus asks of a device: a class with GUIDs and a few callbacks, all on the loop thread.

A device in a test file::

    class Echo(Device):
        class_guid = "…"

        def packet(self, channel, kind, flags, transaction, batch, start, body, end):
            channel.complete(transaction, batch[body:end])
"""

from __future__ import annotations

from . import protocol as p
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .channel import Channel
    from .server import VmbusServer


class Device:
    """Base of all devices on the bus; one offer, at most one server at a time.

    ``class_guid`` picks the guest's driver, ``instance_guid`` names this one (text form);
    ``offer_flags``, ``mmio_megabytes`` and ``user_data`` (120 bytes at most) go into the offer.
    ``server`` is set while the device is offered. ``kept``: its state goes into snapshots; a guest
    that goes on from one sees another device leave and come again.
    """

    class_guid = ""
    instance_guid = ""
    offer_flags = 0
    mmio_megabytes = 0
    user_data = b""
    kept = False
    server: VmbusServer | None = None

    def offered(self, server: VmbusServer) -> None:
        """The device is on *server*'s bus now."""

    def opened(self, channel: Channel) -> None:
        """The guest opened *channel*, the primary or a sub-channel; packets may be sent."""

    def closed(self, channel: Channel) -> None:
        """*channel* is closed, whatever the reason; nothing can be sent."""

    def save(self) -> Any:
        """Return the state of a device that is ``kept`` for a snapshot; saving.py says how.

        :raises ConfigError: it cannot be saved now.
        """
        raise NotImplementedError

    def load(self, state: Any, channels: dict[int, Channel]) -> None:
        """Undo :meth:`save`; :meth:`opened` is not called.

        :param channels: the open ones, by sub-channel index.
        """
        raise NotImplementedError

    def batch_done(self, channel: Channel) -> None:
        """What lay in the ring has been served; what is sent now still goes with it."""

    def writable(self, channel: Channel) -> None:
        """What waited for room in the guest's ring (``channel.waiting``) is in it now."""

    def packet(
        self,
        channel: Channel,
        kind: int,
        flags: int,
        transaction: int,
        batch: bytes,
        start: int,
        body: int,
        end: int,
    ) -> None:
        """Serve one packet of the guest.

        :param kind: VM_PKT_*. *flags*: bit 0, it wants a completion.
        :param batch: a private copy; the type's own header is ``batch[start:body]``, the data
            ``batch[body:end]``.
        :raises BrokenRule: the guest broke a rule; the channel is closed.
        """
        raise NotImplementedError


def check_inband(kind: int, length: int, least: int) -> None:
    """Let an in-band packet of *length* bytes pass if it has at least *least*; else BrokenRule."""
    if kind != p.VM_PKT_DATA_INBAND:
        raise BrokenRule("packet-type", f"type {kind}")
    if length < least:
        raise BrokenRule("packet-short", f"{length} bytes of {least}")
