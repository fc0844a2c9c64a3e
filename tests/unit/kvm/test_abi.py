"""Every number, size and offset of pyhv.kvm against what the C compiler makes of linux/kvm.h."""

from __future__ import annotations

import csv
import ctypes
import pathlib

import pytest

from pyhv.abi import abi
from pyhv.kvm import requests, uapi
from pyhv.kvm.ioctl import Ioctl

BASELINE = pathlib.Path(__file__).parents[2] / "baseline" / "kvm_abi.csv"
STRUCTS = {
    value.__name__: value
    for value in vars(uapi).values()
    if isinstance(value, type) and issubclass(value, ctypes.Structure)
}
IOCTLS = {value.name: value for value in vars(requests).values() if isinstance(value, Ioctl)}
RUN = {
    "exit_reason": uapi.RUN_EXIT_REASON,
    "immediate_exit": uapi.RUN_IMMEDIATE_EXIT,
    "apic_base": uapi.RUN_APIC_BASE,
    "io": uapi.RUN_UNION,
    "debug.arch.exception": 32,  # gdb: m32[8]
    "debug.arch.pc": 40,  # m64[5]
    "debug.arch.dr6": 48,  # m64[6]
    "msr.error": 32,  # from here on: runloop
    "msr.index": 44,
    "msr.data": 48,
    "mmio.phys_addr": 32,
    "mmio.data": 40,
    "mmio.len": 48,
    "mmio.is_write": 52,
    "io.count": 36,
    "kvm_valid_regs": uapi.RUN_KVM_VALID_REGS,
    "kvm_dirty_regs": uapi.RUN_KVM_DIRTY_REGS,
    "s": uapi.RUN_SYNC_REGS,
}


def rows() -> list[tuple[str, str, int]]:
    lines = [line for line in BASELINE.read_text().splitlines() if not line.startswith("#")]
    return [(row["kind"], row["name"], int(row["value"])) for row in csv.DictReader(lines)]


@pytest.mark.parametrize(("kind", "name", "value"), rows(), ids=lambda item: str(item))
def test_baseline(kind: str, name: str, value: int) -> None:
    ours = {
        "number": lambda: getattr(uapi, name),
        "size": lambda: ctypes.sizeof(STRUCTS[name]),
        "offset": lambda: getattr(STRUCTS[name.partition(".")[0]], name.partition(".")[2]).offset,
        "ioctl": lambda: IOCTLS[name].number,
        "run": lambda: RUN[name],
    }[kind]()
    assert ours == value


def test_every_ioctl_is_in_the_baseline() -> None:
    assert {name for kind, name, _ in rows() if kind == "ioctl"} == set(IOCTLS)


def test_wrong_size_is_refused_at_import() -> None:
    with pytest.raises(TypeError, match="4 bytes, the ABI says 8"):
        abi(8)(type("wrong", (ctypes.Structure,), {"_fields_": [("a", ctypes.c_uint32)]}))
