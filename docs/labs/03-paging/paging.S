# Maps one page of its own, writes through it, and touches the page after it, which is not mapped.
        .include "long.inc"
        .set VIRTUAL, 0x123456789000
        .set PHYSICAL, 0x400000
        .set TABLES, 0x500000           # PDPT, PD, PT: a page each, zero as all RAM at first
main:   gate 14, page_fault
        load_idt
        mov %cr3, %rbx                  # the loader's PML4, whose entry 36 is free
        movl $TABLES + 0x0003, 8 * (VIRTUAL >> 39 & 511)(%rbx)
        movl $TABLES + 0x1003, TABLES + 0x0000 + 8 * (VIRTUAL >> 30 & 511)
        movl $TABLES + 0x2003, TABLES + 0x1000 + 8 * (VIRTUAL >> 21 & 511)
        movl $PHYSICAL + 0x3, TABLES + 0x2000 + 8 * (VIRTUAL >> 12 & 511)
        mov $VIRTUAL, %rbx
        movl $0xcafe, 0xabc(%rbx)
        mov PHYSICAL + 0xabc, %eax
        print "at the physical address: "
        hex
        newline
        movl $0xbeef, 0x1000(%rbx)      # the next page
        print "not reached\n"
page_fault:
        print "page fault: CR2 "
        mov %cr2, %rax
        hex
        print ", error code "
        pop %rax                        # bit 0: the page was present, 1: a write, 2: from CPL 3
        hex
        newline
        print "ready\n"
1:      pause
        jmp 1b
