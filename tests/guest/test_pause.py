"""Pause and resume: vCPUs and the reference time stand, and go on from where they stood."""

from __future__ import annotations

import threading
import time

import guestcode
import pytest
from guestcode import RESULTS
from libguest import SCALE, SECONDS, machine

from pyhv import Machine
from pyhv.errors import ConfigError

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]

HZ = 10_000_000  # the reference time's
PAUSE_S = 0.6

WAITS = {"spins": "nop", "exits": "in $0x80, %al"}


def counter(vm: Machine) -> int:
    return vm.memory.read_u32(RESULTS) if vm.memory.size > RESULTS else 0


def moves(vm: Machine, seconds: float = SECONDS) -> bool:
    """Tell whether the guest counts within *seconds*."""
    first, deadline = counter(vm), time.monotonic() + seconds
    while time.monotonic() < deadline:
        if counter(vm) != first:
            return True
        time.sleep(0.01)
    return False


def segmented(wait: str) -> str:
    """Return a real-mode body that counts at RESULTS."""
    return f"""
        mov ${RESULTS >> 4:#x}, %ax
        mov %ax, %ds
        xor %ebx, %ebx
1:      inc %ebx
        mov %ebx, 0
        {wait}
        jmp 1b
"""


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_it_stands_and_goes_on(wait: str) -> None:
    with machine(segmented(wait), smp=2) as vm:
        vm.start()
        assert moves(vm)
        for _ in range(3):
            vm.pause()
            vm.pause()
            assert vm.paused
            assert not moves(vm, 0.2)
            vm.resume()
            vm.resume()
            assert not vm.paused
            assert moves(vm)


def test_started_paused() -> None:
    """Not one instruction runs before resume, and a reset keeps it standing."""
    with machine(segmented("nop")) as vm:
        vm.pause()
        vm.start()
        assert not moves(vm, 0.3)
        assert counter(vm) == 0
        vm.reset()
        assert not moves(vm, 0.3)
        vm.resume()
        assert moves(vm)
        vm.pause()
        vm.reset()
        assert not moves(vm, 0.3)
        vm.resume()
        assert moves(vm)


def test_a_paused_machine_can_be_killed_and_closed() -> None:
    with machine(segmented("nop"), smp=2) as vm:
        vm.start()
        vm.pause()
        vm.kill()
        assert vm.wait(SECONDS).kind == "quit"
        for act in (vm.pause, vm.resume):
            with pytest.raises(ConfigError, match="the machine has stopped"):
                act()
    with machine(segmented("nop")) as vm:
        vm.start()
        vm.pause()


def test_many_times_from_many_threads() -> None:
    """1000 pauses by four threads; it runs at the end, and no call failed."""
    errors: list[BaseException] = []
    rounds = max(5, int(250 * SCALE))
    with machine(segmented("in $0x80, %al"), smp=2) as vm:
        vm.start()

        def work() -> None:
            try:
                for _ in range(rounds):
                    vm.pause()
                    vm.resume()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert not errors
        vm.resume()
        assert moves(vm)


#: Reads both clocks for ever; leaves the largest step of each between two reads, the last value
#: of each, the TSC page's sequence, and how often a clock went back.
CLOCKS = f"""
        wrmsr_of 0x40000000, 1
        wrmsr_of 0x40000021, 0xa00001           # the reference TSC page
        mov ${RESULTS}, %edi
        xor %eax, %eax
        mov $16, %ecx
        rep stosl
        xor %r12d, %r12d                        # last MSR, then page
        xor %r13d, %r13d
again:  mov $0x40000020, %ecx
        rdmsr
        shl $32, %rdx
        or %rdx, %rax
        mov $0, %esi
        mov %r12, %r14
        mov %rax, %r12
        call note
1:      mov 0xa00000, %r8d                      # the sequence
        test %r8d, %r8d
        jz again
        rdtsc
        shl $32, %rdx
        or %rdx, %rax
        mulq 0xa00008
        mov %rdx, %rax
        add 0xa00010, %rax
        cmp 0xa00000, %r8d
        jne 1b
        mov %r8, {RESULTS + 48}
        mov $8, %esi
        mov %r13, %r14
        mov %rax, %r13
        call note
        jmp again
note:   mov %rax, {RESULTS + 16}(%rsi)          # now in RAX, before in R14
        test %r14, %r14
        jz 3f
        sub %r14, %rax
        jns 2f
        incq {RESULTS + 32}
        ret
2:      cmp {RESULTS}(%rsi), %rax
        jbe 3f
        mov %rax, {RESULTS}(%rsi)
3:      ret
"""


