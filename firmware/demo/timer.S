# Interrupts: exceptions that end the demo, the PIT as a watchdog, and two synthetic timers.
        .set VECTOR_PIT, 0x30
        .set VECTOR_SPURIOUS_PIC, 0x37
        .set VECTOR_MESSAGE, 0x40
        .set VECTOR_DIRECT, 0x41
        .set VECTOR_SPURIOUS, 0x4f
        .set IDT_LIMIT, (VECTOR_SPURIOUS + 1) * 16 - 1
        .set SINT, 2                    # the one that VMBus drivers use
        .set MESSAGE, SIM_PAGE + SINT * 256
        .set MESSAGE_TIMER_EXPIRED, 0x80000010
        .set PIT_TICK, 549254           # 65536 / 1193182 Hz in 100 ns
        .set APIC, 0xfee00000
        .set MSR_APIC_BASE, 0x1b
        .set X2APIC_ENABLED, 1 << 10
        .set APIC_ENABLED, 1 << 11

        .code64
interrupts_start:
        xor %edi, %edi
        mov $exceptions, %eax
1:      call gate
        add $exception_size, %eax
        cmp $32, %edi
        jb 1b
        mov $gates, %esi
2:      mov (%rsi), %edi
        mov 4(%rsi), %eax
        call gate
        add $8, %esi
        cmp $gates_end, %esi
        jb 2b
        lidt idt_register
        mov $0x11, %al                  # the 8259s: vectors from 0x30 on, only IRQ 0 open
        out %al, $PIC1
        out %al, $PIC2
        mov $VECTOR_PIT, %al
        out %al, $PIC1 + 1
        mov $VECTOR_PIT + 8, %al
        out %al, $PIC2 + 1
        mov $4, %al
        out %al, $PIC1 + 1
        mov $2, %al
        out %al, $PIC2 + 1
        mov $1, %al
        out %al, $PIC1 + 1
        out %al, $PIC2 + 1
        mov $0xfe, %al
        out %al, $PIC1 + 1
        mov $0xff, %al
        out %al, $PIC2 + 1
        ret

gate:                                   # IDT entry EDI = EAX, below 64 KiB; EDI + 1
        mov %edi, %ecx
        shl $4, %ecx
        mov %ax, IDT(%rcx)
        movw $CODE64, IDT + 2(%rcx)
        movw $0x8e00, IDT + 4(%rcx)     # interrupt gate
        inc %edi
        ret

        .balign 8
gates:  .long VECTOR_PIT, pit, VECTOR_SPURIOUS_PIC, spurious, VECTOR_MESSAGE, message
        .long VECTOR_DIRECT, direct, VECTOR_SPURIOUS, spurious
gates_end:
idt_register:
        .word IDT_LIMIT
        .long IDT, 0

        .set exception_size, 5          # a call with a 32-bit distance
exceptions:
        .rept 32
        .byte 0xe8
        .long exception - . - 4
        .endr
exception:
        pop %rbx
        sub $exceptions + exception_size, %ebx
        mov %ebx, %eax
        xor %edx, %edx
        mov $exception_size, %ecx
        div %ecx
        mov $0x60227d00, %ecx           # these push an error code
        bt %eax, %ecx
        jnc 1f
        pop %rdx
1:      movl $text, text_at
        say "unexpected exception "
        call decimal
        say " at "
        pop %rax
        call hex64
        call line
        jmp power_off

pit:    push %rax
        incl pit_ticks
        mov $0x20, %al
        out %al, $PIC1
        pop %rax
spurious:
        iretq

message:                                # TLFS 11.10: empty the slot, then look for "pending"
        push %rax
        push %rcx
        push %rdx
        cmpl $MESSAGE_TIMER_EXPIRED, MESSAGE
        jne 1f
        incl ticks
1:      xor %eax, %eax
        xchg %eax, MESSAGE              # a full barrier
        testb $1, MESSAGE + 5
        jz eoi
        xor %eax, %eax
        write_msr MSR_EOM
        jmp eoi
