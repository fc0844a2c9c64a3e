"""RAM that a running guest is given: a vCPU in the guest finds it, and a reset takes it away."""

from __future__ import annotations

import threading

import guestcode
import pytest
from guestcode import RESULTS
from libguest import SECONDS

from pyhv import Machine
from pyhv.errors import ConfigError
from pyhv.memory import BLOCK, HIGH

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]
DIRECTORY = 0x90000
#: maps 4 GiB to itself; then at each byte from the host: its first word to RESULTS, "MORE" into it
GUEST = f"""
        mov %cr3, %rbx
        and $~0xfff, %rbx
        mov (%rbx), %rbx
        and $~0xfff, %rbx
        movq ${DIRECTORY | 3}, 32(%rbx)
        mov ${HIGH | 0x83:#x}, %rax
        mov %rax, {DIRECTORY:#x}
        outb 0x3f8, '>'
        mov ${RESULTS}, %edi
        mov ${HIGH:#x}, %rbx
1:      read_com1
        mov (%rbx), %ecx
        mov %ecx, (%rdi)
        add $4, %edi
        movl $0x45524f4d, (%rbx)
        outb 0x3f8, '!'
        jmp 1b
"""


def test_a_vcpu_that_runs_finds_it() -> None:
    with Machine(kernel=guestcode.kernel(GUEST), memory="16M,maxmem=400M", smp=2) as vm:
        vm.start()
        vm.console.expect(">", timeout=SECONDS)

        def grow(size: int) -> None:
            done = threading.Event()
            add = vm.board.vm.add_memory
            vm.call(lambda: (vm.memory.grow(size, add), done.set()))
            assert done.wait(SECONDS)

        def step() -> None:
            vm.console.send("x")
            vm.console.expect("!", timeout=SECONDS)

        step()
        grow(BLOCK)
        step()
        assert vm.memory.read(HIGH, 8) == b"MORE\0\0\0\0"
        vm.memory.write(HIGH, b"host")
        grow(3 * BLOCK)
        step()
        assert vm.memory.read(HIGH, 4) == b"MORE"
        vm.memory.write(HIGH + 3 * BLOCK - 4, b"last")
        words = [vm.memory.read_u32(RESULTS + 4 * i) for i in range(3)]
        nothing, host = 0xFFFFFFFF, int.from_bytes(b"host", "little")
        assert words == [nothing, 0, host]
        with pytest.raises(ConfigError, match="snapshot: memory was added while the machine ran"):
            vm.snapshot()
        vm.reset()
        vm.console.expect(">", timeout=SECONDS)
        step()
        assert vm.memory.read_u32(RESULTS) == nothing
        assert vm.memory.added == 0
        grow(BLOCK)
        step()
        assert vm.memory.read_u32(RESULTS + 4) == 0, "what the life before wrote is gone"


def test_a_snapshot_from_before_it_grew() -> None:
    with Machine(kernel=guestcode.kernel(GUEST), memory="16M,maxmem=144M") as vm:
        vm.start()
        vm.console.expect(">", timeout=SECONDS)
        with vm.snapshot() as snapshot:
            add = vm.board.vm.add_memory
            done = threading.Event()
            vm.call(lambda: (vm.memory.grow(BLOCK, add), done.set()))
            assert done.wait(SECONDS)
            vm.restore(snapshot)
            assert vm.memory.added == 0
            assert len(vm.memory.regions) == 1
            with snapshot.clone() as other:
                assert other.memory.capacity == vm.memory.capacity
                other.start()
                other.console.send("x")
                other.console.expect("!", timeout=SECONDS)
                assert other.memory.read_u32(RESULTS) == 0xFFFFFFFF
