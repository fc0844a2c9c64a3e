# The guest of the differential suite: does the operations that the host put at OPS, and writes what
# it saw to LOG. Loaded as an ELF kernel, entered in long mode with 4 GiB mapped to themselves.
#
# An operation is 32 bytes: number (u32; bit 31: forget what it saw, bit 30: on the second VP), a (u32),
# b, c, d (u64); RBP points to it. R15 is where its record goes, RBX the VP's list of interrupts.
# Interrupts are taken in op_irq and op_hlt only. The numbers are the rows of `table`; operations.py has them.

        .globl OPS, LOG, STUB, EOI, SLOT, KHZ, XMM, X2APIC
        .set OPS, 0x400000
        .set LOG, 0x800000
        .set EXIT_PORT, 0xf4
        .set HOST_PORT, 0x5150
        .set PAGE_TABLES, 0x9000        # pyhv/boot/entry.py, and nobody's promise: checked by CPL 3
        .set APIC, 0xfee00000
        .set AP_CODE, 0x8000
        .set CODE, 8
        .set DATA, 0x10
        .set CODE32, 0x18
        .set USER_DATA, 0x23
        .set USER_CODE, 0x2b
        .set TSS, 0x30
        .set USER_BACK, 0x80            # INT of the CPL 3 code
        .set LISTED, 1000               # interrupts a VP's list holds

        .text
        .code64
        .globl _start
_start: cli
        cld
        mov $stack, %esp
        mov $PAGE_TABLES, %edi          # CPL 3 may go everywhere
        mov $(6 * 512), %ecx
1:      testb $1, (%rdi)
        jz 2f
        orb $4, (%rdi)
2:      add $8, %edi
        dec %ecx
        jnz 1b
        mov $idt, %edi
        mov $stubs, %esi
        mov $256, %ecx
3:      mov %si, (%rdi)
        movw $CODE, 2(%rdi)
        movw $0x8e00, 4(%rdi)
        mov %esi, %eax
        shr $16, %eax
        mov %ax, 6(%rdi)
        add $16, %edi
        add $16, %esi
        dec %ecx
        jnz 3b
        movw $0xee00, idt + 16 * USER_BACK + 4
        mov $tss, %eax
        mov %ax, tss_descriptor + 2
        shr $16, %eax
        mov %al, tss_descriptor + 4
        call set_up
        mov $TSS, %eax
        ltr %ax
        mov $0xff, %al                  # no PIC
        out %al, $0x21
        out %al, $0xa1
        mov $cpus, %ebx
        mov $OPS, %ebp
        mov $(LOG + 8), %r15d
next:   mov (%rbp), %eax
        push %r15
        push %rax
        btr $31, %eax
        btr $30, %eax
        jc 1f
        call *table(, %rax, 8)
        jmp 2f
1:      call remote
2:      pop %rcx
        pop %rax
        btr $31, %ecx
        cmovc %rax, %r15
        mov %r15, LOG
        add $32, %ebp
        jmp next

set_up: pop %rcx
        mov $PAGE_TABLES, %eax
        mov %rax, %cr3
        mov $0x6a0, %eax                # PAE, PGE, OSFXSR, OSXMMEXCPT
        mov %rax, %cr4
        mov $0x80010033, %eax
        mov %rax, %cr0
        lgdt gdtr
        lidt idtr
        push $CODE
        push $1f
        lretq
1:      mov $DATA, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $(APIC + 0xf0), %eax        # the APIC takes interrupts
        movl $0x1ff, (%rax)
        jmp *%rcx

# Exceptions: an operation that may fault names where it goes on

        .macro may_fault target
        movl $-1, fault
        movl $\target, resume
        mov %rsp, resume_rsp
        .endm
        .align 16
stubs:  vector = 0
        .rept 256
        .align 16
        .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21)
        .else
        push $0
        .endif
        push $vector
        .if vector < 16 || vector == 17 || vector == 18
        jmp trap
        .elseif vector == USER_BACK
        jmp user_back
        .else
        jmp interrupt
        .endif
        vector = vector + 1
        .endr
        .align 16
