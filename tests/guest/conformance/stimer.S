# Synthetic timers 0 (SINT2, EOI) and 1 (SINT3, auto-EOI) in every mode on every CPU: periodic,
# one-shot, auto-enable, lazy, a count in the past, a full slot, direct.
        .ifndef TICKS
        .set TICKS, 50
        .endif
        .set ENABLE, 1
        .set PERIODIC, 2
        .set LAZY, 4
        .set AUTO, 8
        .set DIRECT, 1 << 12
        .set TO_SINT2, 2 << 16
        .set TO_SINT3, 3 << 16
        .set MS, 10000
        .set FIRES, INPUT                       # of the two timers; then what was wrong
        .set ERRORS, INPUT + 8
        .set LAST, INPUT + 16                   # expiration times, 8 bytes each

        .macro arm timer, config                # COUNT is EDI:ESI; auto-enable: it comes last
        .if (\config) & AUTO
        wrmsr_of "STIMER0_CONFIG + 2 * \timer", "$(\config)"
        wrmsr_of "STIMER0_CONFIG + 2 * \timer + 1", %esi, %edi
        .else
        wrmsr_of "STIMER0_CONFIG + 2 * \timer + 1", %esi, %edi
        wrmsr_of "STIMER0_CONFIG + 2 * \timer", "$(\config)"
        .endif
        .endm
        .macro periodic timer, config, text
        call clear
        mov $MS, %esi
        xor %edi, %edi
        arm \timer, "\config"
        until "cmpl $TICKS, FIRES + 4 * \timer(%ebp)", ge
        wrmsr_of "STIMER0_CONFIG + 2 * \timer", $0
        cli
        cmpl $0, ERRORS(%ebp)
        jne 96f
        cmpl $TICKS, FIRES + 4 * \timer(%ebp)
        setl %al
        test %al, %al
96:     verdict "\text"
        sti
        .endm
        .macro one_shot timer, config, text, in=MS, high=0
        call clear
        call now
        add $\in, %esi
        adc $\high, %edi
        arm \timer, "\config"
        until "cmpl $1, FIRES + 4 * \timer(%ebp)", e
        call nap
        cmpl $0, ERRORS(%ebp)
        jne 96f
        cmpl $1, FIRES + 4 * \timer(%ebp)
        jne 96f
        rdmsr_of "STIMER0_CONFIG + 2 * \timer"
        test $ENABLE, %al
96:     verdict "\text"
        .endm

test:   mov $0xf2, %eax
        lock bts %eax, autos
        movl $on_timer, hook
        lea SIM + 1(%ebp), %eax
        wrmsr_of SIMP, %eax
        wrmsr_of SCONTROL, $1
        wrmsr_of SINT0 + 2, $0xf1
        wrmsr_of SINT0 + 3, $0xf2 | AUTO_EOI
        call barrier
        sti
        periodic 0, "TO_SINT2 | ENABLE | PERIODIC", "periodic, vcpu "
        periodic 1, "TO_SINT3 | ENABLE | PERIODIC", "periodic, auto-EOI, vcpu "
        periodic 0, "TO_SINT2 | PERIODIC | AUTO", "periodic, auto-enable, vcpu "
        periodic 1, "TO_SINT3 | PERIODIC | ENABLE | LAZY", "periodic, lazy, vcpu "
        one_shot 0, "TO_SINT2 | ENABLE", "one-shot, vcpu "
        one_shot 1, "TO_SINT3 | AUTO", "one-shot, auto-enable, vcpu "
        one_shot 0, "TO_SINT2 | ENABLE", "one-shot in the past, vcpu ", -MS, -1

        call clear                              # two at once
        mov $MS, %esi
        xor %edi, %edi
        arm 0, "TO_SINT2 | ENABLE | PERIODIC"
        arm 1, "TO_SINT3 | ENABLE | PERIODIC"
        until "cmpl $TICKS, FIRES(%ebp)", ge
        until "cmpl $TICKS, FIRES + 4(%ebp)", ge
        wrmsr_of STIMER0_CONFIG + 1, $0         # a count of 0 disables, too
        wrmsr_of STIMER0_CONFIG + 3, $0
        rdmsr_of STIMER0_CONFIG
        test $ENABLE, %al
        verdict "a count of 0 disables, vcpu "
        call nap
        cmpl $0, ERRORS(%ebp)
        verdict "two timers at once, vcpu "

        call clear
        movl $0x80000010, SIM + 0x200(%ebp)
        call now
        add $MS, %esi
        adc $0, %edi
        arm 0, "TO_SINT2 | ENABLE"
        until "cmpb $1, SIM + 0x205(%ebp)", e
        call nap
        cmpl $0, FIRES(%ebp)
        verdict "full slot: nothing yet, vcpu "
        movl $0, SIM + 0x200(%ebp)
        wrmsr_of EOM, $0
        until "cmpl $1, FIRES(%ebp)", e
        cmpl $1, FIRES(%ebp)
        verdict "full slot: after EOM, vcpu "

        mov $0x40000003, %eax
        push %ebx
        cpuid
        pop %ebx
        bt $19, %edx
        jnc 1f
        one_shot 0, "DIRECT | 0xd0 << 4 | ENABLE", "direct one-shot, vcpu "
        periodic 1, "DIRECT | 0xd1 << 4 | ENABLE | PERIODIC", "direct periodic, vcpu "
1:      ret

now:    rdmsr_of TIME_REF_COUNT                 # to EDI:ESI
        mov %eax, %esi
        mov %edx, %edi
        ret
clear:  wrmsr_of STIMER0_CONFIG, $0             # with auto-enable left in it, COUNT would start it
        wrmsr_of STIMER0_CONFIG + 2, $0
        cli
        xor %eax, %eax
        lea INPUT(%ebp), %edi
        mov $8, %ecx
        rep stosl
        sti
        ret

on_timer:
        lea -0xd0(%ecx), %eax
        cmp $1, %eax
        ja 1f
        incl FIRES(%ebp,%eax,4)
        ret
1:      lea SIM + 0x200(%ebp), %esi
        call slot
        lea SIM + 0x300(%ebp), %esi
slot:   cmpl $0, (%esi)                         # a message at ESI: look at it, and empty the slot
        je 9f
        cmpl $0x80000010, (%esi)
        jne 8f
        cmpb $24, 4(%esi)
        jne 8f
        mov 16(%esi), %ecx                      # the timer
        cmp $1, %ecx
        ja 8f
        incl FIRES(%ebp,%ecx,4)
        mov 24(%esi), %edx                      # expired <= delivered <= now
        mov 32(%esi), %eax
        sub %edx, %eax
        js 8f
        mov LAST(%ebp,%ecx,8), %eax             # whole periods since the last
        mov %edx, LAST(%ebp,%ecx,8)
        test %eax, %eax
        jz 7f
        sub %eax, %edx
        mov %edx, %eax
        xor %edx, %edx
        mov $MS, %ecx
        div %ecx
        test %edx, %edx
        jnz 8f
7:      rdmsr_of TIME_REF_COUNT
        sub 32(%esi), %eax
        jns 6f
8:      incl ERRORS(%ebp)
6:      movl $0, (%esi)
        lock orl $0, (%esi)
        testb $1, 5(%esi)
        jz 9f
        wrmsr_of EOM, $0
9:      ret
