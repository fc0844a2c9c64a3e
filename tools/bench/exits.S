# A boot program that times exits by itself and prints what it saw on COM1.
# The same file runs under pyhv (-kernel), the C loop (loaded at 0x7c00) and
# QEMU (copied there by rom.S). guests.py adds one RUN per operation and FINISH.
# Flat 32-bit protected mode, so that MMIO and MSRs need no tricks. Under -icount
# the TSC counts instructions, all that the CPU executes: guest, kernel, VMM.
        .set    ROUNDS, 1000
        .set    CHUNKS, 7               # the first is the warm-up
        .set    RESULTS, 0x20000        # 32-bit TSC differences
        .code16
        .globl _start
_start: cli
        xor     %ax, %ax
        mov     %ax, %ds
        lgdt    gdt_pointer
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmp    $8, $flat
        .align  8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt
        .org    510
        .byte   0x55, 0xaa
        .code32
flat:   mov     $16, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7000, %esp
        movl    $RESULTS, place
        jmp     go
place:  .long   0

# CHUNKS times: time ROUNDS of \body. \setup leaves its registers in place for
# \body, which may change all but EDI and ESP.
        .macro  RUN setup:vararg
        movl    $CHUNKS, %edi
1:      push    %edi
        rdtsc
        push    %eax
        SETUP_\setup
        mov     $ROUNDS, %edi
2:      BODY_\setup
        dec     %edi
        jnz     2b
        rdtsc
        pop     %ecx
        sub     %ecx, %eax
        mov     place, %ebx
        mov     %eax, (%ebx)
        addl    $4, place
        pop     %edi
        dec     %edi
        jnz     1b
        .endm

# Print RESULTS as lines of hexadecimal numbers, one line per RUN; end the machine.
        .macro  FINISH
        mov     $0x3f8, %edx
        mov     $10, %al
        out     %al, %dx
        mov     $RESULTS, %esi
3:      cmp     place, %esi
        jae     9f
        mov     $CHUNKS, %edi
4:      mov     (%esi), %ebx
        add     $4, %esi
        mov     $8, %ecx
5:      rol     $4, %ebx
        mov     %bl, %al
        and     $15, %al
        add     $'0', %al
        cmp     $'9', %al
        jbe     6f
        add     $'a' - '0' - 10, %al
6:      out     %al, %dx
        loop    5b
        mov     $' ', %al
        out     %al, %dx
        dec     %edi
        jnz     4b
        mov     $10, %al
        out     %al, %dx
        jmp     3b
9:      mov     $0x10, %al
        out     %al, $0xf4              # debug exit
stop:   hlt
        jmp     stop
        .endm
go:
