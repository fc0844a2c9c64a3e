# 16 SINTs of one priority class, four of them auto-EOI, raised by another CPU through the
# hyperv-testdev; a masked one, and one whose route is gone, stay silent.
        .macro each body:vararg                 # EDI = 0..15
        xor %edi, %edi
11:     \body
        inc %edi
        cmp $16, %edi
        jb 11b
        .endm
        .set VECTOR, 0xb0
        .set AUTOS, 1 << 3 | 1 << 8 | 1 << 10 | 1 << 14

test:   rdmsr_of SVERSION
        cmp $1, %eax
        verdict "SVERSION is 1, vcpu "
        rdmsr_of EOM
        or %edx, %eax
        verdict "EOM reads 0, vcpu "
        wrmsr_of SCONTROL, $1
        each call prepare
        call barrier
        sti
        mov cpus, %eax                          # the partner: the last CPU tests the first
        dec %eax
        sub %ebx, %eax
        mov %eax, %ebp
        each call raise
        until "call sum", z
        call sum
        verdict "16 SINTs raised by another, vcpu "
        call each_once
        verdict "each came once, vcpu "
        call barrier
        cli
        call in_service
        verdict "nothing stays in service, vcpu "
        sti
        wrmsr_of SINT0 + 5, $VECTOR + 5 | MASKED
        command 2, %ebx, 6
        call barrier
        mov $5, %edi
        call raise
        mov $6, %edi
        call raise
        call nap
        call barrier
        call each_once
        verdict "masked and destroyed: silence, vcpu "
        ret

prepare:
        mov %ebx, %eax
        shl $8, %eax
        or %edi, %eax
        or $1 << 16, %eax
        mov $0x3000, %dx
        out %eax, %dx
        lea VECTOR(%edi), %eax
        mov $AUTOS, %edx
        bt %edi, %edx
        jnc 1f
        lock bts %eax, autos
        or $AUTO_EOI, %eax
1:      lea SINT0(%edi), %ecx
        xor %edx, %edx
        wrmsr
        ret
raise:  mov %ebp, %eax
        shl $8, %eax
        or %edi, %eax
        or $3 << 16, %eax
        mov $0x3000, %dx
        out %eax, %dx
        ret
sum:    push %edi                               # ZF: 16 interrupts came in all
        push %esi
        xor %esi, %esi
        mov %ebx, %eax
        shl $8, %eax
        mov $VECTOR, %edi
1:      lea (%eax,%edi), %edx
        add counts(,%edx,4), %esi
        inc %edi
        cmp $VECTOR + 16, %edi
        jb 1b
        cmp $16, %esi
        pop %esi
        pop %edi
        ret
each_once:
        push %esi
        xor %esi, %esi
        each call once
        test %esi, %esi
        pop %esi
        ret
once:   mov %ebx, %edx
        shl $8, %edx
        add %edi, %edx
        cmpl $1, counts + 4 * VECTOR(,%edx,4)
        je 1f
        inc %esi
1:      ret
in_service:
        xor %eax, %eax
        mov $APIC + 0x100, %edx
1:      or (%edx), %eax
        add $16, %edx
        cmp $APIC + 0x180, %edx
        jb 1b
        test %eax, %eax
        ret
