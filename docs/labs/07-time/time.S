# Reads the reference time by MSR and by the TSC page, and compares values and costs.
        .include "long.inc"
        .set PAGE, 0x400000             # 0: sequence (4 bytes), 8: scale, 16: offset
main:   write_msr 0x40000021, PAGE + 1  # HV_X64_MSR_REFERENCE_TSC: the page, enabled
        call by_msr
        mov %rax, %r12
        call by_page
        mov %rax, %r13
        call by_msr
        mov %rax, %r14
        print "here MSR "
        mov %r12, %rax
        decimal
        print ", page "
        mov %r13, %rax
        decimal
        print ", MSR "
        mov %r14, %rax
        decimal
        newline
        cmp %r12, %r13
        jb 1f
        cmp %r13, %r14
        jb 1f
        print "in order\n"
1:      rdtsc
        mov %eax, %r12d
        call by_msr
        rdtsc
        sub %r12d, %eax
        print "here TSC ticks for an MSR read "
        decimal
        rdtsc
        mov %eax, %r12d
        call by_page
        rdtsc
        sub %r12d, %eax
        print ", for a page read "
        decimal
        newline
        off
by_msr: mov $0x40000020, %ecx           # HV_X64_MSR_TIME_REF_COUNT
        rdmsr
        shl $32, %rdx
        or %rdx, %rax
        ret
by_page:
        mov PAGE, %r8d                  # 0: use the MSR; changed meanwhile: read again
        test %r8d, %r8d
        jz by_msr
        rdtsc
        shl $32, %rdx
        or %rdx, %rax
        mulq PAGE + 8                   # RDX = TSC * scale >> 64
        mov %rdx, %rax
        add PAGE + 16, %rax
        cmp PAGE, %r8d
        jne by_page
        ret
