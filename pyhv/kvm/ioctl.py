"""The one place that calls ioctl(2): a request knows its name, its number and what its errnos mean.

Not ``fcntl.ioctl`` for KVM_RUN on CPython 3.14 and later: there it retries EINTR
by itself, and EINTR is how KVM_RUN says "another thread kicked you" (cpython
gh-132742; measured). Before 3.14 its two-argument form is the cheapest call that
releases the GIL, so the run loop takes what :func:`run_call` chooses.
"""

from __future__ import annotations

import ctypes
import fcntl
import sys

from ..errors import KvmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

KVMIO = 0xAE
KVM_RUN = KVMIO << 8 | 0x80

_ioctl = ctypes.CDLL(None, use_errno=True).ioctl
_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


_arrays: dict[tuple[type, int], type] = {}


def array(item: type, count: int) -> Any:
    """Return the type ``item * count``, always the same: a new one costs 20 us and garbage."""
    found = _arrays.get((item, count))
    if found is None:
        found = _arrays[item, count] = item * count  # type: ignore[operator]
    return found


class Ioctl:
    """One request. Call it with a descriptor and an argument; an error is a KvmError.

    :param arg: the struct it takes (its sizeof is part of the number), or a size in bytes for
        requests whose header is followed by an array, or None.
    :param direction: "w" the kernel reads it, "r" the kernel writes it, "rw" both.
    """

    __slots__ = ("hints", "name", "number")

    def __init__(
        self,
        name: str,
        nr: int,
        arg: Any = None,
        direction: str = "",
        hints: dict[int, str] | None = None,
    ) -> None:
        size = arg if isinstance(arg, int) else ctypes.sizeof(arg) if arg else 0
        way = ("w" in direction) | ("r" in direction) << 1
        self.number = way << 30 | size << 16 | KVMIO << 8 | nr
        self.name, self.hints = name, hints or {}

    def __call__(self, fd: int, arg: Any = 0, what: str = "") -> int:
        """Return what ioctl(2) returns (>= 0). *what* goes into the error text."""
        result = self.raw(fd, arg)
        if result < 0:
            raise KvmError(f"{self.name}({what})", -result, self.hints.get(-result, ""))
        return result

    def raw(self, fd: int, arg: Any = 0) -> int:
        """Return the result, or minus errno."""
        pointer = arg if isinstance(arg, int) else ctypes.addressof(arg)
        result: int = _ioctl(fd, self.number, pointer)
        return result if result >= 0 else -ctypes.get_errno()


def run_call() -> Callable[[int, int], object]:
    """Return ``call(fd, KVM_RUN)``, which raises InterruptedError when the vCPU was kicked."""
    if sys.version_info < (3, 14):
        return fcntl.ioctl
    plain = ctypes.CDLL(None, use_errno=True).ioctl
    errno = ctypes.get_errno

    def call(fd: int, request: int) -> None:
        if plain(fd, request, 0) < 0:
            code = errno()
            raise OSError(code, "KVM_RUN")  # OSError(EINTR) is an InterruptedError

    return call
