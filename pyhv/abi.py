"""A C struct of the kernel's ABI is a ctypes.Structure whose size is checked when it is made."""

from __future__ import annotations

import ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

u8, u16, u32, u64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64
s32, s64 = ctypes.c_int32, ctypes.c_int64


def abi(size: int) -> Callable[[type], type]:
    """Refuse a structure whose sizeof is not what the C header says (*size*, bytes)."""

    def check(cls: type) -> type:
        if ctypes.sizeof(cls) != size:  # type: ignore[arg-type]
            raise TypeError(f"{cls.__name__}: {ctypes.sizeof(cls)} bytes, the ABI says {size}")  # type: ignore[arg-type]
        return cls

    return check