direct: push %rax
        push %rcx
        push %rdx
        incl ticks
eoi:    testl $X2APIC_ENABLED, apic_base
        jnz 1f
        mov $APIC, %eax
        movl $0, 0xb0(%rax)
        jmp 2f
1:      xor %eax, %eax
        xor %edx, %edx
        mov $0x80b, %ecx
        wrmsr
2:      pop %rdx
        pop %rcx
        pop %rax
        iretq

apic_start:
        read_msr MSR_APIC_BASE
        mov %eax, apic_base
        test $X2APIC_ENABLED, %eax
        jnz 1f
        mov $APIC, %eax
        movl $0x100 + VECTOR_SPURIOUS, 0xf0(%rax)
        movl $0x700, 0x350(%rax)        # LINT0: the 8259
        ret
1:      mov $0x100 + VECTOR_SPURIOUS, %eax
        write_msr 0x80f
        mov $0x700, %eax
        write_msr 0x835
        ret

now:                                    # RAX = time in 100 ns; changes RCX, RDX
        unless HAS_TIME_REF_COUNT, 1f
        read_msr MSR_TIME_REF_COUNT
        ret
1:      mov pit_ticks, %eax
        imul $PIT_TICK, %rax, %rax
        ret

show_timers:
        unless HAS_SYNIC, no_synic
        unless HAS_STIMERS, no_stimers
        call apic_start
        mov $1, %eax
        write_msr MSR_SCONTROL
        mov $SIEF_PAGE + 1, %eax
        write_msr MSR_SIEFP
        mov $SIM_PAGE + 1, %eax
        write_msr MSR_SIMP
        mov $VECTOR_MESSAGE, %eax
        write_msr MSR_SINT0 + SINT
        testl $HAS_DIRECT_STIMERS, features
        jz 1f
        say "timer 0, direct to vector 0x41: "
        mov $PERIOD, %eax
        write_msr MSR_STIMER0_COUNT
        movl $0, ticks
        mov $1 << 12 | VECTOR_DIRECT << 4 | 2 | 1, %eax # direct, periodic, enable
        write_msr MSR_STIMER0_CONFIG
        call count_ticks
        xor %eax, %eax
        write_msr MSR_STIMER0_CONFIG
        call print_ticks
        jmp 2f
1:      say "no direct timers: 40000003.EDX[19] is clear"
        call line
2:      say "timer 1, messages on SINT 2: "
        mov $PERIOD, %eax
        write_msr MSR_STIMER0_COUNT + 2
        movl $0, ticks
        mov $SINT << 16 | 2 | 1, %eax
        write_msr MSR_STIMER0_CONFIG + 2
        call count_ticks
        xor %eax, %eax
        write_msr MSR_STIMER0_CONFIG + 2
        jmp print_ticks
no_synic:
        say "no SynIC: 40000003.EAX[2] is clear, so no timers either"
        jmp line
no_stimers:
        say "no synthetic timers: 40000003.EAX[3] is clear"
        jmp line

# Wait for TICKS interrupts, at most ten times as long as they should take. R12 = time they took.
# The PIT wakes the HLT if nothing else does.
count_ticks:
        call now
        mov %rax, %r12
1:      cli
        cmpl $TICKS, ticks
        jae 2f
        call now
        sub %r12, %rax
        cmp $TICKS * PERIOD * 10, %rax
        ja 2f
        sti
        hlt
        jmp 1b
2:      call now
        sub %r12, %rax
        mov %rax, %r12
        sti                             # whatever is still under way
        nop
        cli
        ret

print_ticks:
        mov ticks, %eax
        cmp $TICKS, %eax
        jbe 1f
        mov $TICKS, %eax                # one may have come while it was switched off
1:      call decimal
        say " of 50 ticks of 2 ms in "
        mov %r12, %rax
        call milliseconds
        jmp line

        .balign 4
apic_base: .long 0
pit_ticks: .long 0
ticks:  .long 0
