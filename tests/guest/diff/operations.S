# The operations of the differential guest that are no hypercalls; a comment tells operands -> record.

        .code64
# a: MSR -> fault + 1 or 0, value
op_r:   mov 4(%rbp), %ecx
        may_fault 1f
        rdmsr
        shl $32, %rdx
        mov %eax, %eax
        or %rdx, %rax
1:      jmp one

# a: MSR, b: value -> fault + 1 or 0
op_w:   mov 8(%rbp), %eax
        mov 12(%rbp), %edx
write:  mov 4(%rbp), %ecx
        may_fault 1f
        wrmsr
1:      jmp none

# a: MSR, b: added to the reference time
op_wt:  mov $0x40000020, %ecx
        rdmsr
        shl $32, %rdx
        mov %eax, %eax
        add %rdx, %rax
        add 8(%rbp), %rax
        mov %rax, %rdx
        shr $32, %rdx
        jmp write

one:    mov %rax, 8(%r15)
        call none
        add $8, %r15
        ret
none:   movl $0, resume
        mov fault, %ecx
        inc %ecx
        mov %rcx, (%r15)
        add $8, %r15
        ret

# a: byte, b: address, c: length
op_fill: mov 4(%rbp), %eax
        mov 8(%rbp), %rdi
        mov 16(%rbp), %ecx
        rep stosb
        ret

# a: bytes, b: to, c: from
op_copy: mov 4(%rbp), %ecx
        mov 8(%rbp), %rdi
        mov 16(%rbp), %rsi
        rep movsb
        ret

# b: address, c: value of a bytes, 4 or 8
op_put: mov 8(%rbp), %rdi
        mov 16(%rbp), %rax
        cmpl $4, 4(%rbp)
        je 1f
        mov %rax, (%rdi)
        ret
1:      mov %eax, (%rdi)
        ret

# b: address, c: length -> the bytes
op_mem: mov 8(%rbp), %rsi
        mov 16(%rbp), %ecx
        mov %r15, %rdi
        rep movsb
        add 16(%rbp), %r15
        add $7, %r15
        and $-8, %r15
        ret

# b, c: addresses of u64 -> 1 if the first is not below the second
op_ge:  mov 8(%rbp), %rsi
        mov 16(%rbp), %rdi
        mov (%rsi), %rax
        cmp (%rdi), %rax
        setae %al
        movzx %al, %eax
        mov %rax, (%r15)
        add $8, %r15
        ret

# a: how many interrupts, b: ms at most -> count, then u32 each; 0: all, after that time
op_irq: call deadline
        sti
        mov $8, %ecx                    # a KVM in software looks for interrupts at exits only
3:      out %al, $0x80
        dec %ecx
        jnz 3b
1:      call come
        jae 2f
        call late
        jb 1b
2:      cli
listed: mov (%rbx), %ecx
        sub 8(%rbx), %ecx
        mov 4(%rbp), %eax
        test %eax, %eax
        jz 1f
        cmp %eax, %ecx
        cmova %eax, %ecx
1:      mov %rcx, (%r15)
        add $8, %r15
        mov 8(%rbx), %eax
        add %ecx, 8(%rbx)
        lea 16(%rbx, %rax, 4), %rsi
        mov %r15, %rdi
        lea 7(, %rcx, 4), %rax
        and $-8, %rax
        add %rax, %r15
        rep movsl
        mov (%rbx), %eax
        cmp 8(%rbx), %eax
        jne 2f
        movq $0, (%rbx)
        movq $0, 8(%rbx)
2:      ret
come:   mov (%rbx), %eax                # CF clear: as many as asked
        sub 8(%rbx), %eax
        mov 4(%rbp), %ecx
        test %ecx, %ecx
        jz 1f
        cmp %ecx, %eax
        ret
1:      stc
        ret

# the same, asleep
op_hlt: cli
        call come
        jae listed
        sti
        hlt
        jmp op_hlt

# b: ms at most, c: address of a u32 that becomes other than 0 -> it
op_poll: call deadline
        mov 16(%rbp), %rdi
1:      mov (%rdi), %eax
        test %eax, %eax
        jnz 2f
        call late
        jb 1b
2:      mov %rax, (%r15)
        add $8, %r15
        ret
# b: ms -> R9; late: below until then. Both use RAX, RDX.
deadline: mov KHZ, %rax
        imul 8(%rbp), %rax
        mov %rax, %r9
        rdtsc
        shl $32, %rdx
        or %rdx, %rax
        add %rax, %r9
        ret
late:   pause
        rdtsc
        shl $32, %rdx
        or %rdx, %rax
        cmp %r9, %rax
        ret

# a: leaf, b: subleaf -> four registers
op_cpuid: push %rbx
        mov 4(%rbp), %eax
        mov 8(%rbp), %ecx
        cpuid
        mov %eax, (%r15)
        mov %ebx, 4(%r15)
        mov %ecx, 8(%r15)
        mov %edx, 12(%r15)
        add $16, %r15
        pop %rbx
        ret

# a: APIC register -> it
op_apic: mov 4(%rbp), %eax
        call read_apic
        mov %rax, (%r15)
        add $8, %r15
        ret
# a: APIC register, b: value
op_apicw: mov 4(%rbp), %eax
        mov 8(%rbp), %edx
        jmp write_apic

# EAX: register -> EAX; keeps ECX
read_apic: cmpl $0, X2APIC
        jne 1f
        push %rcx
        mov $APIC, %ecx
        mov (%rax, %rcx), %eax
        pop %rcx
        ret
1:      push %rcx
        push %rdx
        shr $4, %eax
        lea 0x800(%rax), %ecx
        rdmsr
        pop %rdx
        pop %rcx
        ret
# EAX: register, EDX: value
write_apic: cmpl $0, X2APIC
        jne 1f
        push %rcx
        mov $APIC, %ecx
        mov %edx, (%rax, %rcx)
        pop %rcx
        ret
1:      push %rcx
        shr $4, %eax
        lea 0x800(%rax), %ecx
        mov %edx, %eax
        xor %edx, %edx
        wrmsr
        pop %rcx
        ret

# the host does something; it reads the operation itself
op_host: mov %ebp, %eax
        mov $HOST_PORT, %edx
        out %eax, %dx
        ret

op_end: xor %eax, %eax
        jmp quit
