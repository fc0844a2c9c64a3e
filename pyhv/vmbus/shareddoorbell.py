"""The doorbell of guests older than 2.4 (iPXE): one event connection for all channels.

Such a guest sets a bit in its interrupt page and signals connection 2 (iPXE's
interface/hyperv/vmbus.c; linux drivers/hv before 2021). The page is the guest's, so it is not read:
every open channel looks at its ring, which it can do at any time. Towards such a guest we signal as
to a newer one, by the channel's own event flag: the one we know, iPXE, looks at its rings without
being called.
"""

from __future__ import annotations

import os

from ..errors import HostError
from .channel import OPEN
from .protocol import VMBUS_EVENT_CONNECTION_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .server import VmbusServer


class SharedDoorbell:
    """Bound by :meth:`open`, given back by :meth:`close`."""

    def __init__(self, server: VmbusServer) -> None:
        self._server = server
        self._fd = -1

    def open(self) -> bool:
        """Listen; False: this host has no doorbell left."""
        try:
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            return False
        try:
            self._server.synic.bind_event(VMBUS_EVENT_CONNECTION_ID, fd)
        except (OSError, HostError):
            os.close(fd)
            return False
        self._fd = fd
        self._server.events.add(fd, self._rung)
        return True

    @property
    def is_open(self) -> bool:
        """Tell whether it listens."""
        return self._fd >= 0

    def close(self) -> None:
        """Stop listening. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._server.synic.unbind_event(VMBUS_EVENT_CONNECTION_ID)
            self._server.events.remove(fd)
            os.close(fd)

    def _rung(self) -> None:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return
        for channel in list(self._server.channels.values()):
            if channel.state == OPEN:
                channel.ring()
