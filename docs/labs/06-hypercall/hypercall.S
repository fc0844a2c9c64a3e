# Sets up the hypercall page and makes calls that succeed and fail; the status is AX.
        .include "long.inc"
        .set PAGE, 0x400000
        .set FAST, 1 << 16              # the input is in RDX and R8, not in memory
        .macro hypercall text, control, first=0, second=0
        print "\text"
        mov $\control, %rcx
        mov $\first, %rdx
        mov $\second, %r8
        mov $PAGE, %eax
        call *%rax
        print ": "
        hex
        newline
        .endm
main:   write_msr 0x40000000, 0x1234    # HV_X64_MSR_GUEST_OS_ID: an OS is here
        write_msr 0x40000001, PAGE + 1  # HV_X64_MSR_HYPERCALL: the page, enabled
        print "here the page begins with "
        mov PAGE, %eax
        hex
        newline
        hypercall "HvCallNotifyLongSpinWait", 0x08 + FAST, 1
        hypercall "no such call", 0x777 + FAST
        hypercall "a reserved bit in the input value", 0x08 + FAST + 1 << 27
        hypercall "HvCallSignalEvent, no such connection", 0x5d + FAST, 99
        hypercall "HvCallPostMessage, input not aligned", 0x5c, 0x500002
        movl $99, 0x500000              # the connection; then 0, the message's type, its size
        movl $1, 0x500008
        hypercall "HvCallPostMessage, no such connection", 0x5c, 0x500000
        movl $241, 0x50000c
        hypercall "HvCallPostMessage, 241 bytes", 0x5c, 0x500000
        off
