# Asks VMBus for its offers and prints the first four bytes of each class GUID.
        .include "long.inc"
        .set PAGE, 0x400000             # hypercalls
        .set INPUT, 0x401000            # of HvCallPostMessage: 0 connection, 8 type, 12 size, 16 data
        .set MESSAGES, 0x402000
        .set SLOT, MESSAGES + 2 * 256   # 0 type, 16 data
        .macro post connection, size
        movl $\connection, INPUT
        movl $1, INPUT + 8
        movl $\size, INPUT + 12
        mov $0x5c, %ecx
        mov $INPUT, %edx
        mov $PAGE, %eax
        call *%rax
        .endm
main:   gate 0x50, interrupt
        load_idt
        mov $0xfee000f0, %eax
        movl $0x1ff, (%rax)             # the local APIC on
        write_msr 0x40000000, 0x1234    # HV_X64_MSR_GUEST_OS_ID
        write_msr 0x40000001, PAGE + 1  # HV_X64_MSR_HYPERCALL
        write_msr 0x40000083, MESSAGES + 1      # HV_X64_MSR_SIMP
        write_msr 0x40000080, 1         # HV_X64_MSR_SCONTROL
        write_msr 0x40000092, 0x50      # HV_X64_MSR_SINT2: vector 50h
        movl $14, INPUT + 16            # INITIATE_CONTACT, 5.3, answers to SINT 2
        movl $0x50003, INPUT + 24
        movl $2, INPUT + 32
        post 4, 40
wait:   sti
        hlt
        cli
        cmpl $0, SLOT
        je wait
        mov SLOT + 16, %ebx             # the message's number
        cmp $15, %ebx                   # VERSION_RESPONSE: now REQUESTOFFERS
        jne 1f
        movl $3, INPUT + 16
        post 1, 8
1:      cmp $1, %ebx                    # OFFERCHANNEL
        jne 2f
        print "offer "
        mov SLOT + 24, %eax
        hex
        newline
2:      movl $0, SLOT                   # free; HV_X64_MSR_EOM brings the next one
        write_msr 0x40000084, 0
        cmp $4, %ebx                    # ALLOFFERS_DELIVERED
        jne wait
        off
interrupt:
        push %rax
        mov $0xfee000b0, %eax
        movl $0, (%rax)
        pop %rax
        iretq
