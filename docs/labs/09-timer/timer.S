# Ten ticks of a periodic synthetic timer, a message each; or what came until a second has passed.
        .include "long.inc"
        .set MESSAGES, 0x402000
        .set SLOT, MESSAGES + 3 * 256
main:   gate 0x50, tick
        gate 0x51, alarm
        load_idt
        mov $0xfee000f0, %eax
        movl $0x1ff, (%rax)             # the local APIC on
        write_msr 0x40000083, MESSAGES + 1      # HV_X64_MSR_SIMP
        write_msr 0x40000080, 1         # HV_X64_MSR_SCONTROL
        write_msr 0x40000093, 0x50      # HV_X64_MSR_SINT3: vector 50h
        write_msr 0x40000094, 0x51      # HV_X64_MSR_SINT4: vector 51h
        call now
        mov %rax, %r12
        mov $0x400000b3, %ecx           # HV_X64_MSR_STIMER1_COUNT: a second from now
        add $10000000, %rax
        mov %rax, %rdx
        shr $32, %rdx
        wrmsr
        write_msr 0x400000b2, 0x40001   # HV_X64_MSR_STIMER1_CONFIG: SINT4, one-shot, enabled
        write_msr 0x400000b1, 100000    # HV_X64_MSR_STIMER0_COUNT: every 10 ms
        write_msr 0x400000b0, 0x30003   # HV_X64_MSR_STIMER0_CONFIG: SINT3, periodic, enabled
wait:   sti
        hlt
        cli
        test %r14, %r14
        jnz over
        cmp $10, %r13
        jb wait
over:   mov %r13, %rax
        decimal
        print " ticks\nhere after "
        call now
        sub %r12, %rax
        decimal
        print " x 100 ns\n"
        off
now:    mov $0x40000020, %ecx           # HV_X64_MSR_TIME_REF_COUNT
        rdmsr
        shl $32, %rdx
        or %rdx, %rax
        ret
alarm:  inc %r14
        jmp done
tick:   push %rcx
        push %rdx
        cmp $10, %r13                   # CF: it is less
        adc $0, %r13
        .ifndef KEEP                    # else the slot stays full, and no message can come
        movl $0, SLOT
        write_msr 0x40000084, 0         # HV_X64_MSR_EOM
        .endif
        pop %rdx
        pop %rcx
done:   mov $0xfee000b0, %eax
        movl $0, (%rax)                 # end of interrupt
        iretq                           # RAX is nobody's while the guest waits
