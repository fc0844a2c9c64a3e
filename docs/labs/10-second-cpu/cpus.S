# Wakes a second CPU; both add 1 to the same word 20,000 times each.
        .include "long.inc"
        .set COUNT, 0x400000
        .set BARRIER, 0x400008          # CPUs that have come so far
        .set DONE, 0x400010
        .set TRAMPOLINE, 0x1000
main:   lea real(%rip), %rsi            # its first code must lie below 1 MiB
        mov $TRAMPOLINE, %edi
        mov $real_end - real, %ecx
        rep movsb
        mov $0xfee000f0, %eax
        movl $0x1ff, (%rax)             # the local APIC on
        mov $0xfee00300, %eax           # its interrupt command register: to all but me
        movl $0xc4500, (%rax)           # INIT
        movl $0xc4600 | TRAMPOLINE >> 12, (%rax)        # SIPI: begin at page 1
        call work
1:      cmpl $2, DONE
        jne 1b
        print "counted "
        mov COUNT, %rax
        .ifdef NO_LOCK
        print "without lock\nhere "
        .endif
        decimal
        newline
        off
work:   lock incl BARRIER
1:      pause
        cmpl $2, BARRIER                # both begin at once
        jne 1b
        mov $20000, %ecx
        mov $COUNT, %edi
2:
        .ifndef NO_LOCK
        lock
        .endif
        incq (%rdi)
        loop 2b
        lock incl DONE
        ret
second: call work
        hlt
        .code16
real:   lgdtl %cs:pointer - real
        mov $0x9000, %eax               # the loader's page tables
        mov %eax, %cr3
        mov $0x20, %eax                 # PAE
        mov %eax, %cr4
        mov $0xc0000080, %ecx           # EFER.LME
        mov $0x100, %eax
        xor %edx, %edx
        wrmsr
        mov $0x80000001, %eax           # paging and protection at once
        mov %eax, %cr0
        mov $0x8000, %esp
        ljmpl $0x10, $second
pointer: .word 0x1f
        .long 0x500                     # the loader's GDT
real_end:
