# Waits for a timer's message, as lab 9 does. It waits for ever: there is one mistake.
        .include "long.inc"
        .set MESSAGES, 0x402000
        .set SLOT, MESSAGES + 3 * 256
main:   gate 0x50, tick
        load_idt
        mov $0xfee000f0, %eax
        movl $0x1ff, (%rax)             # the local APIC on
        write_msr 0x40000083, MESSAGES + 1      # HV_X64_MSR_SIMP
        write_msr 0x40000080, 1         # HV_X64_MSR_SCONTROL
        .ifdef CURED
        write_msr 0x40000093, 0x50      # HV_X64_MSR_SINT3
        .else
        write_msr 0x40000093, 0x10050
        .endif
        write_msr 0x400000b1, 100000    # HV_X64_MSR_STIMER0_COUNT
        write_msr 0x400000b0, 0x30003   # HV_X64_MSR_STIMER0_CONFIG
        print "waiting\n"
wait:   sti
        hlt
        cli
        cmpl $0, SLOT
        je wait
        print "a tick\n"
        off
tick:   push %rax
        mov $0xfee000b0, %eax
        movl $0, (%rax)
        pop %rax
        iretq
