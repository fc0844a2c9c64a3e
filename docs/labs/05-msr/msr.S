# Reads and writes MSRs; one that is refused raises #GP, and the handler goes on behind it.
        .include "long.inc"
        .macro try_read msr
        mov $\msr, %ecx
        rdmsr
        call tell
        .endm
        .macro try_write msr, low
        write_msr \msr, \low
        call tell
        .endm
main:   gate 13, general_protection
        load_idt
        try_read 0x40000000             # HV_X64_MSR_GUEST_OS_ID
        try_write 0x40000000, 0x1234
        try_read 0x40000000
        try_read 0x40000002             # HV_X64_MSR_VP_INDEX
        try_write 0x40000002, 1         # is read-only
        try_read 0x40000080             # HV_X64_MSR_SCONTROL
        try_read 0x40000777             # nobody's
        off
tell:   push %rax                       # ECX the MSR, EAX its value; R15 is 1 after a #GP
        mov %ecx, %eax
        hex
        pop %rax
        test %r15, %r15
        jnz 1f
        print " is "
        hex
        newline
        ret
1:      print " #GP\n"
        xor %r15, %r15
        ret
general_protection:
        mov $1, %r15
        add $8, %rsp                    # the error code; RIP is next
        addq $2, (%rsp)                 # RDMSR and WRMSR are two bytes
        iretq
