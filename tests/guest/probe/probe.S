# The probe guest: walks a table of operations and writes what it saw as text into guest memory.
#
# Started by multiboot in flat 32-bit mode. The command line's last character is the scenario:
#   X  every operation of `table`
#   S  `table_before`, reset by port 0xcf9, then `table_after` in the second life; T: by MSR
#   R  writes HV_X64_MSR_RESET;  C  writes the crash MSRs
# Text: length (u32) at LOG, characters from LOG + 4. End: a 4-byte OUT to 0xf4, 0 is well done.
# A row of a table is 32 bytes: handler (u32), a (u32), b, c, d (u64); EBP points to it.
# Only instructions that kvm_pvm, a KVM in software, can emulate in CPL 0.

        .set EXIT_PORT, 0xf4
        .set FW_CFG, 0x510
        .set FW_CFG_NB_CPUS, 5
        .set STACK, 0x2f0000
        .set PAGE_TABLES, 0x200000
        .set LOG, 0x380000
        .set MARK, 0x2f8000             # not loaded: tells the second life that there was a first
        .set MARKED, 0x600df00d
        .set APIC, 0xfee00000
        .set VP_INDEX, 0x40000002
        .set AP_CODE, 0x8000
        .set AP_COUNT, 0x8ff0
        .set AP_INDEXES, 0x9000         # u32 for each APIC id
        .set NO_CPU, -2
        .set NO_FAULT, -1
        .set SHORT_WAIT, 1 << 24        # TSC cycles: some ms
        .set LONG_WAIT, 1 << 33         # some s: only what should come is waited for that long

        .text
        .code32
        .globl _start
        .align 4
header: .long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
        .long header, header, _edata, _end, _start
_start: cli
        cld
        mov $STACK, %esp
        mov %ebx, information
        mov $PAGE_TABLES, %edi          # 4 GiB, identity, 2 MiB pages
        xor %eax, %eax
        mov $(2 * 1024), %ecx
        rep stosl
        movl $(PAGE_TABLES + 0x1000 + 7), PAGE_TABLES
        mov $(PAGE_TABLES + 0x2000 + 7), %eax
        mov $(PAGE_TABLES + 0x1000), %edi
1:      mov %eax, (%edi)
        add $8, %edi
        add $0x1000, %eax
        cmp $(PAGE_TABLES + 0x6000 + 7), %eax
        jb 1b
        mov $(PAGE_TABLES + 0x2000), %edi
        mov $0x87, %eax
2:      mov %eax, (%edi)
        movl $0, 4(%edi)
        add $8, %edi
        add $0x200000, %eax
        jnc 2b
        mov $0x6a0, %eax                # PAE, PGE, OSFXSR, OSXMMEXCPT
        mov %eax, %cr4
        mov $PAGE_TABLES, %eax
        mov %eax, %cr3
        mov $0xc0000080, %ecx
        rdmsr
        or $0x100, %eax
        wrmsr
        mov $0x80010033, %eax
        mov %eax, %cr0
        lgdt gdtr
        ljmp $8, $long
        .code64
long:   mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        xor %eax, %eax
        mov %eax, %fs
        mov %eax, %gs
        mov $STACK, %esp
        call set_traps
        mov $0xff, %al                  # no PIC
        out %al, $0x21
        out %al, $0xa1
        mov $(APIC + 0xf0), %eax        # the APIC takes interrupts; they stay in its IRR
        movl $0x1ff, (%rax)
        mov information, %ebx
        mov 16(%rbx), %ebx
1:      mov (%rbx), %cl
        test %cl, %cl
        jz 2f
        mov %cl, scenario
        inc %ebx
        jmp 1b
2:      cmpl $MARKED, MARK
        je 3f
        movl $0, LOG
3:      mov $text_begin, %esi
        call puts
        cmpb $'R', scenario
        je only_reset
        cmpb $'C', scenario
        je only_crash
        mov $table, %ebp
        cmpb $'X', scenario
        je next
        mov $table_before, %ebp
        cmpl $MARKED, MARK
        jne next
        movl $0, MARK
        mov $table_after, %ebp
next:   mov (%rbp), %eax
        call *%rax
        add $32, %ebp
        jmp next

op_end: mov $text_end, %esi
        call puts
        xor %eax, %eax
quit:   mov $EXIT_PORT, %edx
        out %eax, %dx
1:      hlt
        jmp 1b

# a: a text
op_text: mov 4(%rbp), %esi
        jmp puts

# a: leaf, b: subleaf
op_cpuid: mov 4(%rbp), %edi
        mov 8(%rbp), %esi
        mov %edi, %eax
        call hex32
        mov $'.', %al
        call putc
        mov %esi, %eax
        call hex32
        mov %edi, %eax
        mov %esi, %ecx
        cpuid
        mov %ebx, word0
        mov %ecx, word1
        mov %edx, word2
        call space_hex32
        mov word0, %eax
        call space_hex32
        mov word1, %eax
        call space_hex32
        mov word2, %eax
        call space_hex32
        jmp newline

