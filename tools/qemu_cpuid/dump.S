# A guest that writes all its CPUID leaves to COM1, one a line: "leaf.index eax ebx ecx edx", hexadecimal.
#
# Started by multiboot, so the same file runs under QEMU and under pyhv, and 32-bit CPU models can
# run it too. Leaves with sub-leaves are read at every index of a range. Ends by OUT to 0xf4.

        .set COM1, 0x3f8
        .set EXIT_PORT, 0xf4
        .set STACK, 0x200000
        .set MOST, 0x30                 # leaves of a range at most: the highest may be a lie

        .text
        .code32
        .globl _start
        .align 4
header: .long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)
        .long header, header, _edata, _end, _start
_start: mov $STACK, %esp
        mov $bases, %esi
range:  lodsl
        mov %eax, first
        push %esi
        mov %eax, %edi                  # edi: the leaf
        cpuid
        mov first, %edx
        cmp %edx, %eax                  # no such range: what comes back is of another one
        jb next
        lea MOST(%edx), %ecx
        cmp %ecx, %eax
        jbe 1f
        mov %ecx, %eax
1:      mov %eax, last
leaf:   call indexes                    # ebp: how many
        xor %esi, %esi
2:      mov %edi, %eax
        mov %esi, %ecx
        cpuid
        push %edx
        push %ecx
        push %ebx
        push %eax
        mov %edi, %eax
        call number
        mov $'.', %al
        call put
        mov %esi, %eax
        call number
        mov $4, %ecx
3:      mov $' ', %al
        call put
        pop %eax
        call number
        loop 3b
        mov $'\n', %al
        call put
        inc %esi
        cmp %ebp, %esi
        jb 2b
        inc %edi
        cmp last, %edi
        jbe leaf
next:   pop %esi
        cmp $bases_end, %esi
        jb range
        mov $'.', %al
        call put
        mov $'\n', %al
        call put
        xor %eax, %eax
        mov $EXIT_PORT, %dx
        out %eax, %dx
halt:   hlt
        jmp halt

# ebp = number of sub-leaves of leaf edi
indexes:
        mov $1, %ebp
        mov $counted, %ebx
1:      cmpl $0, 4(%ebx)
        je 2f
        cmp %edi, (%ebx)
        je 3f
        add $8, %ebx
        jmp 1b
3:      mov 4(%ebx), %ebp
2:      ret

# print eax, 8 digits
number: push %ecx
        push %edx
        mov $8, %ecx
1:      rol $4, %eax
        push %eax
        and $15, %al
        add $'0', %al
        cmp $'9', %al
        jbe 2f
        add $('a' - '9' - 1), %al
2:      call put
        pop %eax
        loop 1b
        pop %edx
        pop %ecx
        ret

# print al
put:    push %edx
        mov $COM1, %dx
        out %al, %dx
        pop %edx
        ret

        .data
bases:  .long 0, 0x40000000, 0x40000100, 0x80000000, 0xc0000000
bases_end:
counted:
        .long 4, 6,  7, 3,  0xb, 3,  0xd, 63,  0xf, 2,  0x10, 4,  0x12, 3,  0x14, 2,  0x17, 1
        .long 0x18, 2,  0x1d, 2,  0x1e, 2,  0x1f, 4,  0x20, 1,  0x23, 4,  0x24, 1
        .long 0x8000001d, 6,  0x80000020, 2,  0x80000026, 4
        .long 0, 0
first:  .long 0
last:   .long 0
        .bss
_end:
