# The TSC page read at CPL 3: a clock that needs no kernel is what the page is for. On a KVM that
# emulates CPL 0 this is also the only place where an instruction takes its own time.
        .set UNDEFINED_OPCODE, 6
        .set USER_STACK, STACK - 0x800
        .set RING0_STACK, STACK - 0x1000
        .set USER_ROUNDS, 20 * ROUNDS

        .code64
show_user:
        movl $RING0_STACK, TSS + 4      # RSP0, the stack of an exception
        movw $103, gdt_tss              # limit
        movw $TSS & 0xffff, gdt_tss + 2
        movb $TSS >> 16, gdt_tss + 4
        movb $0x89, gdt_tss + 5         # available 64-bit TSS
        mov $TSS_SELECTOR, %eax
        ltr %ax
        mov $UNDEFINED_OPCODE, %edi     # UD2 is the way back: some KVM knows no INT n at CPL 3,
        mov $user_back, %eax            # and after SYSCALL it is still there
        call gate
        mov %rsp, kernel_rsp
        read_msr MSR_TIME_REF_COUNT
        mov %rax, %r12
        mov $USER_ROUNDS, %r13d
        pushq $USER_DATA + 3
        pushq $USER_STACK
        pushq $2                        # RFLAGS: interrupts off
        pushq $USER_CODE + 3
        pushq $user
        iretq
user:   call read_page
        dec %r13d
        jnz user
        ud2
user_back:
        mov kernel_rsp, %rsp
        mov $DATA, %eax
        mov %eax, %ss
        mov $UNDEFINED_OPCODE, %edi
        mov $exceptions + UNDEFINED_OPCODE * exception_size, %eax
        call gate
        say ", at CPL 3 "
        mov $USER_ROUNDS, %ecx
        jmp cost

        .balign 8
kernel_rsp: .quad 0
