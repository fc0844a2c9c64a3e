# The boot sector, and the way from real mode through protected mode to long mode.
        .globl boot, signature
        .code16
boot:   cli
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $STACK, %sp
        sti
        cld
        mov %dl, drive
        mov $hello, %bp
        mov $hello_end - hello, %cx
        call bios_print
        mov $0x41, %ah                  # EDD?
        mov $0x55aa, %bx
        mov drive, %dl
        int $0x13
        jc failed
        cmp $0xaa55, %bx
        jne failed
        mov $0x42, %ah
        mov $packet, %si
        mov drive, %dl
        int $0x13
        jc failed
        jmp loaded
failed: mov $sorry, %bp
        mov $sorry_end - sorry, %cx
        call bios_print
        int $0x18                       # no bootable device
bios_print:                             # CX characters at ES:BP, where the cursor stands
        push %cx
        mov $0x03, %ah
        xor %bh, %bh
        int $0x10                       # DX = cursor; CX is its shape
        pop %cx
        mov $0x1301, %ax
        mov $0x0007, %bx
        int $0x10
        ret

        .balign 4
packet: .byte 16, 0                     # disk address packet
        .word SECTORS - 1, second, 0
        .quad 1
drive:  .byte 0
hello:  .ascii "pyhv demo disk, loaded by INT 13h\r\n"
hello_end:
sorry:  .ascii "cannot read the rest of the disk\r\n"
sorry_end:
        .org boot + 510
signature:
        .byte 0x55, 0xaa

second:                                 # where sector 1 lies
loaded: mov $0xe801, %ax                # memory: CX KiB from 1 MiB on, DX times 64 KiB from 16 on
        xor %cx, %cx
        xor %dx, %dx
        int $0x15
        movzwl %cx, %eax
        shr $10, %eax
        movzwl %dx, %edx
        shr $4, %edx
        lea 1(%eax, %edx), %eax
        mov %eax, memory_mib
        cli
        lgdtl gdt_register
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmp $CODE32, $protected

        .code32
protected:
        mov $DATA, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $PML4, %edi                 # all our pages start empty
        xor %eax, %eax
        mov $(WORK_END - PML4) / 4, %ecx
        rep stosl
        # 2 MiB pages: the first, where we are, and the one with the local APIC at 0xfee00000
        movl $PDPT + 7, PML4           # 7: for CPL 3 too
        movl $PD_LOW + 7, PDPT
        movl $PD_HIGH + 3, PDPT + 3 * 8
        movl $0x87, PD_LOW
        movl $0xfee00000 + 0x9b, PD_HIGH + 0x1f7 * 8    # uncached; 0xfee00000 >> 21 & 511
        mov $0x20, %eax                 # CR4.PAE
        mov %eax, %cr4
        mov $PML4, %eax
        mov %eax, %cr3
        mov $0xc0000080, %ecx           # EFER.LME
        rdmsr
        or $0x100, %eax
        wrmsr
        mov $0x80000011, %eax           # CR0: paging, protection
        mov %eax, %cr0
        ljmp $CODE64, $long_mode

        .balign 8
gdt:    .quad 0
        .quad 0x00cf9b000000ffff        # code, 32-bit
        .quad 0x00cf93000000ffff        # data
        .quad 0x00af9b000000ffff        # code, 64-bit
        .quad 0x00cff3000000ffff        # CPL 3: data
        .quad 0x00affb000000ffff        # code, 64-bit
gdt_tss:
        .quad 0, 0                      # see user.S
gdt_register:
        .word . - gdt - 1
        .long gdt
memory_mib: .long 0

        .code64
long_mode:
        xor %eax, %eax
        mov %eax, %fs
        mov %eax, %gs
        mov $STACK, %esp
        call print_start
        call interrupts_start
        say "pyhv demo guest: long mode, disk 0x"
        movzbl drive, %eax
        mov $2, %ecx
        call hex
        say ", "
        mov memory_mib, %eax
        call decimal
        say " MiB of memory"
        call line
        call detect
        test %eax, %eax
        jz 1f
        call show_identity
        call show_hypercall
        call show_clock
        call show_timers
1:      say "powering off (ACPI S5)"
        call line
power_off:
        mov $PM1_CONTROL, %edx
        mov $SLP_EN, %eax
        out %ax, %dx
1:      cli
        hlt
        jmp 1b
