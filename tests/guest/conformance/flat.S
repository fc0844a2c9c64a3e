# What the conformance guests share: a multiboot kernel in 32-bit protected mode that finds its
# CPUs through fw_cfg, starts them all, and ends through isa-debug-exit: 0 passed, 1 failed, 63 a
# fault. Each CPU calls `test` with EBX = its index, EBP = its pages. Interrupts are counted and
# get an EOI, but not those whose vector is in `autos`.
        .code32
        .ifndef LIMIT
        .set LIMIT, 8                           # 2**32 TSC cycles: how long `until` waits
        .endif
        .set MAX_CPUS, 4
        .set SIM, 0x0000                        # a CPU's pages, from its `page` on
        .set SIEF, 0x1000
        .set INPUT, 0x2000
        .set PAGES, 0x4000
        .set APIC, 0xfee00000
        .set GUEST_OS_ID, 0x40000000
        .set HYPERCALL, 0x40000001
        .set VP_INDEX, 0x40000002
        .set TIME_REF_COUNT, 0x40000020
        .set REFERENCE_TSC, 0x40000021
        .set SCONTROL, 0x40000080
        .set SVERSION, 0x40000081
        .set SIEFP, 0x40000082
        .set SIMP, 0x40000083
        .set EOM, 0x40000084
        .set SINT0, 0x40000090
        .set STIMER0_CONFIG, 0x400000b0
        .set AUTO_EOI, 1 << 17
        .set MASKED, 1 << 16

        .macro rdmsr_of msr                     # -> EDX:EAX
        mov $\msr, %ecx
        rdmsr
        .endm
        .macro wrmsr_of msr, low, high=$0
        mov \low, %eax
        mov \high, %edx
        mov $\msr, %ecx
        wrmsr
        .endm
        .macro command control, vp, sint, connection=$0 # hyperv-testdev; vp and connection: EAX free
        mov \connection, %eax
        shl $16, %eax
        or \vp, %eax
        shl $8, %eax
        or $\sint | \control << 16, %eax
        mov $0x3000, %dx
        out %eax, %dx
        .endm
        .macro verdict text                     # ZF: passed
        .pushsection .data
99:     .asciz "\text"
        .popsection
        push %esi
        mov $99b, %esi
        call report
        pop %esi
        .endm
        .macro until condition, flag            # spin while not; at most LIMIT
        call deadline
98:     pause
        call expired
        jnc 97f
        \condition
        jn\flag 98b
97:
        .endm

        .text
        .globl _start
        .balign 4
        .long 0x1badb002, 0, -0x1badb002
_start: cld
        cmp $0x2badb002, %eax
        jne fault
        lgdt gdtr
        ljmp $8, $1f
1:      mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        xor %ecx, %ecx                          # all gates: the stub of their vector
        mov $stubs, %eax
1:      mov %ax, idt(,%ecx,8)
        mov %eax, %edx
        shr $16, %edx
        mov %dx, idt + 6(,%ecx,8)
        movl $0x8e000008, idt + 2(,%ecx,8)      # selector 8, interrupt gate
        add $16, %eax
        inc %ecx
        cmp $256, %ecx
        jb 1b
        mov $0xff, %al
        out %al, $0x21
        out %al, $0xa1
        mov $5, %eax                            # fw_cfg: the number of CPUs
        mov $0x510, %dx
        out %ax, %dx
        inc %dx
        in %dx, %al
        movzx %al, %eax
        mov %eax, cpus
        mov $ap16, %esi
        mov $0x1000, %edi
        mov $ap16_end - ap16, %ecx
        rep movsb
        movl $0xc4500, APIC + 0x300             # INIT, then SIPI 0x01: all but self
        movl $0xc4601, APIC + 0x300
        jmp ap32

        .code16
ap16:   cli
        lgdtl %cs:gdtr - ap16
        mov $0x11, %eax
        mov %eax, %cr0
        ljmpl $8, $ap32
        .balign 4
gdtr:   .word 23
        .long gdt
ap16_end:
        .code32
