"""HvFlushVirtualAddress* on two vCPUs: after the call, nobody has an old translation."""

from __future__ import annotations

import guestcode
import pytest
from guestcode import IDENTIFY, RESULTS, START_SECOND, second_cpu
from libguest import SCALE, in_nested_host, run

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left", "driver")]

CPU = "host,hv_vpindex,hv_tlbflush"
CR4_PAE = 0x20
ROUNDS = max(int(2000 * SCALE), 40)
SECOND_CPU = 2  # processor mask
#: input value, qwords of input
CALLS = {
    "space": (0x2, "0, 0, {mask}"),
    "list": (0x1_0000_0003, "0, 0, {mask}, PAGE"),
    "space, all by flag": (0x2, "0, 1, 0"),
    "space ex": (0x2_0013, "0, 0, 0, 1, {mask}"),
    "list ex": (0x1_0002_0014, "0, 0, 0, 1, {mask}, PAGE"),
    "all ex": (0x13, "0, 0, 1, 0"),
}

#: The second CPU reads a page again and again. The first one exchanges what is mapped there, calls,
#: waits for two more reads, and counts those that were not of the new page.
GUEST = """
        .set PAGE, 1 << 39                      # the second entry of the loader's PML4
        .set SEEN, 0x202000
        .set TURNS, 0x202040                    # on a line of its own
        movq $0xc00003, 0x9008
        movq $0xc01003, 0xc00000
        movq $0xc02003, 0xc01000
        movq $0xc10003, 0xc02000
        movq $1, 0xc10000                       # the two pages
        movq $2, 0xc11000
{start_second}1:      cmpq $0, TURNS
        je 1b
        mov ${rounds}, %ebp
2:      xorq $0x1000, 0xc02000                  # the other page
        mov 0xc02000, %rax
        and $-4096, %rax
        mov (%rax), %r12                        # what is there
        call flush
        mov TURNS, %rax
        add $2, %rax
3:      pause
        cmp TURNS, %rax
        ja 3b
        cmp %r12, SEEN
        je 4f
        incq {results}
4:      dec %ebp
        jnz 2b
        exit 1

flush:  .if {call}
        mov ${call:#x}, %rcx
        mov $input, %edx
        xor %r8d, %r8d
        call *%rbx
        shr $32, %rcx                           # reps in, reps out; status 0
        shl $32, %rcx
        cmp %rcx, %rax
        je 1f
        incq {results} + 8
1:
        .endif
        ret
        .balign 8
input:  .quad {words}

{second_cpu}ap64:   mov $0x18, %eax
        mov %eax, %ds
        mov $PAGE, %rdi
1:      mov (%rdi), %rax
        mov %rax, SEEN
        incq TURNS
        jmp 1b
"""


def stale(call: int, words: str) -> int:
    """Return how many reads were of the old page."""
    source = GUEST.format(
        rounds=ROUNDS, results=RESULTS, call=call, words=words.format(mask=SECOND_CPU),
        start_second=START_SECOND, second_cpu=second_cpu(CR4_PAE),
    )
    stop, found, _ = run(guestcode.kernel(IDENTIFY + source), cpu=CPU, smp=2)
    assert stop.status == 3, stop
    assert found[1] == 0, "statuses"
    return found[0]


@pytest.mark.parametrize(("call", "words"), CALLS.values(), ids=CALLS)
def test_no_old_translation_after_the_call(call: int, words: str) -> None:
    assert stale(call, words) == 0


@pytest.mark.skipif(not in_nested_host(), reason="how long a CPU keeps a translation is its affair")
def test_without_the_call_it_is_there() -> None:
    """So the test above can fail."""
    assert stale(0, "0") > ROUNDS // 10
