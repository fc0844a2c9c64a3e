"""Boot sectors for tests, from a few lines of assembly."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

#: Segments and stack as a boot sector likes them; print, hex and power_off as functions.
FRAME = r"""
        .code16
        .globl _start
_start: xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7c00, %sp
        sti
        cld
        {body}
power_off:
        mov $0x604, %dx
        mov $0x2000, %ax
        out %ax, %dx
1:      hlt
        jmp 1b
print:  mov $0x0e, %ah                  # AL
        mov $7, %bx
        int $0x10
        ret
hex:    mov $4, %cx                     # AX as four digits; changes CX, DX, BX
        mov %ax, %dx
1:      rol $4, %dx
        mov %dl, %al
        and $15, %al
        add $'0', %al
        cmp $'9', %al
        jbe 2f
        add $7, %al
2:      push %dx
        call print
        pop %dx
        loop 1b
        ret
ok:     mov $'+', %al                   # '+' or '-' by CF
        jnc 1f
        mov $'-', %al
1:      jmp print
        .org 510
        .byte 0x55, 0xaa
"""


def assemble(folder: pathlib.Path, body: str, sectors: int = 4) -> str:
    """Return the path of a disk of *sectors* whose first holds *body* in the frame above."""
    if not (shutil.which("as") and shutil.which("ld")):
        pytest.skip("GNU as and ld are not installed")
    source, object_file, image = (folder / name for name in ("a.S", "a.o", "a.img"))
    source.write_text(FRAME.format(body=body))
    subprocess.run(["as", "--32", "-o", object_file, source], check=True)
    link = ["ld", "-m", "elf_i386", "-N", "-Ttext=0x7c00", "--oformat=binary"]
    subprocess.run([*link, "-o", image, object_file], check=True)
    data = image.read_bytes()
    assert len(data) == 512
    image.write_bytes(data + b"".join(bytes((n,)) * 512 for n in range(1, sectors)))
    return str(image)
