"""What stands in for a machine: time that the trace tells, a SynIC that nobody listens to."""

from __future__ import annotations

import select
from _collections import deque
from _heapq import heappop, heappush

from ..hyperv.tlfs import HV_STATUS_SUCCESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..hyperv.driver import MessageHandler

ROUNDS = 10_000


class TraceEvents:
    """The event loop, on the caller's thread: :meth:`advance` is how time goes on."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._poll = select.poll()

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Call *callback* whenever *fd* is readable."""
        self._callbacks[fd] = callback
        self._poll.register(fd, select.POLLIN)

    def remove(self, fd: int) -> None:
        """Stop watching *fd*."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def call(self, function: Callable[[], None]) -> None:
        """Run *function* soon."""
        self._calls.append(function)

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Run *function* when the trace is so much further."""
        self._count += 1
        heappush(self._timers, (self.now_ns + seconds * 1e9, self._count, function))

    def advance(self, time_ns: int, early_ns: int = 0) -> None:
        """Let it be *time_ns*, and do what was due until then, or is in the next *early_ns*."""
        self.now_ns = max(self.now_ns, time_ns)
        while self._timers and self._timers[0][0] <= self.now_ns + early_ns:
            heappop(self._timers)[2]()
            self.run()

    def run(self) -> None:
        """Do what there is to do now."""
        for _ in range(ROUNDS):
            while self._calls:
                self._calls.popleft()()
            ready = self._poll.poll(0) if self._callbacks else []
            if not ready and not self._calls:
                return
            for fd, _ in ready:
                if fd in self._callbacks:
                    self._callbacks[fd]()


class TraceSynic:
    """SynicPort: takes what the bus sends; the server's own trace has it."""

    def __init__(self, events: TraceEvents) -> None:
        self._events = events
        self._handlers: dict[int, MessageHandler] = {}

    def post_message(self, vp_index: int, sint: int, message_type: int, payload: bytes) -> None:
        """To nobody."""

    def messages_waiting(self, vp_index: int, sint: int) -> int:
        """Nothing ever waits."""
        return 0

    def drop_messages(self, vp_index: int, sint: int, message_type: int) -> None:
        """Nothing waits."""

    def raise_sint(self, vp_index: int, sint: int) -> None:
        """Nobody is interrupted."""

    def event_signaller(self, vp_index: int, sint: int, flag: int) -> Callable[[], None]:
        """Nobody is signalled: the player looks by itself."""
        return _nothing

    def connect_messages(self, connection_id: int, handler: MessageHandler) -> None:
        """Know who takes messages."""
        self._handlers[connection_id] = handler

    def bind_event(self, connection_id: int, eventfd: int) -> None:
        """The player writes to the channel's doorbell itself."""

    def unbind_event(self, connection_id: int) -> None:
        """Nothing to undo."""

    def reference_ticks(self) -> int:
        """Return the trace's time in 100 ns."""
        return self._events.now_ns // 100

    def post(self, payload: bytes) -> int:
        """Post a message of the guest; return the HV_STATUS."""
        for handler in self._handlers.values():
            return handler(1, payload)
        return HV_STATUS_SUCCESS


def _nothing() -> None:
    pass
