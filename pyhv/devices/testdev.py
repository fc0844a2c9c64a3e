"""hyperv-testdev: kvm-unit-tests raise SINTs and bind echo connections through this port.

A write is ``sint | vp_index << 8 | control << 16 | connection_id << 24``. The device is
VMBus' poor relation: it uses the same SynicPort, so the tests that pass through it
judge the drivers. Source: facts of QEMU's hw/hyperv/hyperv_testdev.c and of
kvm-unit-tests' x86/hyperv.h.
"""

from __future__ import annotations

import os

from ..errors import HostError
from ..hyperv.tlfs import HV_STATUS_INSUFFICIENT_BUFFERS, HV_STATUS_INVALID_CONNECTION_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from ..hyperv.driver import Events, SynicPort

    class TestPort(SynicPort, Protocol):
        """What the device asks beyond VMBus' needs."""

        def raise_sint(self, vp_index: int, sint: int) -> None:
            """Send one edge on the SINT, now; any thread."""

        def messages_queued(self, vp_index: int, sint: int) -> int:
            """Return how many posted messages wait for the SIM slot."""


PORT, PORTS = 0x3000, 4
SINTS = 16
HV_STATUS_SUCCESS = 0


def _gone(message_type: int, payload: bytes) -> int:
    """Answer for a destroyed message connection."""
    return HV_STATUS_INVALID_CONNECTION_ID


class HypervTestDevice:
    """Port 0x3000, 32 bits, write-only.

    :param vp_count: commands for other VPs are ignored, as is all else that makes no sense.
    """

    def __init__(self, synic: TestPort, events: Events, vp_count: int) -> None:
        self._synic, self._events, self._vp_count = synic, events, vp_count
        self._routes: set[tuple[int, int]] = set()
        self._echoes: dict[int, int] = {}  # connection id -> eventfd

    def pio_in(self, offset: int, size: int) -> int:
        """Return 0."""
        return 0

    def pio_out(self, offset: int, size: int, value: int) -> None:
        """Take a command."""
        command = _COMMANDS.get(value >> 16 & 0xFF)
        sint, vp_index, connection = value & 0xFF, value >> 8 & 0xFF, value >> 24 & 0xFF
        if offset or size != 4 or command is None or sint >= SINTS or vp_index >= self._vp_count:
            return
        command(self, vp_index, sint, connection)

    def close(self) -> None:
        """Destroy the event connections; on the event loop's thread, or when it has ended."""
        for connection in list(self._echoes):
            self._unbind(connection)

    def _create_route(self, vp_index: int, sint: int, connection: int) -> None:
        self._routes.add((vp_index, sint))

    def _destroy_route(self, vp_index: int, sint: int, connection: int) -> None:
        self._routes.discard((vp_index, sint))

    def _raise(self, vp_index: int, sint: int, connection: int) -> None:
        if (vp_index, sint) in self._routes:
            self._synic.raise_sint(vp_index, sint)

    def _create_message(self, vp_index: int, sint: int, connection: int) -> None:
        """Echo each message that is posted to *connection* into the VP's slot."""
        synic = self._synic

        def echo(message_type: int, payload: bytes) -> int:
            if synic.messages_queued(vp_index, sint):
                return HV_STATUS_INSUFFICIENT_BUFFERS  # one waits already: there is one buffer
            synic.post_message(vp_index, sint, message_type, payload)
            return HV_STATUS_SUCCESS

        synic.connect_messages(connection, echo)

    def _destroy_message(self, vp_index: int, sint: int, connection: int) -> None:
        self._synic.connect_messages(connection, _gone)

    def _create_event(self, vp_index: int, sint: int, connection: int) -> None:
        """Echo each signal of *connection* as event flag number *connection* of the VP."""
        if connection in self._echoes:
            return
        signal = self._synic.event_signaller(vp_index, sint, connection)
        try:
            eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            return  # out of descriptors: the guest sees no connection

        def signalled() -> None:
            try:
                os.eventfd_read(eventfd)
            except BlockingIOError:
                return
            signal()

        try:
            self._synic.bind_event(connection, eventfd)
        except (HostError, OSError):
            os.close(eventfd)  # somebody else has this connection
            return
        self._echoes[connection] = eventfd
        self._events.add(eventfd, signalled)

    def _destroy_event(self, vp_index: int, sint: int, connection: int) -> None:
        self._events.call(lambda: self._unbind(connection))

    def _unbind(self, connection: int) -> None:
        eventfd = self._echoes.pop(connection, None)
        if eventfd is not None:
            self._synic.unbind_event(connection)
            self._events.remove(eventfd)
            os.close(eventfd)


_COMMANDS: dict[int, Callable[[HypervTestDevice, int, int, int], None]] = {
    1: HypervTestDevice._create_route,
    2: HypervTestDevice._destroy_route,
    3: HypervTestDevice._raise,
    4: HypervTestDevice._create_message,
    5: HypervTestDevice._destroy_message,
    6: HypervTestDevice._create_event,
    7: HypervTestDevice._destroy_event,
}
