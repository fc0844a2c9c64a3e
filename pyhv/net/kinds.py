"""Which backend a network card's configuration means; each is imported only when it is used."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .backend import Backend
    from .config import Nic


def _user(nic: Nic) -> Backend:
    from .passt import User

    return User(nic.forwards)


def _tap(nic: Nic) -> Backend:
    from .tap import Tap

    return Tap(nic.ifname)


def _socket(nic: Nic) -> Backend:
    from .socketpath import SocketPath

    return SocketPath(nic.path, nic.server)


def _none(nic: Nic) -> Backend:
    from .backend import Backend

    return Backend()


KINDS = {"user": _user, "tap": _tap, "socket": _socket, "none": _none}


def backend(nic: Nic) -> Backend:
    """Return the backend of *nic*, not open yet."""
    return KINDS[nic.kind](nic)
