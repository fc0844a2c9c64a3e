"""What keyboard and mouse share: input waits, in order, until the guest's ring takes it."""

from __future__ import annotations

from _collections import deque

from ..saving import fields, put
from . import protocol as p
from .device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .channel import Channel

RETRY_S = 0.01  # the guest's ring was full


class InputDevice(Device):
    """``ready`` while a driver of the guest has agreed to the protocol."""

    offer_flags = p.VMBUS_CHANNEL_NAMED_PIPE_MODE
    user_data = p.VMBUS_PIPE_TYPE_MESSAGE.to_bytes(4, "little")

    kept = True
    saved: tuple[str, ...] = ("ready", "_waiting")

    def __init__(self) -> None:
        self.ready = False
        self._channel: Channel | None = None
        self._waiting: deque[bytes] = deque()
        self._taken: Callable[[], None] | None = None

    def opened(self, channel: Channel) -> None:
        """A driver: it speaks first."""
        self._channel = channel

    def closed(self, channel: Channel) -> None:
        """No driver any more; what it has not taken is not kept for the next one."""
        self._channel, self.ready, self._taken = None, False, None
        self._waiting.clear()

    def save(self) -> dict[str, Any]:
        """Return whether a driver is there, and what it has not taken."""
        return fields(self, self.saved)

    def load(self, state: dict[str, Any], channels: dict[int, Channel]) -> None:
        """Undo :meth:`save`; who waited for it to be taken waits in the life before."""
        put(self, self.saved, state)
        self._channel = channels.get(0)
        if self._channel is not None:
            self._channel.server.events.call(self._pump)

    def _hand(self, packets: Sequence[bytes], taken: Callable[[], None]) -> bool:
        """Send *packets* in order; then call *taken*. On the event loop.

        :return: False, nothing is sent: no driver is ready, or it has not taken the last ones.
        """
        if not self.ready or self._waiting:
            return False
        self._waiting.extend(packets)
        self._taken = taken
        self._pump()
        return True

    def _pump(self) -> None:
        waiting, channel = self._waiting, self._channel
        while channel is not None and waiting:
            if not channel.send_inband(waiting[0]):
                if self._channel is not None:
                    channel.server.events.after(RETRY_S, self._pump)
                return
            if waiting:  # a broken ring closed the channel inside send_inband, and cleared it
                waiting.popleft()
        taken, self._taken = self._taken, None
        if taken is not None and channel is not None:
            taken()