trap:   pop %rax
        mov %eax, fault
        pop %rax                        # error code; then the frame
        mov resume, %eax
        test %eax, %eax
        jz panic
go_on:  movl $0, resume
        mov $DATA, %ecx
        mov %ecx, %ds
        mov %ecx, %es
        mov %ecx, %ss
        mov resume_rsp, %rsp
        jmp *%rax
user_back: mov %rax, word0
        mov resume, %eax
        jmp go_on
panic:  mov (%rsp), %rax                # RIP
        mov %rax, 8(%r15)
        movl $0x7fffffff, (%r15)
        add $16, %r15
        mov %r15, LOG
        mov fault, %eax
        or $0x40, %eax
quit:   mov $EXIT_PORT, %edx
        out %eax, %dx
1:      hlt
        jmp 1b

        .align 16
interrupt: push %rax
        push %rcx
        push %rdx
        push %rbx
        mov $0x20, %eax
        call read_apic
        mov %eax, %ebx
        cmpl $0, X2APIC
        jne 8f
        shr $24, %ebx
8:      shl $12, %ebx
        add $cpus, %ebx
        mov 32(%rsp), %ecx              # vector
        cmpl $3, EOI
        je 1f
        mov %ecx, %eax
        shr $5, %eax
        shl $4, %eax
        add $0x100, %eax
        call read_apic
        bt %ecx, %eax
        jnc 1f
        or $0x100, %ecx                 # in service
1:      mov (%rbx), %eax
        cmp $LISTED, %eax
        jae 2f
        mov %ecx, 16(%rbx, %rax, 4)
        incl (%rbx)
2:      mov SLOT, %eax                  # empty the slot, as the TLFS wants it
        test %eax, %eax
        jz 3f
        push %rcx
        movl $0, (%rax)
        mfence
        testb $1, 5(%rax)
        jz 4f
        mov $0x40000084, %ecx
        xor %eax, %eax
        xor %edx, %edx
        wrmsr
4:      pop %rcx
3:      mov EOI, %eax                   # 0 by APIC, 1 by MSR, 2 none, 3 by assist page
        cmp $2, %eax
        je 6f
        cmp $3, %eax
        je 7f
        test $0x100, %ecx
        jz 6f
        cmp $1, %eax
        jne 5f
        mov $0x40000070, %ecx
        xor %eax, %eax
        xor %edx, %edx
        wrmsr
        jmp 6f
7:      mov ASSIST, %eax
        lock btrl $0, (%rax)
        jc 6f
5:      mov $0xb0, %eax
        xor %edx, %edx
        call write_apic
6:      pop %rbx
        pop %rdx
        pop %rcx
        pop %rax
        add $16, %rsp
        iretq

        .include "operations.S"
        .include "calls.S"

        .data
        .align 16
table:  .quad op_end, op_r, op_w, op_wt, op_fill, op_put, op_mem, op_ge, op_irq, op_hlt, op_poll
        .quad op_cpuid, op_apic, op_apicw, op_host, op_h, op_h32, op_h3, op_start, op_copy
gdt:    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
        .quad 0x00cff3000000ffff, 0x00affb000000ffff
tss_descriptor: .quad 0x0000890000000067, 0
gdtr:   .word . - gdt - 1
        .quad gdt
idtr:   .word 4095
        .quad idt
        .align 8
EOI:    .quad 0                         # how an interrupt is ended
X2APIC: .quad 0                         # the APIC is in x2APIC mode
SLOT:   .quad 0                         # a slot that the handler empties
KHZ:    .quad 0                         # the TSC's, from the host
ASSIST: .quad 0x205000
STUB:   .quad 0, 0                      # a copy of the hypercall page's code
word0:  .quad 0
resume: .long 0
fault:  .long 0
resume_rsp: .quad 0
        .bss
        .align 4096
XMM:    .skip 96
        .align 16
tss:    .skip 104
        .align 16
idt:    .skip 4096
        .skip 8192
stack:  .skip 4096
user_stack: .skip 4096
trap_stack: .skip 4096
ap_stack:
        .align 4096
cpus:   .skip 8192
