# The probe's other processors, started in real mode, and the two scenarios that end the machine.

        .code64
# prints each processor's VP index; -1 is #GP
op_processors: mov $AP_INDEXES, %edi
        mov $NO_CPU, %eax
        mov $256, %ecx
        rep stosl
        mov $FW_CFG, %edx
        mov $FW_CFG_NB_CPUS, %eax
        out %ax, %dx
        inc %edx
        in %dx, %al
        movzbl %al, %ebx
        dec %ebx
        jz 3f                           # EBX: how many there are beyond us
        mov $ap_start, %esi
        mov $AP_CODE, %edi
        mov $(ap_end - ap_start), %ecx
        rep movsb
        movl $0, AP_COUNT
        mov 13 * 4, %r10d
        movl $(AP_CODE + ap_fault - ap_start), 13 * 4   # real mode's #GP
        mov $(APIC + 0x300), %edi
        movl $0x000c4500, (%rdi)        # INIT, then SIPI, to all but us
        mov $SHORT_WAIT, %eax
        call wait
        movl $0x000c4608, (%rdi)
        mov $LONG_WAIT, %rax
        call deadline
1:      cmp %ebx, AP_COUNT
        jae 2f
        call late
        jb 1b
2:      mov %r10d, 13 * 4
3:      mov $VP_INDEX, %ecx
        movl $NO_FAULT, fault
        movl $4f, resume
        rdmsr
4:      movl $0, resume
        cmpl $NO_FAULT, fault
        je 5f
        mov $-1, %eax
5:      mov %eax, AP_INDEXES
        xor %ebx, %ebx
6:      mov AP_INDEXES(,%rbx,4), %eax
        cmp $NO_CPU, %eax
        je 7f
        mov $text_processor, %esi
        call puts
        mov %ebx, %eax
        call hex32
        mov AP_INDEXES(,%rbx,4), %eax
        call space_hex32
        call newline
7:      inc %ebx
        cmp $256, %ebx
        jb 6b
        ret
wait:   call deadline
1:      call late
        jb 1b
        ret

        .code16
ap_start: cli
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov $0x7ff0, %sp
        mov $1, %eax
        cpuid
        shr $24, %ebx
        mov %ebx, %esi
        mov $VP_INDEX, %ecx
        rdmsr
ap_store: addr32 mov %eax, AP_INDEXES(,%esi,4)
        lock incl AP_COUNT
1:      hlt
        jmp 1b
ap_fault: mov $-1, %eax
        jmp ap_store
ap_end:

        .code64
only_reset: mov $text_only_reset, %esi
        call puts
        mov $0x40000003, %ecx
        mov $1, %eax
        xor %edx, %edx
        movl $1f, resume
        wrmsr
1:      mov $text_still_here, %esi
        jmp failed
only_crash: mov $text_only_crash, %esi
        call puts
        mov $0x40000100, %ecx
1:      mov $0xc0de0000, %eax
        mov %cl, %al
        mov $0xabcd, %edx
        movl $2f, resume
        wrmsr
2:      inc %ecx
        cmp $0x40000105, %ecx
        jb 1b
        xor %eax, %eax
        mov $0x80000000, %edx
        movl $3f, resume
        wrmsr
3:      mov $text_still_here, %esi
failed: call puts
        mov $1, %eax
        jmp quit
