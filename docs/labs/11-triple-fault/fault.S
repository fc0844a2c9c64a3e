# Four ways into a triple fault; as --defsym WAY=n picks one.
        .include "long.inc"
        .ifndef WAY
        .set WAY, 1
        .endif
main:   print "so far so good\n"
        .if WAY == 1                    # an exception, and no IDT at all
        ud2
        .endif
        .if WAY == 2                    # a handler that is not present: the IDT is all zeros
        load_idt
        ud2
        .endif
        .if WAY == 3                    # a stack that is not mapped: not even #PF can be pushed
        gate 14, handler
        gate 8, handler
        load_idt
        mov $0x8000000000, %rsp
        push %rax
        .endif
        .if WAY == 4                    # the page tables are gone
        xor %eax, %eax
        mov %rax, 0x9000
        mov %cr3, %rax
        mov %rax, %cr3
        .endif
handler:
        print "not reached\n"
        off