def test_reference_time_stands(driver: str) -> None:
    """Neither the counter nor the page shows the pause, neither goes back, the sequence goes up."""
    cpu = "host,hv_time,hv_vpindex"
    with Machine(kernel=guestcode.kernel(CLOCKS), cpu=cpu, memory="16M", hyperv=driver) as vm:

        def read(index: int) -> int:
            return vm.memory.read_u64(RESULTS + 8 * index)

        vm.start()
        deadline = time.monotonic() + SECONDS
        while not read(3) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert read(3), "no valid TSC page"
        sequence = read(6)
        begin = time.monotonic()
        for _ in range(2):
            vm.pause()
            stands = [read(2), read(3)]
            time.sleep(PAUSE_S)
            assert [read(2), read(3)] == stands
            vm.resume()
            before = read(3)
            while read(3) == before:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        after = read(6)
        ran = time.monotonic() - begin
        last = read(3)
        assert after >= sequence + 2
        assert read(4) == 0, "a clock went back"
        assert max(read(0), read(1)) < PAUSE_S * HZ / 2, "the pause was seen"
        assert last < (ran - 2 * PAUSE_S + 60) * HZ


TICKS = f"""
        wrmsr_of 0x40000000, 1
        wrmsr_of 0x40000080, 1                  # SCONTROL
        movq $0, {RESULTS}
        mov $0xfee000f0, %eax
        movl $0x1ff, (%rax)                     # APIC on
        wrmsr_of 0x400000b1, 100000             # timer 0: 10 ms
        wrmsr_of 0x400000b0, 0x1413             # direct, vector 0x41, auto-enable, periodic, on
        sti
1:      hlt
        mov interrupts, %rax
        mov %rax, {RESULTS}
        jmp 1b
"""


def test_timers_stand(driver: str) -> None:
    """A synthetic timer does not expire in a pause, and ticks on after it; no tick is made up."""
    cpu = "host,hv_time,hv_vpindex,hv_synic,hv_stimer,hv_stimer_direct"
    with Machine(kernel=guestcode.kernel(TICKS), cpu=cpu, memory="16M", hyperv=driver) as vm:
        vm.start()
        deadline = time.monotonic() + SECONDS

        def until(ticks: int) -> None:
            while vm.memory.read_u64(RESULTS) < ticks:
                assert time.monotonic() < deadline, "no tick"
                time.sleep(0.01)

        until(5)
        vm.pause()
        ticks = vm.memory.read_u64(RESULTS)
        time.sleep(PAUSE_S)
        assert vm.memory.read_u64(RESULTS) == ticks
        vm.resume()
        until(ticks + 20)


MARKS = """
        mov $0x1122334455667788, %rbx
        mov $0x99, %r15
1:      cmp $0x77, %r15
        jne 1b
        exit 9
"""


def test_registers_of_a_paused_machine() -> None:
    """Read and changed by name; a change is what the guest goes on with."""
    with Machine(kernel=guestcode.kernel(MARKS), cpu="host", memory="16M", smp=2) as vm:
        vm.start()
        deadline = time.monotonic() + SECONDS
        while vm.vcpus[0].registers.r15 != 0x99:
            assert time.monotonic() < deadline
        vm.pause()
        registers = vm.vcpus[0].registers
        assert registers["rbx"] == 0x1122334455667788
        assert guestcode.KERNEL <= registers.rip < guestcode.KERNEL + 0x10000
        assert vm.vcpus[1].state == "uninitialized"
        found = vm.vcpus[0].walk(registers.rip)
        assert found.gpa == registers.rip
        code = vm.vcpus[0].read(registers.rip, 16)
        assert code == vm.memory[registers.rip : registers.rip + 16]
        with pytest.raises(KeyError, match="no such register"):
            registers["rix"] = 1
        registers.r15 = 0x77
        assert vm.vcpus[0].registers.r15 == 0x77
        vm.resume()
        assert vm.wait(SECONDS).status == 19
    with pytest.raises(ConfigError, match="the machine has stopped"):
        _ = vm.vcpus[0].registers
