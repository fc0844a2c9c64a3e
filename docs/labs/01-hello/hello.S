# A boot sector for -kernel: the CPU is in real mode at 0:7C00, and there is no BIOS.
        .code16
        .globl _start
_start: xor %ax, %ax
        mov %ax, %ds
        cld
        mov $text, %si
        mov $0x3f8, %dx                 # COM1, a 16550A; what goes to its data port is sent
next:   lodsb                           # AL = [DS:SI], SI += 1
        test %al, %al
        jz off
        out %al, %dx
        jmp next
off:    mov $0x604, %dx                 # ACPI's PM1 control register
        mov $0x2000, %ax                # SLP_EN, and S5's number
        out %ax, %dx
stop:   hlt
        jmp stop
text:   .asciz "hello, serial port\n"
        .org 510                        # what makes 512 bytes a boot sector
        .byte 0x55, 0xaa
