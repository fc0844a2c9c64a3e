# The reference TSC page against TIME_REF_COUNT: the MSR lies between two readings of the page,
# neither ever goes back, on all CPUs at once; then both are switched off again.
        .ifndef ROUNDS
        .set ROUNDS, 2000
        .endif

test:   test %ebx, %ebx
        jnz 1f
        wrmsr_of REFERENCE_TSC, $page + 1
1:      call barrier
        rdmsr_of REFERENCE_TSC
        cmp $page + 1, %eax
        verdict "REFERENCE_TSC reads what was written, vcpu "
        mov page, %eax
        inc %eax
        cmp $2, %eax                            # neither 0 nor 0xffffffff
        setb %al
        test %al, %al
        verdict "the page is valid, vcpu "
        xor %esi, %esi                          # EDI:ESI the last time seen; 3 of 3 numbers rise
        xor %edi, %edi
        movl $0, INPUT(%ebp)                    # errors
        movl $ROUNDS, INPUT + 4(%ebp)
2:      call page_time
        call later
        rdmsr_of TIME_REF_COUNT
        call later
        call page_time
        call later
        decl INPUT + 4(%ebp)
        jnz 2b
        cmpl $0, INPUT(%ebp)
        verdict "page <= MSR <= page, never back, vcpu "
        call barrier
        test %ebx, %ebx
        jnz 3f
        wrmsr_of REFERENCE_TSC, $0
3:      call barrier
        rdmsr_of REFERENCE_TSC
        or %edx, %eax
        verdict "REFERENCE_TSC reads 0, vcpu "
        rdmsr_of TIME_REF_COUNT
        call later
        cmpl $0, INPUT(%ebp)
        verdict "the counter goes on, vcpu "
        ret

later:  cmp %edi, %edx                          # EDX:EAX must not lie before EDI:ESI
        ja 1f
        jb 2f
        cmp %esi, %eax
        jae 1f
2:      incl INPUT(%ebp)
1:      mov %edx, %edi
        mov %eax, %esi
        ret

page_time:                                      # (tsc * scale >> 64) + offset, to EDX:EAX
        push %ebx
        push %esi
        push %edi
4:      mov page, %ebx
        push %ebx
        lfence
        rdtsc
        mov %eax, %esi                          # EDI:ESI tsc
        mov %edx, %edi
        mull page + 8                           # low * low: only its high half counts
        mov %edx, %ebx
        mov %esi, %eax
        mull page + 12
        xor %ecx, %ecx
        add %eax, %ebx
        adc %edx, %ecx                          # ECX:EBX, at 2**32
        mov %edi, %eax
        mull page + 8
        add %eax, %ebx
        adc %edx, %ecx
        sbb %esi, %esi
        neg %esi                                # the carry, at 2**96
        mov %edi, %eax
        mull page + 12
        add %ecx, %eax
        adc %esi, %edx
        add page + 16, %eax
        adc page + 20, %edx
        pop %ebx
        cmp page, %ebx
        jne 4b
        pop %edi
        pop %esi
        pop %ebx
        ret
        .bss
        .balign 4096
page:   .skip 4096
        .text
