"""Tiny guests from a few lines of assembly: a raw boot sector, or a 64-bit ELF kernel with an IDT.

Both start through ``Machine(kernel=...)``. Macros for both: ``exit N`` (status 2 * N + 1),
``power_off``, ``outb PORT, VALUE``. A guest leaves its findings in RAM at RESULTS; the host
reads them between ``wait`` and ``close``.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
import shutil
import subprocess
import tempfile

import pytest

RESULTS = 0x80000
ORIGIN = 0x7C00
KERNEL = 0x100000

MACROS = r"""
        .macro outb port, value
        mov $\value, %al
        mov $\port, %dx
        out %al, %dx
        .endm
        # the next byte that COM1 gets, in al; dx is the port then, for an answer
        .macro read_com1
        mov $0x3fd, %dx
.Lread_com1\@:
        in %dx, %al
        test $1, %al
        jz .Lread_com1\@
        mov $0x3f8, %dx
        in %dx, %al
        .endm
        .macro exit status
        outb 0xf4, \status
        .endm
        .macro wrmsr_of msr, low, high=0
        mov $\msr, %ecx
        mov $\low, %eax
        mov $\high, %edx
        wrmsr
        .endm
        .macro power_off
        mov $0x2000, %ax
        mov $0x604, %dx
        out %ax, %dx
        .endm
"""

SECTOR = r"""
        .code16
        .globl _start
_start: xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7c00, %sp
        cld
        jmp body
        .org 510
        .byte 0x55, 0xaa
body:
"""

#: Every exception is counted and skipped: RIP += the 64-bit word at ``skip``. Vectors from 0x20
#: on are counted and acknowledged. ``faults``, ``vector`` and ``interrupts`` tell the tale.
LONG = r"""
        .code64
        .globl _start
_start: mov $stack, %esp
        lgdt gdtr                                       # the loader's lies where pages may go
        lidt idtr
        cld
        jmp body
        .balign 8
gdt:    .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff      # 0x10 code, 0x18 data
        .quad 0x00affb000000ffff, 0x00cff3000000ffff            # 0x20 and 0x28: CPL 3
        .word tss_end - tss - 1, tss - _start, 0x8910, 0        # 0x30: the TSS, at 0x10....
        .quad 0
gdtr:   .word . - gdt - 1
        .quad gdt
tss:    .long 0
        .quad stack, 0, 0
        .quad 0, 0, 0, 0, 0, 0, 0, 0, 0
        .word 0, tss_end - tss
tss_end:
        .macro gate target
        .word \target - _start, 0x10, 0x8e00, 0x10      # offset, selector, attributes, offset
        .long 0, 0
        .endm
        .balign 16
idt:
        .set n, 0
        .rept 32
        gate (exception+8*n)
        .set n, n + 1
        .endr
        .rept 224
        gate interrupt
        .endr
idtr:   .word . - idt - 1
        .quad idt
        .balign 8
exception:                                              # 8 bytes a vector
        .set n, 0
        .rept 32
        push $n
        jmp caught
        .balign 8
        .set n, n + 1
        .endr
caught: cmpq $0, back
        je 2f
        jmp *back
2:      push %rax
        mov 8(%rsp), %rax
        mov %rax, vector
        incq faults
        mov $0x27d00, %rax                              # 8, 10-14 and 17 have an error code
        push %rcx
        mov vector, %ecx
        bt %rcx, %rax
        pop %rcx
        jc 1f
        mov skip, %rax
        add %rax, 16(%rsp)
        pop %rax
        add $8, %rsp
        iretq
1:      mov skip, %rax
        add %rax, 24(%rsp)
        pop %rax
        add $16, %rsp
        iretq
interrupt:
        incq interrupts
        push %rax
        mov $0xfee000b0, %eax
        movl $0, (%rax)
        pop %rax
        iretq
        .balign 8
faults: .quad 0
vector: .quad 0
skip:   .quad 2
interrupts: .quad 0
back:   .quad 0                                         # not 0: the next exception goes there
random: mov %r15, %rax                                  # xorshift64 of R15, to RAX
        shl $13, %rax
        xor %rax, %r15
        mov %r15, %rax
        shr $7, %rax
        xor %rax, %r15
        mov %r15, %rax
        shl $17, %rax
        xor %rax, %r15
        mov %r15, %rax
        ret
        .balign 16
        .skip 8192
