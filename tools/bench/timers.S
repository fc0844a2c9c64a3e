# A guest that takes ticks of synthetic timer 0 and notes how late each one was, by the reference
# TSC page. PARAMETERS and RESULTS are what bench_timers.py pokes and reads.
        .set    PARAMETERS, 0x80000     # mode, ticks, period in 100 ns, 1: spin instead of HLT
        .set    RESULTS, 0x80040        # ticks, time of tick WARM_UP and of the last one, spins
        .set    WARM_UP, 100            # until the VMM has imported all
        .set    LATE, 0x300000          # 32 bits a tick: how late, 100 ns
        .set    PAGE, 0x200000
        .set    SIM, 0x201000
        .set    SLOT, SIM + 2 * 256     # SINT2
        .set    VECTOR, 0x40
        .set    MESSAGES, 0             # modes: periodic by message, periodic direct,
        .set    ONE_SHOT, 2             # one-shot direct, set again by its handler as Linux does
        .set    PERIODIC_CONFIG, 0x20003
        .set    DIRECT_CONFIG, 0x1003 | VECTOR << 4
        .set    ONE_SHOT_CONFIG, 0x1008 | VECTOR << 4   # direct, auto-enable

        .macro  wrmsr_of msr, low
        mov     $\msr, %ecx
        mov     $\low, %eax
        xor     %edx, %edx
        wrmsr
        .endm
        .macro  gate target
        .word   (\target - _start), 0x10, 0x8e00, 0x10  # the program starts at 1 MiB
        .long   0, 0
        .endm

        .globl  _start
_start: mov     $stack, %esp
        lgdt    gdt_pointer
        lidt    idt_pointer
        mov     $0x1b, %ecx             # APIC_BASE: x2APIC, whose EOI is no emulated store
        rdmsr
        or      $0xc00, %eax
        wrmsr
        wrmsr_of 0x80f, 0x1ff           # SVR: on
        wrmsr_of 0x40000000, 1          # GUEST_OS_ID
        wrmsr_of 0x40000021, PAGE + 1   # REFERENCE_TSC
        wrmsr_of 0x40000080, 1          # SCONTROL, SIMP, SINT2
        wrmsr_of 0x40000083, SIM + 1
        wrmsr_of 0x40000092, VECTOR
        mov     PARAMETERS, %r13        # mode
        mov     PARAMETERS + 8, %r14    # ticks
        mov     PARAMETERS + 16, %r15   # period
        xor     %ebx, %ebx              # ticks so far
        xor     %ebp, %ebp              # spins
        cmp     $ONE_SHOT, %r13
        je      2f
        mov     $0x400000b1, %ecx       # STIMER0_COUNT, _CONFIG
        mov     %r15, %rax
        xor     %edx, %edx
        wrmsr
        dec     %ecx
        mov     $PERIODIC_CONFIG, %eax
        cmp     $MESSAGES, %r13
        je      1f
        mov     $DIRECT_CONFIG, %eax
1:      wrmsr
        jmp     3f
2:      wrmsr_of 0x400000b0, ONE_SHOT_CONFIG
        call    time
        call    set
3:      sti
        cmpq    $0, PARAMETERS + 24
        jne     spin
4:      hlt
        cmp     %r14, %rbx
        jb      4b
        jmp     end
spin:   inc     %rbp
        cmp     %r14, %rbx
        jb      spin
end:    cli
        sub     RESULTS + 32, %rbp
        mov     %rbp, RESULTS + 24
        mov     %rbx, RESULTS
        mov     $1, %al
        out     %al, $0xf4              # debug exit, status 3
        hlt

tsc:    rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        ret
time:   mov     PAGE, %r8d              # RAX: reference time; changes RDX, R8
        call    tsc
        mulq    PAGE + 8
        add     PAGE + 16, %rdx
        mov     %rdx, %rax
        cmp     PAGE, %r8d
        jne     time
        ret
set:    add     %r15, %rax              # one-shot, due a period from RAX on; R10: when
        mov     %rax, %r10
        mov     %rax, %rdx
        shr     $32, %rdx
        mov     $0x400000b1, %ecx
        wrmsr
        ret

tick:   push    %rax
        push    %rcx
        push    %rdx
        call    time
        mov     %rax, %r9
        cmp     $WARM_UP, %ebx
        jne     1f
        mov     %rax, RESULTS + 8
        mov     %rbp, RESULTS + 32
1:      mov     %rax, RESULTS + 16
        cmp     $ONE_SHOT, %r13
        je      3f
        cmp     $MESSAGES, %r13
        jne     4f
        sub     SLOT + 24, %r9          # the message tells when it was due
        movl    $0, SLOT
        mfence
        testb   $1, SLOT + 5            # another one waits for the slot
        jz      4f
        wrmsr_of 0x40000084, 0          # EOM
        jmp     4f
3:      sub     %r10, %r9
        call    set
4:      mov     %r9d, LATE(,%rbx,4)
        inc     %rbx
        wrmsr_of 0x80b, 0               # EOI
        pop     %rdx
        pop     %rcx
        pop     %rax
        iretq

        .balign 16
gdt:    .quad   0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word   . - gdt - 1
        .quad   gdt
        .balign 16
idt:    .fill   VECTOR * 2, 8, 0
        gate    tick
idt_pointer:
        .word   . - idt - 1
        .quad   idt
        .balign 16
        .skip   4096
stack:
