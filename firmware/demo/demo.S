# The demo disk: a guest that finds Hyper-V, uses its clock, hypercalls and timers, prints what it
# got on COM1, and powers off. Raw sectors: the first is the boot sector, which loads the others
# right behind itself. Source for the interface: Hypervisor Top Level Functional Specification (TLFS).
#
# No instruction here is beyond what a KVM without hardware virtualization can emulate at CPL 0.

# memory; the image itself lies from 0x7c00 on
        .set STACK, 0x7c00
        .set PML4, 0x10000              # then PDPT, the first GiB's and the fourth GiB's directory
        .set PDPT, 0x11000
        .set PD_LOW, 0x12000
        .set PD_HIGH, 0x13000
        .set IDT, 0x14000
        .set HYPERCALL_PAGE, 0x15000
        .set TSC_PAGE, 0x16000
        .set SIM_PAGE, 0x17000
        .set SIEF_PAGE, 0x18000
        .set TSS, 0x19000
        .set WORK_END, 0x1a000
        .set CODE32, 0x08               # selectors
        .set DATA, 0x10
        .set CODE64, 0x18
        .set USER_DATA, 0x20
        .set USER_CODE, 0x28
        .set TSS_SELECTOR, 0x30

# ports
        .set COM1, 0x3f8
        .set PM1_CONTROL, 0x604         # pyhv/devices/pm.py; QEMU has it there too
        .set SLP_EN, 0x2000             # with SLP_TYP 0: S5, off
        .set PIC1, 0x20
        .set PIC2, 0xa0

# CPUID and MSRs, names as in the TLFS
        .set HV_INTERFACE, 0x31237648   # "Hv#1"
        .set MSR_GUEST_OS_ID, 0x40000000
        .set MSR_HYPERCALL, 0x40000001
        .set MSR_VP_INDEX, 0x40000002
        .set MSR_TIME_REF_COUNT, 0x40000020
        .set MSR_REFERENCE_TSC, 0x40000021
        .set MSR_TSC_FREQUENCY, 0x40000022
        .set MSR_APIC_FREQUENCY, 0x40000023
        .set MSR_SCONTROL, 0x40000080
        .set MSR_SIEFP, 0x40000082
        .set MSR_SIMP, 0x40000083
        .set MSR_EOM, 0x40000084
        .set MSR_SINT0, 0x40000090
        .set MSR_STIMER0_CONFIG, 0x400000b0
        .set MSR_STIMER0_COUNT, 0x400000b1
# privileges, 40000003.EAX
        .set HAS_TIME_REF_COUNT, 1 << 1
        .set HAS_SYNIC, 1 << 2
        .set HAS_STIMERS, 1 << 3
        .set HAS_HYPERCALL, 1 << 5
        .set HAS_VP_INDEX, 1 << 6
        .set HAS_REFERENCE_TSC, 1 << 9
        .set HAS_FREQUENCIES, 1 << 11
# features, 40000003.EDX
        .set HAS_DIRECT_STIMERS, 1 << 19

        .set ROUNDS, 500                # of each thing whose cost is measured
        .set TICKS, 50
        .set PERIOD, 20000              # 2 ms in the timer's unit, 100 ns

        .macro say text:vararg          # print; changes nothing
        call say_inline
        .asciz \text
        .endm

        .macro read_msr number          # RAX; changes RCX, RDX
        mov $\number, %ecx
        rdmsr
        shl $32, %rdx
        or %rdx, %rax
        .endm

        .macro write_msr number         # from RAX; changes RCX, RDX, RAX
        mov $\number, %ecx
        mov %rax, %rdx
        shr $32, %rdx
        wrmsr
        .endm

        .macro unless privilege, label  # jump if CPUID does not grant it
        testl $\privilege, privileges
        jz \label
        .endm

        .text
        .include "boot.S"
        .include "hyperv.S"
        .include "timer.S"
        .include "user.S"
        .include "print.S"
image_end:
        .set SECTORS, (image_end - boot + 511) / 512
