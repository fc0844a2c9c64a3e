# Sends VMBus's first message by HvCallPostMessage and gets the answer through the SynIC.
        .include "long.inc"
        .set PAGE, 0x400000             # hypercalls
        .set INPUT, 0x401000            # of HvCallPostMessage
        .set MESSAGES, 0x402000         # 16 slots of 256 bytes, one per SINT
        .set SLOT, MESSAGES + 2 * 256
        .ifndef VERSION
        .set VERSION, 0x50003           # VMBus 5.3
        .endif
main:   gate 0x50, interrupt
        load_idt
        mov $0xfee000f0, %eax
        movl $0x1ff, (%rax)             # the local APIC on
        write_msr 0x40000000, 0x1234    # HV_X64_MSR_GUEST_OS_ID
        write_msr 0x40000001, PAGE + 1  # HV_X64_MSR_HYPERCALL
        write_msr 0x40000083, MESSAGES + 1      # HV_X64_MSR_SIMP
        write_msr 0x40000080, 1         # HV_X64_MSR_SCONTROL: the SynIC on
        write_msr 0x40000092, 0x50      # HV_X64_MSR_SINT2: vector 50h, not masked
        movl $4, INPUT                  # connection 4: VMBus
        movl $1, INPUT + 8              # message type 1
        movl $40, INPUT + 12            # bytes that follow
        movl $14, INPUT + 16            # INITIATE_CONTACT
        movl $VERSION, INPUT + 24
        movl $2, INPUT + 32             # answer on SINT 2 (of VP 0)
        mov $0x5c, %ecx                 # HvCallPostMessage, the input in memory
        mov $INPUT, %edx
        mov $PAGE, %eax
        call *%rax
        print "HvCallPostMessage: status "
        hex
        newline
wait:   sti                             # HLT is still in STI's shadow: no interrupt is missed
        hlt
        cli
        cmpl $0, SLOT
        je wait
        print "message on SINT 2: type "
        mov SLOT, %eax
        hex
        print ", VMBus message "
        mov SLOT + 16, %eax             # 15: VERSION_RESPONSE
        decimal
        print ", version accepted: "
        movzbl SLOT + 24, %eax
        decimal
        newline
        movl $0, SLOT                   # the slot is free again ...
        write_msr 0x40000084, 0         # ... HV_X64_MSR_EOM: and more may come
        off
interrupt:
        print "interrupt 0x50\n"
        push %rax
        mov $0xfee000b0, %eax
        movl $0, (%rax)                 # end of interrupt, to the local APIC
        pop %rax
        iretq
