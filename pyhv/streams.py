"""``vm.vsock``, made when first asked for: a machine without streams imports nothing of it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from .vsock.sockets import Sockets


class Streams:
    """The part of Machine that has streams to the guest."""

    call: Callable[[Callable[[], None]], None]
    sockets: Sockets | None = None
    _board_lock: threading.Lock

    @property
    def vsock(self) -> Sockets:
        """Streams to and from the guest over hv_sock, see :class:`~pyhv.vsock.sockets.Sockets`.

        Listen before :meth:`start` if the guest is to find the port from the beginning.
        """
        with self._board_lock:
            found = self.sockets
            if found is None:
                from .vsock.sockets import Sockets

                found = self.sockets = Sockets(self)
                made = True
            else:
                made = False
        if made:
            self.call(found.attach_now)
        return found
