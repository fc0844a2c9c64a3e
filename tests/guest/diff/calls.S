# Hypercalls from 64-bit and 32-bit code and from CPL 3, and the second processor.

        .code64
load_xmm: mov $XMM, %eax
        movups (%rax), %xmm0
        movups 16(%rax), %xmm1
        movups 32(%rax), %xmm2
        movups 48(%rax), %xmm3
        movups 64(%rax), %xmm4
        movups 80(%rax), %xmm5
        ret

# b, c, d: RCX, RDX, R8 -> fault + 1 or 0, RAX, registers that changed: 1 RCX, 2 RDX, 4 R8, 8 RSI,
# 0x10 RDI, 0x20 RBX, 0x40 R9
op_h:   push %rbx
        call load_xmm
        mov 8(%rbp), %rcx
        mov 16(%rbp), %rdx
        mov 24(%rbp), %r8
        mov $0x5151515151515151, %rsi
        mov %rsi, %rdi
        mov %rsi, %rbx
        mov %rsi, %r9
        may_fault 3f
        mov $STUB, %eax
        call *%rax
        mov %rax, 8(%r15)
        mov $0x5151515151515151, %r10
        xor %eax, %eax
        cmp 8(%rbp), %rcx
        setne %al
        cmp 16(%rbp), %rdx
        je 1f
        or $2, %al
1:      cmp 24(%rbp), %r8
        je 1f
        or $4, %al
1:      cmp %r10, %rsi
        je 1f
        or $8, %al
1:      cmp %r10, %rdi
        je 1f
        or $0x10, %al
1:      cmp %r10, %rbx
        je 1f
        or $0x20, %al
1:      cmp %r10, %r9
        je 3f
        or $0x40, %al
3:      pop %rbx
called: mov %rax, 16(%r15)
        call none
        add $16, %r15
        ret

# b, c, d: EDX:EAX, EBX:ECX, EDI:ESI -> as op_h, EDX:EAX; changed: 1 ECX, 0x20 EBX, 8 ESI, 0x10 EDI
op_h32: push %rbx
        push %rbp
        call load_xmm
        may_fault 3f
        mov 8(%rbp), %eax
        mov 12(%rbp), %edx
        mov 16(%rbp), %ecx
        mov 20(%rbp), %ebx
        mov 24(%rbp), %esi
        mov 28(%rbp), %edi
        mov $STUB, %ebp
        ljmp *to32
        .code32
in32:   call *%ebp
        ljmp $CODE, $back64
        .code64
back64: mov (%rsp), %rbp
        shl $32, %rdx
        mov %eax, %eax
        or %rdx, %rax
        mov %rax, 8(%r15)
        xor %eax, %eax
        cmp 16(%rbp), %ecx
        setne %al
        cmp 20(%rbp), %ebx
        je 1f
        or $0x20, %al
1:      cmp 24(%rbp), %esi
        je 1f
        or $8, %al
1:      cmp 28(%rbp), %edi
        je 3f
        or $0x10, %al
3:      pop %rbp
        pop %rbx
        jmp called

# a: IOPL, and if not 0 all low ports in the I/O bitmap; b, c, d: RCX, RDX, R8 -> as op_h
op_h3:  call load_xmm
        movq $trap_stack, tss + 4
        cmpl $1, 4(%rbp)                # the bitmap: beyond the TSS, or its zeros
        sbb %eax, %eax
        and $104, %eax
        mov %ax, tss + 102
        may_fault 1f
        mov 8(%rbp), %rcx
        mov 16(%rbp), %rdx
        mov 24(%rbp), %r8
        mov 4(%rbp), %eax
        shl $12, %eax
        or $2, %eax
        push $USER_DATA
        push $user_stack
        push %rax
        push $USER_CODE
        push $in_user
        iretq
in_user: mov $STUB, %eax
        call *%rax
        int $USER_BACK
1:      mov word0, %rax
        mov %rax, 8(%r15)
        xor %eax, %eax
        jmp called

# b: ms at most; starts the second VP, which then waits for operations with interrupts on -> 1 if it came
op_start: movl $0, ap_here
        mov $ap_start, %esi
        mov $AP_CODE, %edi
        mov $(ap_end - ap_start), %ecx
        rep movsb
        mov $(APIC + 0x300), %edi
        movl $0x000c4500, (%rdi)        # INIT, then SIPI, to all but us
        call deadline
        push %r9
        mov KHZ, %r10
        rdtsc
        shl $32, %rdx
        or %rdx, %rax
        lea (%rax, %r10), %r9           # 1 ms
1:      call late
        jb 1b
        movl $(0x000c4600 + (AP_CODE >> 12)), (%rdi)
        pop %r9
2:      cmpl $0, ap_here
        jne 3f
        call late
        jb 2b
3:      mov ap_here, %eax
        mov %rax, (%r15)
        add $8, %r15
        ret

# has the second VP do the operation
remote: mov %r15, mailbox_log
        mov %rbp, mailbox
1:      pause
        cmpq $0, mailbox
        jne 1b
        mov mailbox_log, %r15
        ret

        .code16
ap_start: cli
        xor %ax, %ax
        mov %ax, %ds
        lgdtl AP_CODE + ap_gdtr - ap_start
        mov $0x20, %eax
        mov %eax, %cr4
        mov $PAGE_TABLES, %eax
        mov %eax, %cr3
        mov $0xc0000080, %ecx
        rdmsr
        or $0x100, %eax
        wrmsr
        mov $0x80010033, %eax
        mov %eax, %cr0
        ljmpl $CODE, $ap_long
        .align 8
ap_gdtr: .word 63
        .long gdt
ap_end:
        .code64
ap_long: mov $DATA, %eax
        mov %eax, %ss
        mov $ap_stack, %esp
        call set_up
        mov $(cpus + 4096), %ebx
        movl $1, ap_here
        sti
1:      pause
        mov mailbox, %rbp
        test %rbp, %rbp
        jz 1b
        cli
        mov mailbox_log, %r15
        mov (%rbp), %eax
        and $0xffff, %eax
        call *table(, %rax, 8)
        mov %r15, mailbox_log
        sti
        movq $0, mailbox
        jmp 1b

        .data
        .align 8
to32:   .long in32
        .word CODE32
        .align 8
mailbox: .quad 0
mailbox_log: .quad 0
ap_here: .long 0
