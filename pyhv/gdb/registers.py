"""The registers as gdb numbers them: the target description, and each one's place in a vCPU.

GDB manual, appendix G.5.17 (i386 features); control registers are a feature of ours.
"""

from __future__ import annotations

from ..cpustate import change, snapshot
from ..kvm import requests, uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..kvm.vcpu import Vcpu

GENERAL = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")
FPU = ("fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop")
CONTROL = ("cr0", "cr2", "cr3", "cr4", "efer")
XMM = tuple(f"xmm{n}" for n in range(16))

#: name of a feature -> rows (register, bits, gdb's type)
FEATURES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "org.gnu.gdb.i386.core": (
        *((name, 64, "data_ptr" if name in ("rbp", "rsp") else "int64") for name in GENERAL),
        ("rip", 64, "code_ptr"), ("eflags", 32, "int32"),
        *((name, 32, "int32") for name in SEGMENTS),
        *((f"st{n}", 80, "i387_ext") for n in range(8)),
        *((name, 32, "int32") for name in FPU),
    ),
    "org.gnu.gdb.i386.sse": (
        *((name, 128, "uint128") for name in XMM), ("mxcsr", 32, "int32"),
    ),
    "org.gnu.gdb.i386.segments": (("fs_base", 64, "int64"), ("gs_base", 64, "int64")),
    "pyhv.control": tuple((name, 64, "int64") for name in CONTROL),
}  # fmt: skip
ROWS = tuple(row for rows in FEATURES.values() for row in rows)
#: gdb's name -> ours in cpustate.snapshot, where they differ
OURS = {"eflags": "rflags", "fs_base": "fs.base", "gs_base": "gs.base"}


def target_xml() -> bytes:
    """Return the target description, target.xml."""
    lines = ['<?xml version="1.0"?>', '<!DOCTYPE target SYSTEM "gdb-target.dtd">', "<target>"]
    lines.append("<architecture>i386:x86-64</architecture>")
    number = 0
    for feature, rows in FEATURES.items():
        lines.append(f'<feature name="{feature}">')
        for name, bits, kind in rows:
            lines.append(f'<reg name="{name}" bitsize="{bits}" type="{kind}" regnum="{number}"/>')
            number += 1
        lines.append("</feature>")
    return "\n".join([*lines, "</target>", ""]).encode()


def read_all(vcpu: Vcpu) -> list[bytes]:
    """Return every register's bytes, in the order of ROWS; the vCPU is outside the guest."""
    values = snapshot(vcpu)
    fpu = vcpu.get_struct(requests.GET_FPU, uapi.Fpu)
    floats = _floats(fpu)
    found = []
    for name, bits, _ in ROWS:
        raw = floats.get(name)
        if raw is None:
            value = values[OURS.get(name, name)] & (1 << bits) - 1
            raw = value.to_bytes(bits // 8, "little")
        found.append(raw)
    return found


def _floats(fpu: object) -> dict[str, bytes]:
    fpr, xmm = bytes(fpu.fpr), bytes(fpu.xmm)
    found = {f"st{n}": fpr[n * 16 : n * 16 + 10] for n in range(8)}
    found |= {name: xmm[n * 16 : n * 16 + 16] for n, name in enumerate(XMM)}
    tag = sum(0 if fpu.ftwx >> n & 1 else 3 << 2 * n for n in range(8))  # abridged: 1 is "used"
    words = (fpu.fcw, fpu.fsw, tag, 0, fpu.last_ip, 0, fpu.last_dp, fpu.last_opcode)
    found |= {
        name: (value & 0xFFFFFFFF).to_bytes(4, "little")
        for name, value in zip(FPU, words, strict=True)
    }
    return found | {"mxcsr": fpu.mxcsr.to_bytes(4, "little")}


def write(vcpu: Vcpu, number: int, data: bytes) -> bool:
    """Change register *number*; False for one that cannot be changed (x87, SSE), or a wrong size.

    :raises KvmError: KVM refuses the value.
    """
    if not 0 <= number < len(ROWS):
        return False
    name, bits, _ = ROWS[number]
    if len(data) != bits // 8 or bits > 64 or name in FPU or name == "mxcsr":
        return False
    change(vcpu, {OURS.get(name, name): int.from_bytes(data, "little")})
    return True
