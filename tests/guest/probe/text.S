# The probe's text and its exceptions. Output keeps every register but RAX (and RSI in puts).

        .code64
putc:   push %rbx
        mov LOG, %ebx
        mov %al, LOG + 4(%rbx)
        incl LOG
        pop %rbx
        ret
puts:   mov (%rsi), %al
        test %al, %al
        jz 1f
        call putc
        inc %esi
        jmp puts
1:      ret
newline: mov $'\n', %al
        jmp putc
space_hex64: push %rax
        mov $' ', %al
        call putc
        pop %rax
hex64:  push %rax
        shr $32, %rax
        call hex32
        pop %rax
        jmp hex32
space_hex32: push %rax
        mov $' ', %al
        call putc
        pop %rax
hex32:  push %rcx                       # in place: a call for each digit costs four times as much
        push %rdx
        push %rdi
        mov LOG, %edi
        addl $8, LOG
        add $(LOG + 4), %edi
        mov $8, %ecx
1:      rol $4, %eax
        mov %eax, %edx
        and $15, %edx
        mov digits(%rdx), %dl
        mov %dl, (%rdi)
        inc %edi
        dec %ecx
        jnz 1b
        pop %rdi
        pop %rdx
        pop %rcx
        ret
hex8:   push %rax
        shr $4, %eax
        call hex4
        pop %rax
hex4:   and $15, %eax
        mov digits(%rax), %al
        jmp putc

# " #GP" and the line's end
fault_line: mov $text_gp, %esi
        cmpl $13, fault
        je 1f
        mov $text_ud, %esi
        cmpl $6, fault
        je 1f
        mov $text_pf, %esi
        cmpl $14, fault
        je 1f
        mov $text_exception, %esi
        call puts
        mov fault, %eax
        call hex8
        jmp newline
1:      call puts
        jmp newline

set_traps: mov $idt, %edi
        mov $stubs, %esi
        mov $32, %ecx
1:      mov %si, (%rdi)
        movw $8, 2(%rdi)
        movw $0x8e00, 4(%rdi)
        mov %esi, %eax
        shr $16, %eax
        mov %ax, 6(%rdi)
        movq $0, 8(%rdi)
        add $16, %edi
        add $16, %esi
        dec %ecx
        jnz 1b
        lidt idtr
        ret

        .align 16
stubs:  vector = 0
        .rept 32
        .align 16
        .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21)
        .else
        push $0
        .endif
        push $vector
        jmp trap
        vector = vector + 1
        .endr

# goes on at `resume` with the vector in `fault`; without one the guest ends, status 0x33
        .align 16
trap:   push %rax
        mov 8(%rsp), %eax
        cmpl $0, resume
        je 1f
        mov %eax, fault
        mov resume, %eax
        mov %rax, 24(%rsp)
        pop %rax
        add $16, %rsp
        iretq
1:      mov $text_unexpected, %esi
        call puts
        mov 8(%rsp), %eax
        call hex32
        mov 24(%rsp), %rax
        call space_hex64
        call newline
        mov $0x33, %eax
        jmp quit

        .data
digits: .ascii "0123456789abcdef"
text_begin: .asciz "hvprobe 1\n"
text_end: .asciz "hvprobe done\n"
text_msr: .asciz "msr "
text_wrmsr: .asciz "wrmsr "
text_ok: .asciz " ok"
text_gp: .asciz " #GP"
text_ud: .asciz " #UD"
text_pf: .asciz " #PF"
text_exception: .asciz " #"
text_hcall: .asciz "hcall "
text_arrow: .asciz " ->"
text_mem: .asciz "mem "
text_nonzero: .asciz "nonzero-qwords "
text_poll: .asciz "poll "
text_irr: .asciz "irr40-5f "
text_cr8: .asciz "cr8 "
text_processor: .asciz "vp-index-of-apic-id "
text_unexpected: .asciz "\nunexpected exception "
text_reset: .asciz "resetting\n"
text_only_reset: .asciz "writing RESET=1\n"
text_only_crash: .asciz "writing CRASH_CTL\n"
text_still_here: .asciz "still here\n"
        .align 8
fault:  .long NO_FAULT
resume: .long 0
idtr:   .word 511
        .quad idt
        .bss
        .align 16
idt:    .skip 512
