"""VRAM of a real machine: the guest's stores are in the host's copy, and gone means gone."""

from __future__ import annotations

import threading

import guestcode
import pytest
from guestcode import RESULTS
from libguest import SECONDS

from pyhv import Machine

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]
GPA = 0xF8000000
#: at each byte from the host: VRAM's first word to RESULTS, "VRAM" into it
GUEST = f"""
        outb 0x3f8, '>'
        mov ${RESULTS}, %edi
1:      read_com1
        mov ${GPA:#x}, %ebx
        mov (%rbx), %ecx
        mov %ecx, (%rdi)
        add $4, %edi
        movl $0x4d415256, (%rbx)
        outb 0x3f8, '!'
        jmp 1b
"""


def test_it_is_memory_only_while_it_is_placed() -> None:
    with Machine(kernel=guestcode.kernel(GUEST), memory="16M", vga="hyperv") as vm:
        vram = vm.board.offered["screen"].vram
        vm.start()
        vm.console.expect(">", timeout=SECONDS)

        def step(function) -> object:
            found: list = []
            called = threading.Event()
            vm.call(lambda: (found.append(function()), called.set()))
            assert called.wait(SECONDS)
            vm.console.send("x")
            vm.console.expect("!", timeout=SECONDS)
            return found[0]

        step(lambda: None)
        assert step(lambda: vram.place(GPA))
        assert vram.copy(0, 8) == b"VRAM\0\0\0\0"
        assert step(lambda: vram.place(GPA + (8 << 20)))
        assert vram.copy(0, 4) == b"VRAM"  # the same pages elsewhere: not written again
        assert step(lambda: vram.place(GPA))
        step(vram.remove)
        assert step(lambda: vram.place(GPA))
        words = [vm.memory.read_u32(RESULTS + 4 * i) for i in range(6)]
        nothing, new, written = 0xFFFFFFFF, 0, 0x4D415256
        assert words == [nothing, new, nothing, written, nothing, new]
        vm.reset()
        vm.console.expect(">", timeout=SECONDS)
        vm.console.send("x")
        vm.console.expect("!", timeout=SECONDS)
        assert vm.memory.read_u32(RESULTS) == nothing
        assert vm.board.offered["screen"].vram.gpa is None


@pytest.mark.parametrize("gpa", [0, 15 << 20, GPA + 1, GPA - 4096, GPA + (60 << 20), 0xFEE00000])
def test_where_it_cannot_be(gpa: int) -> None:
    with Machine(kernel=guestcode.kernel(GUEST), memory="16M", vga="hyperv") as vm:
        vram = vm.board.offered["screen"].vram
        assert vram.place(GPA + (56 << 20))
        assert not vram.place(gpa)
        assert vram.gpa is None
        assert not vm.board.vm._added


def test_other_memory_is_in_the_way() -> None:
    with Machine(kernel=guestcode.kernel(GUEST), memory="16M", vga="hyperv") as vm:
        slot = vm.board.vm.add_memory(GPA + (4 << 20), 4096, vm.memory.address)
        vram = vm.board.offered["screen"].vram
        assert not vram.place(GPA)
        vm.board.vm.remove_memory(slot)
        assert vram.place(GPA)
        assert vm.board.vm._added == {slot: (GPA, 8 << 20)}
