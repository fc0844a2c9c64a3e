# From real mode through protected mode into long mode; one line on COM1 from each.
        .macro say text                 # 7 bytes to DX; the same instructions in all three modes
        mov $0x3f8, %dx
        mov $\text, %esi
        mov $7, %ecx
        rep outsb
        .endm
        .code16
        .globl _start
_start: cli
        xor %ax, %ax
        mov %ax, %ds
        say in16
        lgdtl %cs:gdtr
        mov %cr0, %eax
        or $1, %al                      # CR0.PE
        mov %eax, %cr0
        ljmp $0x08, $protected          # CS from the GDT: only now is it 32-bit code
        .code32
protected:
        mov $0x18, %eax
        mov %eax, %ds
        say in32
        movl $0x2003, 0x1000            # PML4E 0: a PDPT at 2000h, present, writable
        movl $0x3003, 0x2000            # PDPTE 0: a PD at 3000h
        movl $0x0083, 0x3000            # PDE 0: a page of 2 MiB at 0
        mov $0x1000, %eax
        mov %eax, %cr3
        .ifndef NO_PAE
        mov %cr4, %eax
        or $0x20, %eax                  # CR4.PAE
        mov %eax, %cr4
        .endif
        mov $0xc0000080, %ecx           # EFER
        xor %edx, %edx
        mov $0x100, %eax                # LME
        wrmsr
        mov %cr0, %eax
        bts $31, %eax                   # CR0.PG: long mode begins, in 32-bit code still
        mov %eax, %cr0
        ljmp $0x10, $long
        .code64
long:   say in64
        mov $0x604, %edx                # off
        mov $0x2000, %eax
        out %ax, %dx
        .balign 8
gdt:    .quad 0
        .quad 0x00cf9b000000ffff        # 08: code, 32-bit, 4 GiB
        .quad 0x00af9b000000ffff        # 10: code, 64-bit
        .quad 0x00cf93000000ffff        # 18: data, 4 GiB
gdtr:   .word . - gdt - 1
        .long gdt
in16:   .ascii "16-bit\n"
in32:   .ascii "32-bit\n"
in64:   .ascii "64-bit\n"
        .org 510
        .byte 0x55, 0xaa
