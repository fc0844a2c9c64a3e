# CPUID, the identity and hypercall MSRs, the two clocks and what they cost.
        .code64

detect:                                 # EAX = 0: no Hyper-V here, and the line that says why
        mov $1, %eax
        cpuid
        test %ecx, %ecx                 # bit 31
        js 1f
        say "no Hyper-V here: CPUID 1.ECX[31] is clear, no hypervisor wants to be seen"
        jmp absent
1:      mov $0x40000000, %eax
        cpuid
        mov %eax, max_leaf
        mov %ebx, vendor
        mov %ecx, vendor + 4
        mov %edx, vendor + 8
        cmp $0x40000005, %eax
        jae 2f
        say "no Hyper-V here: CPUID leaves end at "
        call hex32
        jmp absent
2:      mov $0x40000001, %eax
        cpuid
        cmp $HV_INTERFACE, %eax
        je 3f
        say "no Hyper-V here: CPUID 40000001.EAX is "
        call hex32
        say ", not Hv#1"
absent: call line
        xor %eax, %eax
        ret
3:      mov $0x40000003, %eax
        cpuid
        mov %eax, privileges
        mov %ebx, privileges_high
        mov %edx, features
        mov $0x40000004, %eax
        cpuid
        mov %eax, hints
        mov $1, %eax
        ret

show_identity:
        say "hypervisor: "
        mov $vendor, %esi
        mov $12, %ecx
1:      movzbl (%rsi), %eax
        inc %rsi
        call character
        dec %ecx
        jnz 1b
        say ", interface Hv#1, CPUID up to "
        mov max_leaf, %eax
        call hex32
        call line
        say "privileges: 40000003.EAX "
        mov privileges, %eax
        call hex32
        say " EBX "
        mov privileges_high, %eax
        call hex32
        say " EDX "
        mov features, %eax
        call hex32
        say ", hints 40000004.EAX "
        mov hints, %eax
        call hex32
        call line
        unless HAS_VP_INDEX, 2f
        say "virtual processor: index "
        read_msr MSR_VP_INDEX
        call decimal
        call line
        ret
2:      say "no VP index: 40000003.EAX[6] is clear"
        call line
        ret

show_hypercall:
        unless HAS_HYPERCALL, no_hypercall
        mov $0xff00, %eax               # open source, type unassigned, version 1
        shl $48, %rax
        or $0x10000, %rax
        write_msr MSR_GUEST_OS_ID
        mov $HYPERCALL_PAGE + 1, %eax
        write_msr MSR_HYPERCALL
        read_msr MSR_HYPERCALL
        test $1, %al
        jz 1f
        mov $0x10008, %ecx              # HvCallNotifyLongSpinWait, fast: spin count in RDX
        mov $1, %edx
        xor %r8d, %r8d
        mov $HYPERCALL_PAGE, %ebx
        call *%rbx
        mov %rax, %r14
        say "hypercall page: HvCallNotifyLongSpinWait gives status "
        movzwl %r14w, %eax
        call decimal
        unless HAS_TIME_REF_COUNT, 3f
        read_msr MSR_TIME_REF_COUNT
        mov %rax, %r12
        mov $ROUNDS, %r13d
2:      mov $0x10008, %ecx
        mov $1, %edx
        call *%rbx
        dec %r13d
        jnz 2b
        say ", a round trip takes "
        mov $ROUNDS, %ecx
        call cost
3:      call line
        ret
1:      say "no hypercalls: HV_X64_MSR_HYPERCALL does not take the enable bit"
        call line
        ret
no_hypercall:
        say "no hypercalls: 40000003.EAX[5] is clear"
        call line
        ret

cost:                                   # print what one of ECX rounds has cost since R12
        mov %ecx, %ebx
        read_msr MSR_TIME_REF_COUNT
        sub %r12, %rax
        imul $100, %rax, %rax
        xor %edx, %edx
        div %rbx
        call decimal
        say " ns"
        ret

show_clock:
        unless HAS_TIME_REF_COUNT, no_counter
        say "reference counter: "
        read_msr MSR_TIME_REF_COUNT
        call milliseconds
        say " since the partition began, a read by MSR takes "
        read_msr MSR_TIME_REF_COUNT
        mov %rax, %r12
        mov $ROUNDS, %r13d
1:      rdmsr
        dec %r13d
        jnz 1b
        mov $ROUNDS, %ecx
        call cost
        call line
        jmp show_page
no_counter:
        say "no reference counter: 40000003.EAX[1] is clear"
        call line
show_page:
        unless HAS_REFERENCE_TSC, no_page
        mov $TSC_PAGE + 1, %eax
        write_msr MSR_REFERENCE_TSC
        say "reference TSC page: sequence "
        mov TSC_PAGE, %eax
        call decimal
        test %eax, %eax
        jz page_unused
        say ", scale "
        mov TSC_PAGE + 8, %rax
        call hex64
        say ", offset "
        mov TSC_PAGE + 16, %rax
        call signed
        unless HAS_TIME_REF_COUNT, 3f
        read_msr MSR_TIME_REF_COUNT
        mov %rax, %r12
        mov $ROUNDS, %r13d
2:      call read_page
        dec %r13d
        jnz 2b
        say ", a read takes "
        mov $ROUNDS, %ecx
        call cost
        call show_user
        call line
        read_msr MSR_TIME_REF_COUNT     # both clocks are one: MSR, page, MSR must not run back
        mov %rax, %r12
        call read_page
        mov %rax, %rbx
        read_msr MSR_TIME_REF_COUNT
        sub %rbx, %rax
        sub %r12, %rbx
        say "clocks agree: page read "
        xchg %rax, %rbx
        call signed
        say " x 100 ns after an MSR read and "
        xchg %rax, %rbx
        call signed
        say " before the next"
3:      call line
        jmp show_frequencies
page_unused:
        say ": not valid here, the counter MSR is the clock"
        call line
        jmp show_frequencies
no_page:
        say "no reference TSC page: 40000003.EAX[9] is clear"
        call line
show_frequencies:
        unless HAS_FREQUENCIES, 1f
        say "frequencies: TSC "
        read_msr MSR_TSC_FREQUENCY
        call decimal
        say " Hz, APIC timer "
        read_msr MSR_APIC_FREQUENCY
        call decimal
        say " Hz"
        call line
        ret
1:      say "no frequency MSRs: 40000003.EAX[11] is clear"
        call line
        ret

# RAX = reference time by the page, as TLFS 12.7.3 has it; changes RCX, RDX
read_page:
        mov TSC_PAGE, %ecx
        rdtsc
        shl $32, %rdx
        or %rdx, %rax
        mulq TSC_PAGE + 8
        add TSC_PAGE + 16, %rdx
        cmp TSC_PAGE, %ecx
        jne read_page
        mov %rdx, %rax
        ret

        .balign 4
max_leaf:   .long 0
vendor:     .skip 12
privileges: .long 0
privileges_high: .long 0
features:   .long 0
hints:      .long 0
