# The trapping BIOS: almost every interrupt vector leads to an OUT that asks the host for the
# service, so the services are Python (pyhv/boot/bios*.py) and only interrupts are code here.
#
# 64 KiB at f000:0000. The fixed addresses are also in pyhv/boot/bios_layout.py; build.py compares.
        .set TRAP_PORT, 0xec
        .set PIC1, 0x20
        .set PIC2, 0xa0
        .set EOI, 0x20
        .set READ_ISR, 0x0b
        .set BDA_TICKS, 0x6c            # of segment 0x40
        .set BDA_MIDNIGHT, 0x70
        .set TICKS_PER_DAY, 0x1800b0

        .code16
        .text
        .globl trap_table, extra_table, key_wait, pause, halt, irq0, irq_master, irq_slave
        .globl reset, post_done, config_table, diskette_table, dummy_iret, reset_vector

# One entry for each vector, 4 bytes, then those that are no interrupt. The host takes the vector
# from IP; whether that is still at the OUT or already behind it depends on the KVM.
        .org 0xe000
trap_table:
        .rept 256
        out %al, $TRAP_PORT
        iret
        nop
        .endr
extra_table:                            # 0x100: a wait goes on; 0x101: reset
        .rept 2
        out %al, $TRAP_PORT
        iret
        nop
        .endr

# Where the host sends a guest that has to wait: it comes back with the registers it called with.
        .org 0xe500
key_wait:                               # until an interrupt, then INT 16h again
        sti
        hlt
        jmp trap_table + 4 * 0x16
        .org 0xe510
pause:                                  # interrupts may come in between, then the host looks again
        sti
        nop
        jmp extra_table
        .org 0xe520
halt:                                   # the machine has been told to stop
        cli
        hlt
        jmp halt

        .org 0xe530
irq0:   push %ds
        push %ax
        mov $0x40, %ax
        mov %ax, %ds
        incl BDA_TICKS
        cmpl $TICKS_PER_DAY, BDA_TICKS
        jb 1f
        movl $0, BDA_TICKS
        movb $1, BDA_MIDNIGHT
1:      int $0x1c
        mov $EOI, %al
        out %al, $PIC1
        pop %ax
        pop %ds
        iret

# IRQ 1-7, 16 bytes each. Their vectors are exceptions' too (0x0d is #GP): when the 8259 has
# nothing in service it was no interrupt, and the host gets to know of it.
        .org 0xe570
irq_master:
        vector = 9
        .rept 7
        .balign 16
        push %ax
        mov $READ_ISR, %al
        out %al, $PIC1
        in $PIC1, %al
        test %al, %al
        jnz eoi1
        pop %ax
        jmp trap_table + 4 * vector
        vector = vector + 1
        .endr
        .org 0xe5e0
irq_slave:                              # IRQ 8-15
        push %ax
        mov $EOI, %al
        out %al, $PIC2
eoi1:   mov $EOI, %al
        out %al, $PIC1
        pop %ax
        iret

# A jump to ffff:0000 comes here; the host writes the vectors and the BIOS data area anew. A fresh
# machine starts at post_done: the host has done that already.
        .org 0xe600
reset:  cli
        xor %ax, %ax
        mov %ax, %ss
        mov $0x7c00, %sp
        pushf
        push %cs
        push $post_done
        jmp extra_table + 4
        .org 0xe620
post_done:
        cld
        mov $0x11, %al                  # ICW1: edge, cascade, ICW4 follows
        out %al, $PIC1
        out %al, $PIC2
        mov $0x08, %al                  # ICW2: vectors 08.. and 70..
        out %al, $PIC1 + 1
        mov $0x70, %al
        out %al, $PIC2 + 1
        mov $0x04, %al                  # ICW3: slave at IRQ 2
        out %al, $PIC1 + 1
        mov $0x02, %al
        out %al, $PIC2 + 1
        mov $0x01, %al                  # ICW4: 8086
        out %al, $PIC1 + 1
        out %al, $PIC2 + 1
        mov $0xf8, %al                  # IRQ 0, 1, 2 open
        out %al, $PIC1 + 1
        mov $0xff, %al
        out %al, $PIC2 + 1
        mov $0x36, %al                  # PIT channel 0: square wave, 65536 -> 18.2 Hz
        out %al, $0x43
        xor %al, %al
        out %al, $0x40
        out %al, $0x40
        sti
        int $0x19
        jmp halt                        # INT 19h does not return

# Tables at the addresses they have had since the IBM AT.
        .org 0xe6f5
config_table:                           # INT 15h AH=C0h
        .word 8
        .byte 0xfc, 0x00, 0x01          # model AT, submodel, BIOS revision
        .byte 0x74                      # second 8259, RTC, INT 9 calls 15h/4Fh, EBDA
        .byte 0x40                      # INT 16h AH=09h
        .byte 0, 0, 0

        .org 0xefc7
diskette_table:                         # INT 1Eh: 1.44 MB; boot sectors of DOS copy it
        .byte 0xdf, 0x02, 0x25, 0x02, 18, 0x1b, 0xff, 0x6c, 0xf6, 0x0f, 0x08

        .org 0xff53
dummy_iret:
        iret

        .org 0xfff0
reset_vector:
        ljmp $0xf000, $reset
        .ascii "11/26/26"               # BIOS date
        .org 0xfffe
        .byte 0xfc                      # model AT
        .org 0x10000
