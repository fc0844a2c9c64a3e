"""A network card in a snapshot: what its driver negotiated; what is on its way is the host's."""

from __future__ import annotations

from ..saving import fields, put
from .device import Device
from .netvsc_receive import ReceiveBuffer
from .sharedbuffer import SharedBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..net.backend import Backend
    from .channel import Channel
    from .rss import Rss

SAVED = ("version", "initialized", "filter", "mtu", "mac", "tell_checksums", "_subchannels",
         "can_coalesce", "coalesced")  # fmt: skip
RSS = ("enabled", "key", "table", "types")


class SavedNetvsc(Device):
    """The part of Netvsc that is saved and put back."""

    kept = True
    backend: Backend
    queues: dict[int, Channel]
    rss: Rss
    _held: list[tuple[Channel, int]]
    _receive: ReceiveBuffer | None
    _send: SharedBuffer | None

    can_coalesce: bool

    def land(self) -> None:
        """Have the backend coalesce, or not."""
        raise NotImplementedError

    def writable(self) -> None:
        """Complete the sends that waited for the backend."""
        raise NotImplementedError

    def save(self) -> dict[str, Any]:
        """Return what the driver negotiated; the backend, and what is on its way, is the host's."""
        receive, send = self._receive, self._send
        return {
            **fields(self, SAVED), "rss": fields(self.rss, RSS),
            "receive": receive.save() if receive is not None else None,
            "send": send.gpadl if send is not None else None,
            "held": [[channel.sub_index, transaction] for channel, transaction in self._held],
        }  # fmt: skip

    def load(self, state: dict[str, Any], channels: dict[int, Channel]) -> None:
        """Undo :meth:`save`: frames come from the backend of now."""
        put(self, SAVED, state)
        put(self.rss, RSS, state["rss"])
        self.queues, server = dict(channels), self.server
        primary = channels.get(0)
        if primary is None or server is None:
            return
        receive, send = state["receive"], state["send"]
        lent = server.gpadls.get(primary.relid, receive["gpadl"]) if receive else None
        if lent is not None:
            buffer = SharedBuffer(server.memory, lent)
            self._receive = ReceiveBuffer(buffer, receive["identity"], receive["size"])
            self._receive.load(receive, channels)
        lent = server.gpadls.get(primary.relid, send) if send is not None else None
        self._send = SharedBuffer(server.memory, lent) if lent is not None else None
        self._held = [(channels[queue], transaction) for queue, transaction in state["held"]]
        self.can_coalesce &= self.backend.coalesces  # it may be another
        self.land()
        self.backend.sink = self
        server.events.call(self.writable)
