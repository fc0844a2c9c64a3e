# A guest that reads the reference time in every way: the page at CPL 0 and CPL 3, the MSR, on
# two CPUs at once if there are two. It logs (TSC, ticks) pairs for the host to judge, and counts
# by itself what goes back. READS reads a CPU and DURATION ticks, whichever takes longer.
        .set PAGE, 0x200000
        .set LATEST, 0x201000                   # the latest time that anybody saw
        .set AP_IN, 0x201008
        .set AP_OUT, 0x201010
        .set LOG, 0x80000                       # pairs, then 8-byte counts
        .set BACK, LOG + 0x80                   # times that went back
        .set DONE, LOG + 0x88                   # reads, by CPU
        .set BY_MSR, LOG + 0x98                 # reads that found the page invalid
        .set STATE, 0x201018                    # 1 and 2: wait until the host has looked at its
        .set SEEN, 0x201020                     # clocks and says so
        .set TRAMPOLINE, 0x1000

        .macro show number
        movq $\number, STATE
11:     pause
        cmpq $\number, SEEN
        jne 11b
        .endm

        .macro log number                       # RAX ticks, R9 TSC
        mov %r9, LOG + 16 * \number
        mov %rax, LOG + 16 * \number + 8
        .endm
        .macro log_msr number                   # TSC before, ticks, TSC after
        call tsc
        mov %r9, LOG + 16 * \number
        call count
        mov %rax, LOG + 16 * \number + 8
        call tsc
        mov %r9, LOG + 16 * \number + 16
        .endm

        mov $0x9000, %edi                       # all the loader's tables: let CPL 3 in
        mov $6 * 512, %ecx
2:      testb $1, (%rdi)
        jz 3f
        orb $4, (%rdi)
3:      add $8, %edi
        loop 2b
        mov %cr3, %rax
        mov %rax, %cr3
        mov $0x30, %eax
        ltr %ax
        mov $0x40000021, %ecx
        mov $PAGE + 1, %eax
        xor %edx, %edx
        wrmsr
        .if CPUS == 2
        mov $ap16, %esi
        mov $TRAMPOLINE, %edi
        mov $ap16_end - ap16, %ecx
        rep movsb
        mov $0xfee00300, %eax
        movl $0xc4500, (%rax)
        movl $0xc4600 | TRAMPOLINE >> 12, (%rax)
4:      cmpq $0, AP_IN
        je 4b
        .endif
        show 1
        call time
        log 0
        log_msr 1
        mov $back0, %eax
        mov %rax, back
        xor %edi, %edi
        .if USER
        push $0x2b
        push $0xb00000
        push $2
        push $0x23
        push $user
        iretq
        .else
        call user
        .endif
back0:  call time
        log 5
        log_msr 6
        .if CPUS == 2
5:      cmpq $0, AP_OUT
        je 5b
        .endif
        show 2
        exit 1

user:   call time
        test %edi, %edi
        jnz 1f
        log 3
1:      mov %rax, %rbx
        mov %rax, %r12
        xor %esi, %esi
2:      mov LATEST, %r8
        call time
        cmp %r8, %rax
        jb 3f
        cmp %rbx, %rax
        jae 4f
3:      lock incq BACK
4:      mov %rax, %rbx
        xchg %rax, %r8
        lock cmpxchg %r8, LATEST
        inc %rsi
        cmp $READS, %rsi
        jb 2b
        mov %rbx, %rax
        sub %r12, %rax
        cmp $DURATION, %rax
        jb 2b
        mov %rsi, DONE(,%rdi,8)
        test %edi, %edi
        jnz 5f
        call time
        log 4
        .if USER
        ud2
        .else
        ret
        .endif
5:      movq $1, AP_OUT
6:      pause
        jmp 6b

tsc:    lfence
        rdtsc
        shl $32, %rdx
        or %rdx, %rax
        mov %rax, %r9
        ret
time:   mov PAGE, %r10d
        call tsc
        test %r10d, %r10d
        .if USER
        jz time                                 # in the middle of a change; RDMSR is not for CPL 3
        .else
        jz count_instead
        .endif
        mulq PAGE + 8
        add PAGE + 16, %rdx
        mov %rdx, %rax
        cmp PAGE, %r10d
        jne time
        ret
count_instead:
        lock incq BY_MSR
count:  mov $0x40000020, %ecx
        rdmsr
        shl $32, %rdx
        or %rdx, %rax
        ret

        .if CPUS == 2
        .code16
ap16:   cli
        lgdtl %cs:ap_gdtr - ap16
        mov %cs:ap_cr3 - ap16, %eax
        mov %eax, %cr3
        mov $0x20, %eax                         # PAE
        mov %eax, %cr4
        mov $0xc0000080, %ecx
        mov $0x100, %eax                        # LME
        xor %edx, %edx
        wrmsr
        mov $0x80000011, %eax                   # PG, ET, PE
        mov %eax, %cr0
        ljmpl $0x10, $ap64
        .balign 4
ap_gdtr: .word 0x3f
        .long gdt
ap_cr3: .long 0x9000
ap16_end:
        .code64
ap64:   mov $0xa00000, %esp
        mov $0x18, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        lidt idtr
        movq $1, AP_IN
        mov $1, %edi
        .if USER
        push $0x2b
        push $0xa00000
        push $2
        push $0x23
        push $user
        iretq
        .else
        jmp user
        .endif
        .endif
