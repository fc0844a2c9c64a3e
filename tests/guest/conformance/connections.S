# HvCallPostMessage and HvCallSignalEvent, in the 32-bit form, to echoes of the hyperv-testdev:
# to self and to another CPU, to a full slot, to a full slot with one message staged, and to
# connections that were destroyed. Both SINTs are auto-EOI.
        .set MESSAGES, 8
        .set EVENTS, 9
        .set MESSAGE_VECTOR, 0x60
        .set EVENT_VECTOR, 0x61
        .set SLOT, SIM + 256 * MESSAGES
        .set FLAGS, SIEF + 256 * EVENTS + 4     # of events 0x20..0x3f
        .macro own_count vector                 # its address, to EDX
        mov %ebx, %edx
        shl $10, %edx
        add $counts + 4 * \vector, %edx
        .endm
        .macro count_is vector, value
        own_count \vector
        cmpl $\value, (%edx)
        .endm

test:   wrmsr_of GUEST_OS_ID, $0x1234
        test %ebx, %ebx
        jnz 1f
        wrmsr_of HYPERCALL, $code + 1
1:      call barrier
        lea SIM + 1(%ebp), %eax
        wrmsr_of SIMP, %eax
        lea SIEF + 1(%ebp), %eax
        wrmsr_of SIEFP, %eax
        wrmsr_of SCONTROL, $1
        lea 0x10(%ebx), %esi
        command 4, %ebx, MESSAGES, %esi
        wrmsr_of SINT0 + MESSAGES, $MESSAGE_VECTOR | AUTO_EOI
        lea 0x20(%ebx), %esi
        command 6, %ebx, EVENTS, %esi
        wrmsr_of SINT0 + EVENTS, $EVENT_VECTOR | AUTO_EOI
        mov $MESSAGE_VECTOR, %eax
        lock bts %eax, autos
        inc %eax
        lock bts %eax, autos
        sti
        call barrier
        mov $0x1234, %ecx
        call signal
        cmp $0x12, %eax
        verdict "unknown event connection: 0x12, vcpu "
        call barrier

        mov %ebx, %ecx
        mov $0xa0, %edi
        call post
        test %eax, %eax
        verdict "post to self: status, vcpu "
        until "count_is MESSAGE_VECTOR, 1", e
        count_is MESSAGE_VECTOR, 1
        verdict "post to self: interrupt, vcpu "
        mov $0xa0, %edi
        call message_is
        verdict "post to self: message, vcpu "
        call empty
        call barrier

        call other
        mov $0xb0, %edi
        call post
        call barrier
        until "count_is MESSAGE_VECTOR, 2", e
        mov $0xb0, %edi
        call message_is
        verdict "post to another: message, vcpu "
        call barrier
        call other
        mov $0xc0, %edi
        call post
        mov %eax, %esi
        call barrier
        until "cmpb $1, SLOT + 5(%ebp)", e
        movzbl SLOT + 5(%ebp), %eax             # flags: pending
        dec %eax
        or %esi, %eax
        verdict "full slot: staged, vcpu "
        call nap
        count_is MESSAGE_VECTOR, 2
        verdict "full slot: no interrupt, vcpu "
        cmpb $0xb0, SLOT + 16(%ebp)
        verdict "full slot: the old message, vcpu "
        call barrier
        call other
        mov $0xd0, %edi
        call post
        cmp $0x13, %eax
        verdict "one is staged: 0x13, vcpu "
        call barrier
        call empty
        until "count_is MESSAGE_VECTOR, 3", e
        mov $0xc0, %edi
        call message_is
        verdict "after EOM: the staged message, vcpu "
        call empty
        call nap
        count_is MESSAGE_VECTOR, 3
        verdict "no more messages, vcpu "
        call barrier

        lea 0x20(%ebx), %ecx
        call signal
        test %eax, %eax
        verdict "signal to self: status, vcpu "
        until "count_is EVENT_VECTOR, 1", e
        call flag_is
        verdict "signal to self: flag, vcpu "
        movl $0, FLAGS(%ebp)
        call barrier
        call other
        add $0x20, %ecx
        call signal
        call barrier
        until "count_is EVENT_VECTOR, 2", e
        call flag_is
        verdict "signal to another: flag, vcpu "
        call barrier
        call other
        add $0x20, %ecx
        call signal
        test %eax, %eax
        verdict "set already: status, vcpu "
        call nap
        call barrier
        count_is EVENT_VECTOR, 2
        verdict "set already: no interrupt, vcpu "
        call barrier

        lea 0x10(%ebx), %esi
        command 5, $0, 0, %esi
        lea 0x20(%ebx), %esi
        command 7, $0, 0, %esi
        mov %ebx, %ecx
        call post
        cmp $0x12, %eax
        verdict "destroyed message connection: 0x12, vcpu "
        lea 0x20(%ebx), %ecx
        call signal
        cmp $0x12, %eax
        verdict "destroyed event connection: 0x12, vcpu "
        ret

other:  lea 1(%ebx), %ecx                       # the next CPU, to ECX
        cmp cpus, %ecx
        jb 1f
        xor %ecx, %ecx
1:      ret
post:   lea 0x10(%ecx), %eax                    # EDI as payload to CPU ECX; status in EAX
        mov %eax, INPUT(%ebp)
        movl $0x12345678, INPUT + 8(%ebp)
        movl $8, INPUT + 12(%ebp)
        mov %edi, INPUT + 16(%ebp)
        lea INPUT(%ebp), %ecx
        mov $0x5c, %eax
        jmp call_
signal: mov $0x1005d, %eax                      # fast; ECX is the connection
call_:  push %ebx
        push %esi
        push %edi
        xor %edx, %edx
        xor %ebx, %ebx
        xor %edi, %edi
        xor %esi, %esi
        call code
        pop %edi
        pop %esi
        pop %ebx
        ret
message_is:                                     # ZF: EDI came, and nothing is pending
        cmpl $0x12345678, SLOT(%ebp)
        jne 1f
        cmpl $8, SLOT + 4(%ebp)                 # size 8, flags 0
        jne 1f
        cmp %edi, SLOT + 16(%ebp)
1:      ret
empty:  movl $0, SLOT(%ebp)
        lock orl $0, SLOT(%ebp)
        testb $1, SLOT + 5(%ebp)
        jz 1f
        wrmsr_of EOM, $0
1:      ret
flag_is:                                        # ZF: own flag, and no other
        mov $1, %eax
        mov %ebx, %ecx
        shl %cl, %eax
        cmp %eax, FLAGS(%ebp)
        ret
        .bss
        .balign 4096
code:   .skip 4096
        .text
