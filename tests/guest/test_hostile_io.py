"""Guests that touch every port and hole in every width, in floods and from two vCPUs at once."""

from __future__ import annotations

import os
import random
import threading

import guestcode
import pytest
from guestcode import RESULTS
from libguest import SCALE, SECONDS, descriptors, rss_kib

from pyhv import Machine
from pyhv.console import TAIL_BYTES, Console
from pyhv.stop import Stop

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left", "neighbour")]

RAM = 4 << 20
GROWTH_KIB = 2048  # of a whole machine at work, its RAM included


def run(path: str, console: Console | None = None, **options: object) -> tuple[Stop, Machine]:
    """Run a guest to its end; no thread and no descriptor may come while it runs."""
    options = {"cpu": "host", "memory": "4M"} | options
    with Machine(kernel=path, console=console, **options) as vm:
        vm.start()
        stop = vm.wait(10 * SECONDS)
        vm.found = [vm.memory.read_u64(RESULTS + 8 * i) for i in range(8)]
    return stop, vm


# Ports whose write ends or resets the machine: (first, last), any width that touches them is left
# out; test_endings.py has them.
ENDS = ((0x64, 0x64), (0x92, 0x92), (0xF4, 0xF7), (0xCF9, 0xCF9), (0x604, 0x605))
DEVICES = (
    0x60, 0x64, 0x70, 0x71, 0x92, 0x3F8, 0x3F9, 0x3FB, 0x3FD, 0x510, 0x511, 0x600, 0x602, 0x604,
    0x608, 0xCF8, 0xCFC, 0xE8, 0xE9, 0xEC, 0x20, 0x21, 0x40, 0x43, 0x61, 0x4D0, 0xA0,
)  # fmt: skip

WALK = """
        mov ${step}, %bp
        xor %di, %di
        jmp 3f
1:      cmp $0x1100, %di                # all of the low ports, every so many of the others
        jb 2f
        mov %bp, %ax
        add %ax, %di
        jc done
        jmp 3f
2:      inc %di
3:      mov %di, %dx
        in %dx, {a}
        mov $skip, %si
4:      lodsw                           # the pair (first - width + 1, last)
        mov %ax, %cx
        lodsw
        test %ax, %ax
        jz 5f
        cmp %cx, %di
        jb 4b
        cmp %ax, %di
        ja 4b
        jmp 6f
5:      mov ${value}, %eax
        out {a}, %dx
6:      incl 0x600
        jmp 1b
done:   mov 0x600, %eax
        mov $0x8000, %bx
        mov %bx, %es
        mov %eax, %es:0
        exit 1
skip:   .word {skip}, 0, 0
"""


