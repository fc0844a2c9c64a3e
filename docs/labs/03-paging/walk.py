"""Boots paging.elf, pauses it, and does what the CPU does to find an address."""

from pyhv import Machine

ADDRESS = 0x123456789ABC
PRESENT, LARGE, PAGE = 1 << 0, 1 << 7, 0x000F_FFFF_FFFF_F000

with Machine(kernel="paging.elf", memory="16M") as vm:
    vm.start()
    print(vm.console.expect("ready", timeout=60))
    vm.pause()
    table = vm.vcpus[0].registers.cr3
    for name, shift in (("PML4E", 39), ("PDPTE", 30), ("PDE", 21), ("PTE", 12)):
        index = ADDRESS >> shift & 511
        entry = vm.memory.read_u64(table + 8 * index)
        print(f"{name:5} {index:3} at {table + 8 * index:#08x}: {entry:#x}")
        assert entry & PRESENT
        assert not (entry & LARGE and name in ("PDPTE", "PDE"))  # such a page is larger
        table = entry & PAGE
    found = table | ADDRESS & 0xFFF
    print(f"{ADDRESS:#x} is {found:#x}: {vm.memory.read_u32(found):#x}")
    assert found == vm.vcpus[0].walk(ADDRESS).gpa  # pyhv's own walk agrees
