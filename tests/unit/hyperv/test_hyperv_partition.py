"""The partition's own MSRs: identity, hypercall page, assist page, crash, reset."""

from __future__ import annotations

import pytest
from fake_world import HYPERCALL_CODE, LINUX_OS_ID, make

from pyhv.errors import GuestFault

OS_ID, HYPERCALL, RESET, ASSIST = 0x40000000, 0x40000001, 0x40000003, 0x40000073
RUNTIME, CRASH_P0, CRASH_CTL = 0x40000010, 0x40000100, 0x40000105
PAGE = 0x24000


def test_hypercall_page() -> None:
    partition, world = make(os_id=False)
    assert partition.hypercall_page_gpa is None
    partition.write_msr(0, HYPERCALL, PAGE | 1)
    assert partition.hypercall_page_gpa is None, "ignored before GUEST_OS_ID"
    assert world.memory.read(PAGE, 4) == bytes(4)
    partition.write_msr(0, OS_ID, LINUX_OS_ID)
    world.memory.write(PAGE, b"\xee" * 16)
    partition.write_msr(1, HYPERCALL, PAGE | 1)
    assert partition.hypercall_page_gpa == PAGE
    assert world.memory.read(PAGE, 16) == HYPERCALL_CODE + b"\xee" * 12
    partition.write_msr(0, OS_ID, 0)
    assert partition.hypercall_page_gpa is None
    assert partition.read_msr(0, HYPERCALL) == PAGE


def test_hypercall_page_outside_ram_keeps_the_old_one() -> None:
    partition, _ = make()
    partition.write_msr(0, HYPERCALL, PAGE | 1)
    with pytest.raises(GuestFault):
        partition.write_msr(0, HYPERCALL, 1 << 39 | 1)
    assert partition.hypercall_page_gpa == PAGE
    partition.write_msr(0, HYPERCALL, 1 << 39)  # disabled: any address
    assert partition.hypercall_page_gpa is None


def test_assist_page() -> None:
    partition, world = make()
    world.memory.write(PAGE, b"\xee" * 16)
    partition.write_msr(1, ASSIST, PAGE | 1)
    assert world.memory.read(PAGE, 16) == bytes(4) + b"\xee" * 12, "4 bytes are cleared"
    assert world.pv_eoi == {1: PAGE}
    with pytest.raises(GuestFault):
        partition.write_msr(1, ASSIST, 1 << 39 | 1)
    assert partition.read_msr(1, ASSIST) == PAGE | 1
    assert world.pv_eoi == {1: PAGE}
    partition.write_msr(1, ASSIST, PAGE)
    assert world.pv_eoi == {1: None}


@pytest.mark.parametrize("value", [0, 2, 3, 1 << 63])
def test_reset_msr_takes_only_1(value: int) -> None:
    partition, world = make()
    partition.write_msr(0, RESET, value)
    assert world.events == []
    partition.write_msr(0, RESET, 1)
    assert world.events == [("reset",)]


def test_crash() -> None:
    partition, world = make()
    for i in range(5):
        partition.write_msr(i & 1, CRASH_P0 + i, 0x100 + i)
    partition.write_msr(1, CRASH_CTL, 1 << 62)
    assert world.events == []
    partition.write_msr(1, CRASH_CTL, 3 << 62)
    assert world.events == [("crash", (0x100, 0x101, 0x102, 0x103, 0x104), 3 << 62)]
    assert partition.read_msr(0, CRASH_CTL) == 1 << 63


def test_runtime_is_in_100_ns() -> None:
    partition, world = make()
    world.ns = 1_000_000
    assert partition.read_msr(1, RUNTIME) == 5_000


def test_apic_writes_reach_the_apic() -> None:
    partition, world = make()
    partition.write_msr(0, 0x40000070, 0)
    assert world.eois == 1
    partition.write_msr(0, 0x40000071, 1 << 12 | 0x4050)
    assert world.apic[0x40000071] == 0x4050, "delivery status is not the guest's to set"


def test_reset_puts_all_back() -> None:
    """Every MSR reads as in a new partition, the running ones aside."""
    partition, world = make()
    fresh, _ = make(os_id=False)
    running = {RUNTIME, 0x40000020}
    for vp in range(2):
        for number, (_, write) in partition.msr_table(vp).items():
            if write is not None and number not in (RESET, CRASH_CTL):
                try:
                    write(0x20051)
                except GuestFault:
                    write(0)
    changed = [
        number
        for number, (read, _) in partition.msr_table(0).items()
        if read is not None and read() != fresh.read_msr(0, number)
    ]
    assert len(changed) > 35
    world.apic = dict.fromkeys(world.apic, 0)  # the APIC is KVM's, and reset by it
    partition.reset()
    assert partition.hypercall_page_gpa is None
    assert world.pv_eoi == {0: None, 1: None}
    assert not world.armed
    for vp in range(2):
        for number, (read, _) in partition.msr_table(vp).items():
            if read is not None and number not in running:
                assert read() == fresh.read_msr(vp, number), hex(number)


def test_tables_made_before_a_reset_stay_good() -> None:
    partition, _ = make()
    read, write = partition.msr_table(0)[CRASH_P0]
    partition.reset()
    write(5)
    assert read() == partition.read_msr(1, CRASH_P0) == 5