@pytest.mark.parametrize("value", [0, 0xFFFFFFFF, 0x5A3C9687])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_every_port(width: int, value: int) -> None:
    """IN and OUT on every port; neither faults nor ends the machine."""
    low = {1: "%al", 2: "%ax", 4: "%eax"}[width]
    skip = ", ".join(f"{first - width + 1}, {last}" for first, last in ENDS)
    step = 1 if SCALE >= 1 else 4 if (width, value) == (4, 0) else 61
    body = WALK.format(step=step, a=low, value=value, skip=skip)
    before = rss_kib()
    stop, vm = run(guestcode.sector(body))
    assert stop.status == 3, stop
    assert vm.found[0] & 0xFFFFFFFF == 0x1100 + -(-(0x10000 - 0x1100) // step)
    assert rss_kib() - before < GROWTH_KIB


STRINGS = """
        mov $0x4000, %ax
        mov %ax, %ds
        mov %ax, %es
        mov $table, %bp
1:      mov %cs:(%bp), %dx
        mov %cs:2(%bp), %cx
        add $4, %bp
        test %dx, %dx
        jz 2f
        push %cx
        xor %di, %di
        rep ins{w}
        pop %cx
        xor %si, %si
        rep outs{w}
        jmp 1b
2:      exit 1
table:  .word {table}, 0, 0
"""


@pytest.mark.parametrize("width", ["b", "w", "l"])
def test_string_instructions(width: str) -> None:
    """REP INS and OUTS, 0 to 65,535 times, on every device: what is read goes back."""
    ended = [port for first, last in ENDS for port in range(first - 3, last + 1)]
    pairs = [f"{p}, {n}" for p in DEVICES if p not in ended for n in (0, 1, 7, 1025)]
    pairs += [f"{p}, 0xffff" for p in (DEVICES if SCALE >= 1 else (0x3F8, 0x70, 0xE9))]
    body = STRINGS.format(w=width, table=", ".join(pairs))
    before = rss_kib()
    stop, vm = run(guestcode.sector(body))
    assert stop.status == 3, stop
    assert len(vm.console.data()) <= TAIL_BYTES
    assert rss_kib() - before < GROWTH_KIB


HOLES = (
    RAM, RAM + 0xFF8, 0xC0000000, 0xD0000FFD, 0xFEBFFFFC, 0xFEC00000, 0xFEC00FFD, 0xFED00000,
    0xFEDFFFFE, 0xFEE00FFC, 0xFEE01000, 0xFFBFFFFF, 0xFFFFFFF8,
)  # fmt: skip
TOUCH = """
        mov ${address:#x}, %esi
        mov (%rsi), %al
        mov %al, (%rsi)
        mov (%rsi), %ax
        mov %ax, (%rsi)
        mov (%rsi), %eax
        mov %eax, (%rsi)
        mov (%rsi), %rax
        mov %rax, (%rsi)
        lock xadd %eax, (%rsi)
        push (%rsi)
        pop (%rsi)
        mov ${results}, %edi
        mov $8, %ecx
        rep movsb
        mov ${address:#x}, %edi
        mov $16, %ecx
        rep stosb
        mov ${address:#x}, %edi
        mov $0x3fd, %edx
        mov $8, %ecx
        rep insb
        mov ${address:#x}, %esi
        mov $0x80, %edx
        mov $8, %ecx
        rep outsb
"""


def test_holes() -> None:
    """Every width, aligned and across pages, where there is no RAM: ones, and no fault."""
    body = "".join(TOUCH.format(address=a, results=RESULTS + 8 * i) for i, a in enumerate(HOLES))
    with Machine(kernel=guestcode.kernel(body + "exit 1"), cpu="host", memory="4M") as vm:
        vm.start()
        stop = vm.wait(SECONDS)
        assert stop.status == 3, stop
        for number, address in enumerate(HOLES):
            # not the APICs, nor what runs into one
            if not 0xFEBFFFF8 < address < 0xFED00000 and address >> 16 != 0xFEE0:
                assert vm.memory.read_u64(RESULTS + 8 * number) == 0xFFFFFFFFFFFFFFFF, hex(address)


@pytest.mark.parametrize("inside", range(1, 8))
def test_across_the_end_of_ram(inside: int) -> None:
    """Eight bytes of which some are RAM: these are read and written, the others are ones."""
    body = f"""
        mov ${RAM - inside:#x}, %esi
        mov $0x1817161514131211, %rax
        mov %rax, (%rsi)
        mov (%rsi), %rbx
        mov %rbx, {RESULTS}
        exit 1
"""
    with Machine(kernel=guestcode.kernel(body), cpu="host", memory="4M") as vm:
        vm.start()
        assert vm.wait(SECONDS).status == 3
        wanted = bytes(range(0x11, 0x11 + inside))
        assert vm.memory.read(RAM - inside, inside) == wanted
        assert vm.memory.read(RESULTS, 8) == wanted + b"\xff" * (8 - inside)


def test_instruction_across_the_end_of_ram() -> None:
    """Code that runs off RAM ends the machine with KVM's reason."""
    body = f"mov ${RAM - 2:#x}, %esi\n movw $0xb848, (%rsi)\n jmp *%rsi"
    stop, _ = run(guestcode.kernel(body))
    assert stop.kind in ("kvm-error", "triple-fault")


FLOOD = """
        mov ${chunks}, %ebp
1:      mov $0x8000, %cx
        mov $0x3f8, %dx
        xor %si, %si
        rep outsb
        mov $256, %cx
2:      out %al, %dx
        loop 2b
        dec %ebp
        jnz 1b
        exit 1
"""


def test_flood_that_nobody_reads() -> None:
    """COM1 runs full: the vCPU goes on, the last bytes are kept, the others are counted."""
    chunks = max(int(300 * SCALE), 1)
    reader, writer = os.pipe()
    try:
        console = Console(writer)
        before = rss_kib()
        stop, vm = run(guestcode.sector(FLOOD.format(chunks=chunks)), console)
        assert stop.status == 3, stop
        assert len(console.data()) == TAIL_BYTES
        assert rss_kib() - before < GROWTH_KIB + 2 * TAIL_BYTES // 1024 + 1024
        console.close(patience=0.1)
        assert console.dropped >= chunks * (0x8000 + 256) - (2 << 20)
    finally:
        os.close(reader)
        os.close(writer)


def test_input_that_nobody_takes() -> None:
    """The guest never reads COM1: 64 KiB wait, the rest stays with the caller."""
    with Machine(kernel=guestcode.sector("1: jmp 1b"), cpu="host", memory="4M") as vm:
        vm.start()
        taken = sum(vm.console.offer(bytes(1000)) for _ in range(200))
        assert taken == 65536


BOTH = """
        movl $0x00000000, %eax
        # the other vCPU starts at 0x8000: copy its code there, INIT, SIPI
        mov $ap, %esi
        mov $0x8000, %edi
        mov $ap_end - ap, %ecx
        rep movsb
        mov $0xfee00000, %ebx
        movl $0x1ff, 0xf0(%rbx)
        movl $0x01000000, 0x310(%rbx)
        movl $0x4500, 0x300(%rbx)
        movl $0x01000000, 0x310(%rbx)
        movl $0x4608, 0x300(%rbx)
{main}
        .code16
ap:     xor %ax, %ax
        mov %ax, %ds
        mov $0x1000, %sp
{other}
ap_end:
        .code64
"""
PORTS = """
        mov ${rounds}, %ebp
{label}: {loads}
        dec %ebp
        jnz {label}b
"""


def test_two_vcpus_at_every_device() -> None:
    """Both read and write all devices at once, for the races between them."""
    chosen = random.Random(7)
    end = [p for first, last in ENDS for p in range(first - 3, last + 1)]
    sides = []
    for _ in range(2):
        lines = []
        for _ in range(120):
            port = chosen.choice(DEVICES)
            lines.append(f"mov ${port}, %dx\n in %dx, %al")
            if port not in end:
                lines.append(f"mov ${chosen.randrange(256)}, %al\n out %al, %dx")
        sides.append("\n".join(lines))
    rounds = max(int(300 * SCALE), 10)
    main = PORTS.format(rounds=rounds, label=1, loads=sides[0])
    other = PORTS.format(rounds=rounds, label=2, loads=sides[1]) + "incw 0x700\n 3: hlt\n jmp 3b"
    wait = f"5: pause\n cmpw $1, 0x700\n jne 5b\n incq {RESULTS}\n exit 1\n"
    stop, _ = run(guestcode.kernel(BOTH.format(main=main + wait, other=other)), smp=2)
    assert stop.status == 3, stop


def test_init_and_sipi_storm() -> None:
    """An AP that is started, and stopped again, at any moment; the boot vCPU then ends it."""
    storms = max(int(1000 * SCALE), 20)
    main = f"""
        mov ${storms}, %ebp
1:      movl $0x4500, 0x300(%rbx)
        movl $0x4608, 0x300(%rbx)
        movl $0x4608, 0x300(%rbx)
        mov $200, %ecx
2:      pause
        loop 2b
        dec %ebp
        jnz 1b
3:      mov 0x704, %eax                 # at last it runs
4:      cmp %eax, 0x704
        je 4b
        exit 1
"""
    other = "6: incl 0x704\n mov $0x71, %dx\n in %dx, %al\n jmp 6b"
    stop, _ = run(guestcode.kernel(BOTH.format(main=main, other=other)), smp=2)
    assert stop.status == 3, stop


@pytest.mark.parametrize("first", ["power_off", "outb 0x64, 0xfe", "exit 4"])
def test_both_vcpus_end_it_at_once(first: str) -> None:
    """One reason counts; nothing hangs whatever the order."""
    for _ in range(5):
        with Machine(
            kernel=guestcode.kernel(BOTH.format(main=first, other="exit 1")),
            cpu="host", memory="4M", smp=2, no_reboot=True,
        ) as vm:  # fmt: skip
            vm.start()
            assert vm.wait(SECONDS).kind in ("poweroff", "reset", "exit")


def test_interrupt_controllers_and_timers_in_a_storm() -> None:
    """PIC, PIT, RTC and COM1 interrupt as fast as they can, with nonsense in their registers."""
    body = """
        mov $0xfee00000, %ebx
        movl $0x1ff, 0xf0(%rbx)
        movl $0x700, 0x350(%rbx)         # LINT0: ExtINT
        outb 0x20, 0x11
        outb 0x21, 0x40
        outb 0x21, 4
        outb 0x21, 1
        outb 0xa0, 0x11
        outb 0xa1, 0x48
        outb 0xa1, 2
        outb 0xa1, 1
        outb 0x21, 0
        outb 0xa1, 0
        outb 0x43, 0x34
        outb 0x40, 40
        outb 0x40, 0
        outb 0x70, 0xa
        outb 0x71, 0x23
        outb 0x70, 0xb
        outb 0x71, 0x7a
        outb 0x3fc, 8
        outb 0x3f9, 0xf
        movl $0x20050, 0x320(%rbx)       # the APIC's own timer, periodic
        movl $0xb, 0x3e0(%rbx)
        movl $100000, 0x380(%rbx)
        mov $ROUNDS, %ebp
        sti
1:      outb 0x20, 0x20
        outb 0xa0, 0x20
        outb 0x70, 0xc
        in $0x71, %al
        outb 0x3f8, 'i'
        mov $0x3fa, %dx
        in %dx, %al
        dec %ebp
        jnz 1b
        cli
        mov interrupts, %rax
        mov %rax, 0x80000
        exit 1
""".replace("ROUNDS", str(max(int(20000 * SCALE), 1000)))
    before, threads = descriptors(), threading.active_count()
    stop, vm = run(guestcode.kernel(body))
    assert stop.status == 3, stop
    assert vm.found[0] > 10
    assert (descriptors(), threading.active_count()) == (before, threads)
