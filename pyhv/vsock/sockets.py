"""``vm.vsock``: call the guest's ports, be called by it, as sockets, asyncio streams or Unix paths.

What is listened for outlives a reset; connections do not.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from _collections import deque

from ..endings import not_running
from ..errors import ConfigError, HostError
from .bridge import Bridge

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ..machine import Machine
    from ..vmbus.hvsock import HvSockets
    from ..vmbus.server import VmbusServer
    from .shell import SocketShell

PORTS = 1 << 32
CONNECT_S = 10.0
RETRY_S = 1.0  # the guest does not say that nobody listens: it is asked again, less and less often
POLL_S = 0.1  # how soon a stopped machine is noticed
ASYNC_POLL_S = 0.02
BACKLOG = 64  # calls of the guest that nobody has accepted yet


class NobodyListens(HostError, ConnectionRefusedError, TimeoutError):
    """The guest did not accept in time."""


class Listener:
    """Takes the guest's calls to a port; a context manager. Made by :meth:`Sockets.listen`."""

    def __init__(self, sockets: Sockets, port: int) -> None:
        self._sockets, self.port = sockets, port
        self._changed = threading.Condition()
        self._waiting: deque[socket.socket] = deque()
        self._closed = False

    def accept(self, timeout: float | None = None) -> socket.socket:
        """Return a connection, the oldest that waits.

        :raises TimeoutError: none came in *timeout* seconds. ConfigError: closed, or the machine
            has stopped.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._waiting:
                if self._closed:
                    raise ConfigError(f"accept on port {self.port}: the listener is closed")
                reason = self._sockets.gone()
                if reason is not None:
                    raise ConfigError(f"accept on port {self.port}: {reason}")
                left = POLL_S if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(
                        f"accept on port {self.port}: the guest did not call in {timeout:g} s"
                    )
                self._changed.wait(min(left, POLL_S))
            return self._waiting.popleft()

    async def accept_streams(
        self, timeout: float | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return asyncio's streams of a connection; see :meth:`accept`. May be cancelled."""
        import asyncio

        end = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                found = self.accept(0)
            except TimeoutError:
                if end is not None and time.monotonic() > end:
                    raise
                await asyncio.sleep(ASYNC_POLL_S)
                continue
            return await asyncio.open_connection(sock=found)

    def called(self) -> Bridge | None:
        """Take a call, on the event loop; None: too many wait."""
        with self._changed:
            if self._closed or len(self._waiting) >= BACKLOG:
                return None
        own, theirs = socket.socketpair()

        def told(accepted: bool) -> None:
            with self._changed:
                if accepted and not self._closed and len(self._waiting) < BACKLOG:
                    self._waiting.append(theirs)
                    self._changed.notify_all()
                    return
            theirs.close()

        return self._sockets.bridge(own, told)

    def close(self) -> None:
        """Listen no more; what nobody accepted is closed. Idempotent."""
        self._sockets.forget(self.port, self.called)
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for one in waiting:
            one.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Sockets:
    """The streams of a machine. Any thread but the machine's own may call.

    Every connection is a ``socket.socket`` of this host: close it when done. The guest closing its
    end, or its being reset, reads as the end of the stream.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine, self._events = machine, machine.events
        self._lock = threading.Lock()
        self._services: dict[int, Callable[[], Bridge | None]] = {}
        self._paths: dict[str, socket.socket] = {}
        self._bridges: set[Bridge] = set()
        self.shells: set[SocketShell] = set()
        self._bus: HvSockets | None = None
        self._closed = False

    # for callers

    def connect(
        self, port: int, timeout: float = CONNECT_S, *, cancelled: Callable[[], bool] | None = None
    ) -> socket.socket:
        """Call *port* of the guest; return the connection.

        A guest that does not listen yet is called again until *timeout* seconds are over.

        :param cancelled: asked again and again while it waits; true ends that with HostError.
        :raises NobodyListens: it never did (ConnectionRefusedError and TimeoutError, too).
        :raises ConfigError: the machine does not run, or has no VMBus.
        """
        self._check("connect", port)
        deadline, patience = time.monotonic() + timeout, RETRY_S
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise NobodyListens(
                    f"connect to port {port}: nobody in the guest accepted in {timeout:g} s "
                    "(Linux: hv_sock loaded, and a listener on an AF_VSOCK socket?)"
                )
            found = self._try(port, min(left, patience), deadline, cancelled)
            if found is not None:
                return found
            if cancelled is not None and cancelled():
                raise HostError(f"connect to port {port}: cancelled")
            patience *= 2

    def listen(self, port: int) -> Listener:
        """Return a listener for the guest's calls to *port* of CID 2.

        :raises ConfigError: the port is taken.
        """
        listener = Listener(self, port)
        self._serve("listen", port, listener.called)
        return listener

    def serve(self, port: int, path: str | os.PathLike) -> None:
        """Connect the guest's calls to *port* to the Unix socket *path*, where a program listens.

        Where none does, the guest is refused.
        """
        path = os.fspath(path)

        def called() -> Bridge | None:
            own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                own.setblocking(False)  # a full backlog refuses, too
                own.connect(path)
            except OSError:
                own.close()
                return None
            return self.bridge(own, lambda accepted: None)

        self._serve("serve", port, called)

    def publish(self, port: int, path: str | os.PathLike) -> None:
        """Make the Unix socket *path*: who connects there is connected to *port* of the guest.

        A client whose call the guest does not accept within CONNECT_S is let go. The path is
        removed with the machine.

        :raises ConfigError: the path cannot be made.
        """
        self._check("publish", port)
        path = os.fspath(path)
        from ..listening import listen

        listener, _ = listen("publish", f"unix:{path}")
        listener.setblocking(False)
        listener.listen(BACKLOG)
        with self._lock:
            self._paths[path] = listener

        def ready() -> None:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # it went away again
            self._call(port, client, time.monotonic() + CONNECT_S, RETRY_S)

        self._machine.call(lambda: self._events.add(listener.fileno(), ready))

    async def open_connection(
        self, port: int, timeout: float = CONNECT_S
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return asyncio's streams of a connection to *port* of the guest; see :meth:`connect`."""
        import asyncio

        from ..awaiting import in_thread

        cancel = threading.Event()
        found = await in_thread(
            lambda: self.connect(port, timeout, cancelled=cancel.is_set), cancel.set
        )
        return await asyncio.open_connection(sock=found)

    def shell(self, port: int, timeout: float = CONNECT_S) -> SocketShell:
        """Return a shell of the guest's that listens on *port*: it has run, push and pull.

        In the guest something connects a shell's input and output to the port, such as
        ``socat VSOCK-LISTEN:1024,fork EXEC:sh``. See docs/testing.md.

        :raises NobodyListens, ConfigError: as :meth:`connect`.
        """
        from .shell import SocketShell

        made = SocketShell(self.connect(port, timeout), self, self._machine.console.shown_tail)
        self.shells.add(made)
        return made

    # what the machine asks for

    def attach_now(self) -> None:
        """Take calls on the board that is in, if nobody does; on the event loop."""
        board = self._machine.board
        if board is not None and board.vmbus is not None and board.vmbus.sockets is None:
            self.attach(board.vmbus)

    def attach(self, server: VmbusServer) -> HvSockets:
        """Take calls on *server*; on the event loop, or before it runs."""
        from ..vmbus.hvsock import HvSockets

        self._bus = HvSockets(server, self._called)
        return self._bus

    def close(self) -> None:
        """End all; the event loop does not run any more."""
        with self._lock:
            self._closed = True
            paths, self._paths = self._paths, {}
            self._services.clear()
        for path, listener in paths.items():
            self._events.remove(listener.fileno())
            listener.close()
            try:
                os.unlink(path)
            except OSError:
                pass
        for bridge in list(self._bridges):
            bridge.close()
        for shell in list(self.shells):
            shell.close()

    # inside

    def gone(self) -> str | None:
        """Return why there will be no connection; None while there may be."""
        return not_running(self._machine)

    def _check_runs(self, port: int) -> None:
        reason = self.gone()
        if reason is not None:
            raise ConfigError(f"connect to port {port}: {reason}")

    def _check(self, what: str, port: int) -> None:
        if not 0 <= port < PORTS:
            raise ConfigError(f"{what} {port}: a port has 32 bits")
        if not self._machine.features.synic:
            raise ConfigError(f"{what}: the guest has no VMBus; -cpu needs hv_synic for it")

    def _serve(self, what: str, port: int, called: Callable[[], Bridge | None]) -> None:
        self._check(what, port)
        with self._lock:
            if port in self._services:
                raise ConfigError(f"{what} {port}: that port is served already")
            self._services[port] = called

    def forget(self, port: int, called: Callable[[], Bridge | None]) -> None:
        """Serve *port* no more, if it is *called* that does."""
        with self._lock:
            if self._services.get(port) == called:
                del self._services[port]

    def _called(self, port: int) -> Bridge | None:
        with self._lock:
            called = self._services.get(port)
        return None if called is None else called()

    def bridge(self, own: socket.socket, told: Callable[[bool], object]) -> Bridge:
        """Return a bridge to *own*, on the event loop."""
        made = Bridge(self._events, own, told, self._bridges.discard)
        self._bridges.add(made)
        return made

    def _try(
        self, port: int, seconds: float, deadline: float, cancelled: Callable[[], bool] | None
    ) -> socket.socket | None:
        """Call once; return the program's end, or None when *seconds* are over."""
        self._check_runs(port)
        own, theirs = socket.socketpair()
        settled, answers = threading.Event(), []

        def told(accepted: bool) -> None:
            answers.append(accepted)
            settled.set()

        begin = time.monotonic()
        self._machine.call(lambda: self._offer(port, own, told, seconds, deadline))
        end = max(deadline, begin + seconds) + 2 * RETRY_S  # the loop settles it before
        try:
            while not settled.wait(POLL_S):
                if self.gone() is not None:
                    if self._closed:  # no loop that would
                        own.close()
                    self._check_runs(port)
                if time.monotonic() > end or cancelled is not None and cancelled():
                    break
            if answers and answers[0]:
                result, theirs = theirs, None
                return result
            if seconds > 0 and time.monotonic() < begin + seconds / 2:
                time.sleep(POLL_S)  # refused at once: the guest's bus is not there yet
            return None
        finally:
            if theirs is not None:
                theirs.close()

    def _offer(
        self, port: int, own: socket.socket, told: Callable[[bool], object], seconds: float,
        deadline: float,
    ) -> Bridge:  # fmt: skip
        """Call once, on the event loop; *told* hears of it in *seconds* at the latest."""
        bridge = self.bridge(own, told)
        bus = None if self._closed else self._bus
        connection = None if bus is None else bus.connect(port, bridge)
        if connection is None:
            bridge.close()
        else:
            self._events.after(seconds, lambda: bridge.expire(connection, deadline))
        return bridge

    def _call(
        self, port: int, client: socket.socket, deadline: float, patience: float
    ) -> None:
        """Call for a client of :meth:`publish`, again and again; on the event loop."""

        def told(accepted: bool) -> None:
            if accepted or self._closed or time.monotonic() > deadline:
                client.close()  # the bridge has a descriptor of its own
            else:
                self._events.after(POLL_S, lambda: self._call(port, client, deadline, 2 * patience))

        self._offer(port, client.dup(), told, patience, deadline)
