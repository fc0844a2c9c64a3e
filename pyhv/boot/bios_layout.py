"""Where things lie in the first MiB under the trapping BIOS, and what the BIOS data area holds.

The addresses inside the BIOS are those of firmware/bios.S; firmware/build.py compares
them. The BIOS data area's fields are those of the IBM AT technical reference.
"""

from __future__ import annotations

BIOS_SEGMENT = 0xF000
BIOS_GPA, BIOS_SIZE = 0xF0000, 0x10000

TRAP_PORT = 0xEC
ENTRY_BYTES = 4  # out imm8, al; iret; nop
#: Traps that are no interrupt vector.
TRAP_PAUSE, TRAP_RESET = 0x100, 0x101
TRAPS = 0x102

SYMBOLS = {
    "trap_table": 0xE000,
    "extra_table": 0xE400,
    "key_wait": 0xE500,
    "pause": 0xE510,
    "halt": 0xE520,
    "irq0": 0xE530,
    "irq_master": 0xE570,  # IRQ 1-7, IRQ_BYTES each
    "irq_slave": 0xE5E0,
    "reset": 0xE600,
    "post_done": 0xE620,
    "config_table": 0xE6F5,
    "diskette_table": 0xEFC7,
    "dummy_iret": 0xFF53,
    "reset_vector": 0xFFF0,
}
TRAP_TABLE, KEY_WAIT, PAUSE, HALT = (
    SYMBOLS[name] for name in ("trap_table", "key_wait", "pause", "halt")
)
IRQ_BYTES = 16

#: Interrupt vectors that do not lead to the trap table: offsets in BIOS_SEGMENT.
VECTORS = {
    0x08: SYMBOLS["irq0"],
    **{0x09 + i: SYMBOLS["irq_master"] + i * IRQ_BYTES for i in range(7)},
    **{0x70 + i: SYMBOLS["irq_slave"] for i in range(8)},
    0x1C: SYMBOLS["dummy_iret"],  # the user's timer tick: no exit 18 times a second
    0x1E: SYMBOLS["diskette_table"],  # a pointer, not code
}

BOOT_SECTOR = 0x7C00
STACK = 0x7C00  # SS 0; grows down, below the boot sector

# BIOS data area, guest physical
BDA_COM1 = 0x400
BDA_EBDA_SEGMENT = 0x40E
BDA_EQUIPMENT = 0x410
BDA_MEMORY_KIB = 0x413
BDA_KEYBOARD_HEAD, BDA_KEYBOARD_TAIL = 0x41A, 0x41C
BDA_VIDEO_MODE = 0x449
BDA_COLUMNS = 0x44A
BDA_PAGE_BYTES = 0x44C
BDA_CURSOR = 0x450  # column, row of page 0
BDA_CURSOR_SHAPE = 0x460
BDA_CRTC_PORT = 0x463
BDA_TICKS, BDA_MIDNIGHT = 0x46C, 0x470
BDA_DISK_STATUS, BDA_DISK_COUNT = 0x474, 0x475
BDA_KEYBOARD_START, BDA_KEYBOARD_END = 0x480, 0x482
BDA_LAST_ROW, BDA_CHARACTER_HEIGHT = 0x484, 0x485

COM1_PORT = 0x3F8
#: Bits 1 (FPU), 5:4 = 2 (80 x 25 colour), 11:9 = 1 (one serial port); no diskette.
EQUIPMENT = 1 << 9 | 2 << 4 | 1 << 1
KEYBOARD_BUFFER = 0x1E  # of segment 0x40; empty, keys are asked for by INT 16h only

TEXT_MODE, COLUMNS, ROWS = 3, 80, 25
TEXT_GPA = 0xB8000  # RAM that the memory map does not tell; a character and its attribute

TICKS_PER_DAY = 0x1800B0
PIT_HZ, TICK_DIVISOR = 1193182, 65536
