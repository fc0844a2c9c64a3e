# A 64 KiB BIOS that copies the boot program at its start to 0x7c00 and jumps there.
        .code16
        .globl _start
_start: .incbin "program.bin"
        .org    0xffc0
copy:   mov     %cs, %ax                # F000
        mov     %ax, %ds
        xor     %si, %si
        xor     %ax, %ax
        mov     %ax, %es
        mov     $0x7c00, %di
        mov     $2048, %cx
        cld
        rep     movsw
        ljmp    $0, $0x7c00
        .org    0xfff0                  # where a reset begins
        ljmp    $0xf000, $copy
        .org    0x10000
