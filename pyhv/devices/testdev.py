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

    from ..hyperv.driver import Events, SynicPort

PORT, PORTS = 0x3000, 4
SINTS = 16
HV_STATUS_SUCCESS = 0


def _gone(message_type: int, payload: bytes) -> int:
    """Answer for a destroyed message connection."""
    return HV_STATUS_INVALID_CONNECTION_ID


class HypervTestDevice:
    """Port 0x3000, 32 bits, write-only.

    :param vp_count: commands for other VPs are ignored, as is all else that makes no sense; 0
        for a machine without a SynIC.
    """

    def __init__(self, synic: SynicPort, events: Events, vp_count: int) -> None:
        self._synic, self._events, self._vp_count = synic, events, vp_count
        self._routes: set[tuple[int, int]] = set()
        self._eventfds: dict[int, int] = {}  # connection id -> eventfd; kept until close
        self._echoes: dict[int, Callable[[], None]] = {}  # connection id -> sets the flag

    def pio_in(self, offset: int, size: int) -> int:
        """Return 0."""
        return 0

    def pio_out(self, offset: int, size: int, value: int) -> None:
        """Take a command; it is done when the guest's OUT is."""
        command = _COMMANDS.get(value >> 16 & 0xFF)
        sint, vp_index, connection = value & 0xFF, value >> 8 & 0xFF, value >> 24 & 0xFF
        if offset or size != 4 or command is None or sint >= SINTS or vp_index >= self._vp_count:
            return
        try:
            command(self, vp_index, sint, connection)
        except (HostError, OSError):
            pass  # out of descriptors, or somebody else has the connection: the guest gets none

    def close(self) -> None:
        """Destroy the event connections; on the event loop's thread, or when it has ended."""
        for connection in list(self._echoes):
            self._destroy_event(0, 0, connection)
        for eventfd in self._eventfds.values():
            self._events.remove(eventfd)
            os.close(eventfd)
        self._eventfds.clear()

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
            if synic.messages_waiting(vp_index, sint):
                return HV_STATUS_INSUFFICIENT_BUFFERS  # one waits already: there is one buffer
            try:
                synic.post_message(vp_index, sint, message_type, payload)
            except OSError:
                return HV_STATUS_INSUFFICIENT_BUFFERS
            return HV_STATUS_SUCCESS

        synic.connect_messages(connection, echo)

    def _destroy_message(self, vp_index: int, sint: int, connection: int) -> None:
        self._synic.connect_messages(connection, _gone)

    def _create_event(self, vp_index: int, sint: int, connection: int) -> None:
        """Echo each signal of *connection* as event flag number *connection* of the VP."""
        if connection in self._echoes:
            return
        signal = self._synic.event_signaller(vp_index, sint, connection)
        # The descriptor stays watched when the guest destroys the connection: closing it would
        # be the loop's work, and a guest that makes and destroys in a loop would outrun it.
        eventfd = self._eventfds.get(connection)
        if eventfd is None:
            eventfd = self._eventfds[connection] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._events.add(eventfd, lambda: self._signalled(connection))
        self._synic.bind_event(connection, eventfd)
        self._echoes[connection] = signal

    def _signalled(self, connection: int) -> None:
        try:
            os.eventfd_read(self._eventfds[connection])
        except BlockingIOError:
            return
        signal = self._echoes.get(connection)
        if signal is not None:
            signal()

    def _destroy_event(self, vp_index: int, sint: int, connection: int) -> None:
        if self._echoes.pop(connection, None) is not None:
            self._synic.unbind_event(connection)


_COMMANDS: dict[int, Callable[[HypervTestDevice, int, int, int], None]] = {
    1: HypervTestDevice._create_route,
    2: HypervTestDevice._destroy_route,
    3: HypervTestDevice._raise,
    4: HypervTestDevice._create_message,
    5: HypervTestDevice._destroy_message,
    6: HypervTestDevice._create_event,
    7: HypervTestDevice._destroy_event,
}