# a: MSR
op_rdmsr: mov $text_msr, %esi
        call puts
        mov 4(%rbp), %eax
        call hex32
        mov 4(%rbp), %ecx
        movl $NO_FAULT, fault
        movl $1f, resume
        rdmsr
1:      movl $0, resume
        cmpl $NO_FAULT, fault
        jne fault_line
        shl $32, %rdx
        mov %eax, %eax
        or %rdx, %rax
        call space_hex64
        jmp newline

# a: MSR, b: value
op_wrmsr: mov $text_wrmsr, %esi
        call puts
        mov 4(%rbp), %eax
        call hex32
        mov 8(%rbp), %rax
        call space_hex64
        mov 4(%rbp), %ecx
        mov 8(%rbp), %eax
        mov 12(%rbp), %edx
        movl $NO_FAULT, fault
        movl $1f, resume
        wrmsr
1:      movl $0, resume
        cmpl $NO_FAULT, fault
        jne fault_line
        mov $text_ok, %esi
        call puts
        jmp newline

# b, c, d: RCX, RDX, R8 of a 64-bit call of the hypercall page; XMM0 and XMM1 are zero
op_hypercall: mov $text_hcall, %esi
        call puts
        mov 8(%rbp), %rax
        call hex64
        mov 16(%rbp), %rax
        call space_hex64
        mov 24(%rbp), %rax
        call space_hex64
        mov $text_arrow, %esi
        call puts
        mov 8(%rbp), %rcx
        mov 16(%rbp), %rdx
        mov 24(%rbp), %r8
        movl $NO_FAULT, fault
        movl $1f, resume
        mov %rsp, saved_rsp
        mov $HYPERCALL_PAGE, %eax
        call *%rax
1:      mov saved_rsp, %rsp
        movl $0, resume
        cmpl $NO_FAULT, fault
        jne fault_line
        call space_hex64
        jmp newline

# a: byte, b: page
op_fill: movzbl 4(%rbp), %eax
        mov $0x0101010101010101, %rcx
        imul %rcx, %rax
        mov 8(%rbp), %rdi
        mov $512, %ecx
        rep stosq
        ret

# b: page; counts its 64-bit words that are not zero
op_nonzero: mov $text_nonzero, %esi
        call puts
        mov 8(%rbp), %rax
        call hex32
        mov 8(%rbp), %rdi
        lea 4096(%rdi), %rcx
        xor %eax, %eax
1:      cmpq $0, (%rdi)
        je 2f
        inc %eax
2:      add $8, %rdi
        cmp %rcx, %rdi
        jb 1b
        call space_hex32
        jmp newline

# a: count, b: address
op_dump: mov $text_mem, %esi
        call puts
        mov 8(%rbp), %rax
        call hex32
        mov $' ', %al
        call putc
        mov 8(%rbp), %rdi
        mov 4(%rbp), %ebx
1:      mov (%rdi), %al
        call hex8
        inc %rdi
        dec %ebx
        jnz 1b
        jmp newline

# b: address of a 32-bit word; waits until it is not zero, not long if the last access faulted
op_poll: mov $SHORT_WAIT, %eax
        cmpl $NO_FAULT, fault
        jne 1f
        mov $LONG_WAIT, %rax
1:      mov 8(%rbp), %rdi
        call deadline
2:      mov (%rdi), %eax
        test %eax, %eax
        jnz 3f
        call late
        jb 2b
3:      mov $text_poll, %esi
        call puts
        mov %edi, %eax
        call hex32
        mov (%rdi), %eax
        call space_hex32
        jmp newline

op_irr: mov $text_irr, %esi
        call puts
        mov $(APIC + 0x220), %eax       # vectors 0x40..0x5f
        mov (%rax), %eax
        call hex32
        jmp newline

op_cr8: mov $text_cr8, %esi
        call puts
        mov %cr8, %rax
        call hex32
        jmp newline

op_reset: movl $MARKED, MARK
        mov $text_reset, %esi
        call puts
        cmpb $'T', scenario
        je 1f
        mov $0xcf9, %edx
        mov $2, %al
        out %al, %dx
        mov $6, %al
        out %al, %dx
        jmp 2f
1:      mov $0x40000003, %ecx
        mov $1, %eax
        xor %edx, %edx
        wrmsr
2:      hlt
        jmp 2b

# RAX: cycles from now -> R9; late: below if that is not over. Both use RAX, RDX.
deadline: mov %rax, %r9
        rdtsc
        shl $32, %rdx
        or %rdx, %rax
        add %rax, %r9
        ret
late:   pause
        rdtsc
        shl $32, %rdx
        or %rdx, %rax
        cmp %r9, %rax
        ret

        .include "others.S"
        .include "text.S"
        .include "tables.inc"

        .data
        .align 16
gdt:    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr:   .word 23
        .long gdt, 0
        .align 8
saved_rsp: .quad 0
information: .long 0
word0:  .long 0
word1:  .long 0
word2:  .long 0
scenario: .byte 0
