"""Write tests/baseline/kvm_abi.csv: what this machine's linux/kvm.h says of every number we use.

    python3 tools/abi_baseline.py > tests/baseline/kvm_abi.csv

The C compiler is the judge: hand-typed ioctl numbers are wrong in most Python KVM bindings.
"""

from __future__ import annotations

import ctypes
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from pyhv.kvm import requests, uapi
from pyhv.kvm.ioctl import Ioctl

RUN_OFFSETS = ("exit_reason", "immediate_exit", "apic_base", "io",
               "debug.arch.exception", "debug.arch.pc", "debug.arch.dr6",
               "msr.error", "msr.index", "msr.data",
               "mmio.phys_addr", "mmio.data", "mmio.len", "mmio.is_write", "io.count",
               "kvm_valid_regs", "kvm_dirty_regs", "s")  # fmt: skip
NOT_IN_HEADER = {"KVM_PIO_PAGE_OFFSET", "MSR_KVM_PV_EOI_EN", "KVM_EXIT_IO_OUT"}


def main() -> None:
    """Compile a probe and print its rows: kind,name,value."""
    lines = []
    for name, value in sorted(vars(uapi).items()):
        if isinstance(value, int) and name.startswith("KVM_") and name not in NOT_IN_HEADER:
            lines.append(f'printf("number,{name},%ld\\n", (long)({name}));')
        elif isinstance(value, type) and issubclass(value, ctypes.Structure):
            lines.append(
                f'printf("size,{value.__name__},%zu\\n", sizeof(struct {value.__name__}));'
            )
            lines += [
                f'printf("offset,{value.__name__}.{field[0]},%zu\\n", '
                f"offsetof(struct {value.__name__}, {c_name(value.__name__, field[0])}));"
                for field in value._fields_
                if not field[0].startswith(("pad", "reserved"))
            ]
    for request in vars(requests).values():
        if isinstance(request, Ioctl):
            lines.append(f'printf("ioctl,{request.name},%lu\\n", (unsigned long){request.name});')
    lines += [
        f'printf("run,{name},%zu\\n", offsetof(struct kvm_run, {name}));' for name in RUN_OFFSETS
    ]
    headers = ("linux/kvm.h", "asm/kvm_para.h", "stdio.h", "stddef.h")
    program = "".join(f"#include <{header}>\n" for header in headers)
    program += "int main(void) {" + "\n".join(lines) + "return 0; }\n"
    with tempfile.TemporaryDirectory() as folder:
        source, binary = pathlib.Path(folder, "p.c"), pathlib.Path(folder, "p")
        source.write_text(program)
        subprocess.run(["cc", "-o", binary, source], check=True)
        rows = subprocess.run([binary], check=True, capture_output=True, text=True).stdout
    print("# origin: linux/kvm.h of Debian's linux-libc-dev, compiled by tools/abi_baseline.py")
    print("kind,name,value")
    print(rows, end="")


#: fields that lie in a nested struct of the header, by our flat name
C_NAMES = {
    ("kvm_vcpu_events", ours): theirs
    for ours, theirs in {
        "exception_injected": "exception.injected", "exception_nr": "exception.nr",
        "exception_has_error_code": "exception.has_error_code",
        "exception_pending": "exception.pending", "exception_error_code": "exception.error_code",
        "interrupt_injected": "interrupt.injected", "interrupt_nr": "interrupt.nr",
        "interrupt_soft": "interrupt.soft", "interrupt_shadow": "interrupt.shadow",
        "nmi_injected": "nmi.injected", "nmi_pending": "nmi.pending", "nmi_masked": "nmi.masked",
        "nmi_pad": "nmi.pad", "triple_fault_pending": "triple_fault.pending",
    }.items()
} | {("kvm_guest_debug", "debugreg"): "arch.debugreg"}  # fmt: skip


def c_name(struct: str, field: str) -> str:
    """Return the header's name of a field."""
    return C_NAMES.get((struct, field), field)


if __name__ == "__main__":
    main()