ap32:   mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        lidt idtr
        movl $0x1ff, APIC + 0xf0
        mov APIC + 0x20, %ebx
        shr $24, %ebx
        cmp $MAX_CPUS, %ebx
        jae fault
        mov %ebx, %ebp                          # EBP: this CPU's pages
        imul $PAGES, %ebp
        add $pages, %ebp
        lea PAGES(%ebp), %esp
        call barrier                            # all are here
        rdmsr_of VP_INDEX
        cmp %ebx, %eax
        verdict "VP index is APIC id, vcpu "
        call test
        cli
        call barrier
        test %ebx, %ebx
        jnz 2f
        mov failed, %eax
        mov $0xf4, %dx
        out %eax, %dx
2:      hlt
        jmp 2b
fault:  mov $63, %eax
        mov $0xf4, %dx
        out %eax, %dx
        jmp 2b

# All CPUs have come here when it returns; any may come any number of times.
barrier:
        pushal
        mov generation, %eax
        mov $1, %edx
        lock xadd %edx, arrived
        inc %edx
        cmp cpus, %edx
        jne 1f
        movl $0, arrived
        incl generation
1:      pause
        cmp generation, %eax
        je 1b
        popal
        ret

deadline:                                       # of an `until`
        push %eax
        push %edx
        rdtsc
        add $LIMIT, %edx
        mov %edx, limits(,%ebx,4)
        pop %edx
        pop %eax
        ret
expired:                                        # CF: not yet
        push %eax
        push %edx
        rdtsc
        cmp limits(,%ebx,4), %edx
        pop %edx
        pop %eax
        ret
nap:                                            # 5 ms, for what must not come
        pushal
        rdmsr_of TIME_REF_COUNT
        lea 50000(%eax), %edi
1:      rdmsr_of TIME_REF_COUNT
        sub %edi, %eax
        js 1b
        popal
        ret

report: pushal                                  # ZF, ESI: text
        setnz %cl
1:      mov $1, %al
        xchg %al, printing
        test %al, %al
        jnz 1b
        mov $pass, %edi
        test %cl, %cl
        jz 2f
        movl $1, failed
        mov $fail, %edi
2:      xchg %esi, %edi
        call print
        mov %edi, %esi
        call print
        mov %bl, %al
        add $'0', %al
        mov $0x3f8, %dx
        out %al, %dx
        mov $10, %al
        out %al, %dx
        movb $0, printing
        popal
        ret
print:  mov $0x3f8, %dx
3:      lodsb
        test %al, %al
        jz 4f
        out %al, %dx
        jmp 3b
4:      ret

interrupt:                                      # the stub has pushed the vector
        pushal
        mov 32(%esp), %ecx
        cmp $32, %ecx
        jb fault
        mov APIC + 0x20, %ebx
        shr $24, %ebx
        mov %ebx, %eax
        shl $8, %eax
        add %ecx, %eax
        incl counts(,%eax,4)
        mov hook, %eax
        test %eax, %eax
        jz 1f
        mov %ebx, %ebp
        imul $PAGES, %ebp
        add $pages, %ebp
        call *%eax                              # EBX the CPU, EBP its pages, ECX the vector
1:      mov 32(%esp), %ecx
        bt %ecx, autos
        jc 2f
        movl $0, APIC + 0xb0
2:      popal
        add $4, %esp
        # Not IRET: a KVM that emulates CPL 0 may not know it in protected mode (measured).
        pushl 8(%esp)
        popfl
        lret $4

        .balign 16
stubs:  .set n, 0
        .rept 256
        .if n == 8 || (n >= 10 && n <= 14) || n == 17
        .byte 0x83, 0xc4, 4                     # add $4, %esp: drop the error code
        .endif
        push $n
        jmp interrupt
        .balign 16
        .set n, n + 1
        .endr

        .data
        .balign 8
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
idt:    .skip 2048
idtr:   .word 2047
        .long idt
        .balign 4
cpus:   .long 0
arrived: .long 0
generation: .long 0
failed: .long 0
hook:   .long 0
autos:  .skip 32                                # vectors with auto-EOI
limits: .skip 4 * MAX_CPUS
counts: .skip 4 * 256 * MAX_CPUS
printing: .byte 0
pass:   .asciz "PASS: "
fail:   .asciz "FAIL: "
        .bss
        .balign 4096
pages:  .skip PAGES * MAX_CPUS                  # the stack grows down from the end of each
        .text
