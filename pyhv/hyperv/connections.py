"""Connection ids and what is behind them: message handlers and event doorbells, for both drivers.

Statuses are QEMU's (hw/hyperv/hyperv.c, hyperv_hcall_post_message, hyperv_hcall_signal_event) and,
for an event, first KVM's.
"""

from __future__ import annotations

import os
import threading

from ..errors import BadGpa, HostError
from .tlfs import (
    HV_CONNECTION_ID_MASK,
    HV_MESSAGE_PAYLOAD_BYTE_COUNT,
    HV_STATUS_INSUFFICIENT_MEMORY,
    HV_STATUS_INVALID_ALIGNMENT,
    HV_STATUS_INVALID_CONNECTION_ID,
    HV_STATUS_INVALID_HYPERCALL_CODE,
    HV_STATUS_INVALID_HYPERCALL_INPUT,
    HV_STATUS_INVALID_PORT_ID,
    HV_STATUS_SUCCESS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..memory import GuestMemory
    from .driver import MessageHandler

POST_MESSAGE_SIZE = 256  # 0:4 connection, 4:4 reserved, 8:4 type, 12:4 size, 16:240 payload
PAGE_OFFSET = 0xFFF
FLAG_NUMBER = 0xFFFF << 32


class Connections:
    """The tables of one partition. Bound from the event loop, used from VP threads."""

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._handlers: dict[int, MessageHandler] = {}
        self._eventfds: dict[int, int] = {}
        # An eventfd may be closed as soon as unbind_event returned: no write may be on its way.
        self._lock = threading.Lock()

    def connect_messages(self, connection_id: int, handler: MessageHandler) -> None:
        """Route HvCallPostMessage for *connection_id* (24 bits) to *handler*."""
        self._handlers[connection_id & HV_CONNECTION_ID_MASK] = handler

    def wrap_messages(self, wrap: Callable[[MessageHandler], MessageHandler]) -> None:
        """Put ``wrap(handler)`` in the place of each handler there is; for the tracer."""
        for connection_id, handler in self._handlers.items():
            self._handlers[connection_id] = wrap(handler)

    def disconnect_messages(self, connection_id: int) -> None:
        """Undo :meth:`connect_messages`; unknown ids are ignored."""
        self._handlers.pop(connection_id & HV_CONNECTION_ID_MASK, None)

    def bind_event(self, connection_id: int, eventfd: int) -> None:
        """Make HvCallSignalEvent for *connection_id* (24 bits), flag 0, write to *eventfd*.

        :raises HostError: the id is bound, as KVM_HYPERV_EVENTFD has it.
        """
        with self._lock:
            if connection_id in self._eventfds:
                raise HostError(f"event connection {connection_id:#x}: EEXIST")
            self._eventfds[connection_id] = eventfd

    def unbind_event(self, connection_id: int) -> None:
        """Undo :meth:`bind_event`; unknown ids are ignored. The eventfd may be closed then."""
        with self._lock:
            self._eventfds.pop(connection_id, None)

    def post_message(self, gpa: int, fast: bool = False) -> int:
        """Serve HvCallPostMessage with its input at *gpa*; return the HV_STATUS."""
        if fast:
            return HV_STATUS_INVALID_HYPERCALL_CODE
        if gpa & 3:  # QEMU: alignment of the C struct; the TLFS asks for 8
            return HV_STATUS_INVALID_ALIGNMENT
        try:
            block = self._memory.read(gpa, POST_MESSAGE_SIZE)
        except BadGpa:
            if self._is_ram(gpa):  # and ends inside the block: QEMU cannot map it whole
                return HV_STATUS_INSUFFICIENT_MEMORY
            block = bytes(POST_MESSAGE_SIZE)  # what QEMU reads from nowhere
        size = int.from_bytes(block[12:16], "little")
        if size > HV_MESSAGE_PAYLOAD_BYTE_COUNT:
            return HV_STATUS_INVALID_HYPERCALL_INPUT
        connection = int.from_bytes(block[:4], "little") & HV_CONNECTION_ID_MASK
        handler = self._handlers.get(connection)
        if handler is None:
            return HV_STATUS_INVALID_CONNECTION_ID
        return handler(int.from_bytes(block[8:12], "little"), block[16 : 16 + size])

    def _is_ram(self, gpa: int) -> bool:
        try:
            self._memory.offset(gpa, 1)
        except BadGpa:
            return False
        return True

    def signal_event(self, parameter: int, fast: bool) -> int:
        """Serve HvCallSignalEvent; *parameter* is its input, or in the slow form its address."""
        if fast:
            return self.signal_value(parameter)
        if parameter & 7 or (parameter & PAGE_OFFSET) + 8 > PAGE_OFFSET + 1:
            return HV_STATUS_INVALID_ALIGNMENT
        try:
            return self.signal_value(self._memory.read_u64(parameter))
        except BadGpa:
            return HV_STATUS_INVALID_ALIGNMENT

    def signal_value(self, value: int) -> int:
        """Signal by the 8-byte input: 0:4 connection, 4:2 flag number, 6:2 reserved.

        KVM asks for flag 0 and calls anything else an unknown port. An unknown id is 18, in the
        slow form too, where KVM and QEMU together answer by garbage.
        """
        if value & FLAG_NUMBER:
            return HV_STATUS_INVALID_PORT_ID
        if value & ~HV_CONNECTION_ID_MASK:
            return HV_STATUS_INVALID_HYPERCALL_INPUT
        with self._lock:
            eventfd = self._eventfds.get(value)
            if eventfd is None:
                return HV_STATUS_INVALID_CONNECTION_ID
            try:
                os.eventfd_write(eventfd, 1)
            except BlockingIOError:
                pass  # it is signalled as much as it can be
        return HV_STATUS_SUCCESS
