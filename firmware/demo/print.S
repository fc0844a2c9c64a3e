# Text is collected and goes out a line at a time with one string output: an exit per character
# would be most of the demo's time. No function but the ones that say so changes a register.
        .code64
print_start:                            # 8 data bits, no interrupts; changes RAX, RDX
        mov $COM1 + 1, %edx
        xor %eax, %eax
        out %al, %dx
        mov $COM1 + 3, %edx
        mov $3, %al
        out %al, %dx
        movl $text, text_at
        ret

say_inline:                             # the text behind the call, up to a NUL
        xchg %rsi, (%rsp)
        push %rax
1:      movzbl (%rsi), %eax
        inc %rsi
        test %al, %al
        jz 2f
        call character
        jmp 1b
2:      pop %rax
        xchg %rsi, (%rsp)
        ret

character:                              # AL
        push %rdi
        mov text_at, %edi
        cmp $text_end, %edi
        jae 1f
        mov %al, (%rdi)
        incl text_at
1:      pop %rdi
        ret

line:   push %rax
        push %rcx
        push %rdx
        push %rsi
        mov $13, %al
        call character
        mov $10, %al
        call character
        mov $COM1, %edx
        mov $text, %esi
        mov text_at, %ecx
        sub %esi, %ecx
        rep outsb
        movl $text, text_at
        pop %rsi
        pop %rdx
        pop %rcx
        pop %rax
        ret

decimal:                                # RAX, unsigned
        push %rax
        push %rcx
        push %rdx
        push %rbx
        mov $10, %ebx
        xor %ecx, %ecx
1:      xor %edx, %edx
        div %rbx
        push %rdx
        inc %ecx
        test %rax, %rax
        jnz 1b
2:      pop %rax
        add $'0', %al
        call character
        dec %ecx
        jnz 2b
        pop %rbx
        pop %rdx
        pop %rcx
        pop %rax
        ret

signed: test %rax, %rax                 # RAX
        jns decimal
        push %rax
        mov $'-', %al
        call character
        mov (%rsp), %rax
        neg %rax
        call decimal
        pop %rax
        ret

milliseconds:                           # RAX in 100 ns, with two decimals
        push %rax
        push %rcx
        push %rdx
        xor %edx, %edx
        mov $10000, %ecx
        div %rcx
        call decimal
        mov $'.', %al
        call character
        mov %edx, %eax
        xor %edx, %edx
        mov $100, %ecx
        div %ecx
        xor %edx, %edx
        mov $10, %ecx
        div %ecx
        add $'0', %al
        call character
        lea '0'(%rdx), %eax
        call character
        say " ms"
        pop %rdx
        pop %rcx
        pop %rax
        ret

hex:                                    # the ECX lowest digits of RAX
        push %rax
        push %rcx
        push %rdx
        mov %rax, %rdx
        shl $2, %ecx
1:      sub $4, %ecx
        mov %rdx, %rax
        shr %cl, %rax
        and $15, %eax
        mov digits(%rax), %al
        call character
        test %ecx, %ecx
        jnz 1b
        pop %rdx
        pop %rcx
        pop %rax
        ret

hex32:  push %rcx                       # EAX
        mov $8, %ecx
        say "0x"
        call hex
        pop %rcx
        ret

hex64:  push %rcx                       # RAX
        mov $16, %ecx
        say "0x"
        call hex
        pop %rcx
        ret

digits: .ascii "0123456789abcdef"
        .balign 4
text_at: .long 0
text:   .skip 254
text_end: .skip 2
