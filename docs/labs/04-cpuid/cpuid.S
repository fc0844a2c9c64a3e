# Prints the hypervisor's CPUID leaves, a line each: leaf EAX EBX ECX EDX.
        .include "long.inc"
main:   mov $1, %eax
        cpuid
        bt $31, %ecx                    # 1.ECX[31]: there is a hypervisor
        jnc none
        mov $0x40000000, %r8d
        mov %r8d, %eax
        cpuid
        mov %eax, %r9d                  # the last of its leaves
        cmp $0x40000000, %r9d
        jae next
        mov $0x40000001, %r9d           # KVM may say 0 and means this
next:   mov %r8d, %eax
        xor %ecx, %ecx
        cpuid
        push %rdx
        push %rcx
        push %rbx
        push %rax
        mov %r8d, %eax
        hex
        .rept 4
        pop %rax
        print " "
        hex
        .endr
        newline
        inc %r8d
        cmp %r9d, %r8d
        jbe next
        off
none:   print "no hypervisor\n"
        off