stack:
body:
"""


@functools.cache
def _folder() -> pathlib.Path:
    """One folder for the whole run; removed with the interpreter."""
    _folder.keep = tempfile.TemporaryDirectory(prefix="pyhv-guests-")  # type: ignore[attr-defined]
    return pathlib.Path(_folder.keep.name)  # type: ignore[attr-defined]


def _build(source: str, word: str, *link: str) -> str:
    if not (shutil.which("as") and shutil.which("ld")):
        pytest.skip("GNU as and ld are not installed")
    name = hashlib.sha256((source + word).encode()).hexdigest()[:16]
    image = _folder() / name
    if not image.exists():
        object_file = image.with_suffix(".o")
        command = ["as", f"--{word}", "-o", str(object_file), "-"]
        subprocess.run(command, input=source.encode(), check=True)
        subprocess.run(
            ["ld", *link, "-N", "--no-warn-rwx-segments", "-o", str(image), str(object_file)],
            check=True,
        )
        object_file.unlink()
    return str(image)


@functools.cache
def sector(body: str) -> str:
    """Return the path of a boot sector file that runs *body* in real mode; no BIOS is there."""
    source = MACROS + SECTOR + body + "\n9999: hlt\n jmp 9999b\n"
    return _build(source, "32", "-m", "elf_i386", f"-Ttext={ORIGIN:#x}", "--oformat=binary")


@functools.cache
def flat(body: str) -> str:
    """Return the path of an ELF32 kernel that runs *body* in protected mode; it has no IDT."""
    source = MACROS + ".globl _start\n_start: mov $0x7c00, %esp\n" + body
    return _build(source, "32", "-m", "elf_i386", f"-Ttext={KERNEL:#x}")


@functools.cache
def kernel(body: str) -> str:
    """Return the path of an ELF64 kernel that runs *body* at CPL 0, 4 GiB mapped to themselves."""
    source = MACROS + LONG + body + "\n9999: hlt\n jmp 9999b\n"
    return _build(source, "64", "-m", "elf_x86_64", f"-Ttext={KERNEL:#x}")


#: 64-bit: leave ``faults`` and ``vector`` at RESULTS, end with status 3
REPORT = f"""
        mov faults, %rax
        mov %rax, {RESULTS}
        mov vector, %rax
        mov %rax, {RESULTS + 8}
        exit 1
"""

#: 64-bit: say that an OS is here, hypercall page at RBX; its instruction can be skipped
IDENTIFY = """
        wrmsr_of 0x40000000, 1                  # a guest OS id
        wrmsr_of 0x40000001, 0x900001           # the hypercall page
        mov $0x900000, %ebx
        mov $3, %eax                            # VMCALL is three bytes
        cmpb $0x0f, (%rbx)
        je 1f
        dec %eax                                # OUT is two
1:      mov %rax, skip
"""

#: 64-bit, in a ``kernel``: copy the second CPU's first code to TRAMPOLINE, send it INIT and SIPI
START_SECOND = """
        .set TRAMPOLINE, 0x1000
        mov $ap16, %esi
        mov $TRAMPOLINE, %edi
        mov $ap16_end - ap16, %ecx
        rep movsb
        mov $0xfee00300, %eax
        movl $0xc4500, (%rax)
        movl $0xc4600 | TRAMPOLINE >> 12, (%rax)
"""


def second_cpu(cr4: int) -> str:
    """Return that code: into long mode with the loader's page tables and *cr4*, on to ``ap64``."""
    return f"""
        .code16
ap16:   cli
        lgdtl %cs:ap_gdtr - ap16
        mov $0x9000, %eax
        mov %eax, %cr3
        mov ${cr4:#x}, %eax
        mov %eax, %cr4
        mov $0xc0000080, %ecx
        mov $0x100, %eax                        # LME
        xor %edx, %edx
        wrmsr
        mov $0x80000011, %eax                   # PG, ET, PE
        mov %eax, %cr0
        ljmpl $0x10, $ap64
        .balign 4
ap_gdtr: .word 0x3f
        .long gdt
ap16_end:
        .code64
"""


#: a ``sector``'s: resets once by the keyboard controller, which CMOS 0x40 outlives
RESET_ONCE = """
        outb 0x70, 0x40
        mov $0x71, %dx
        in %dx, %al
        cmp $0x5a, %al
        je 1f
        outb 0x71, 0x5a
        outb 0x64, 0xfe
1:
"""
