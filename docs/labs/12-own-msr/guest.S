# Uses MSR 0x40000f00, which no hypervisor has: writes add up, a read gives the sum.
        .include "long.inc"
main:   gate 13, refused
        load_idt
        write_msr 0x40000f00, 30
        write_msr 0x40000f00, 12
        rdmsr
        print "the sum is "
        decimal
        newline
        write_msr 0x40000f00, 0
        print "not reached\n"
refused:
        print "zero is refused: #GP\n"
        off
