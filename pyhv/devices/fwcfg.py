"""As much of QEMU's fw_cfg as kvm-unit-tests read: how many CPUs there are, and how much RAM.

Selector by a 16-bit write to the first port, data byte by byte from the second; no
DMA. Source: QEMU, docs/specs/fw_cfg.rst.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PORT, PORTS = 0x510, 2
SIGNATURE, ID, RAM_SIZE, NB_CPUS, MAX_CPUS, FILE_DIR = 0x00, 0x01, 0x03, 0x05, 0x0F, 0x19
FILE_FIRST = 0x20
KEY_MASK = 0xBFFF  # bit 14 asks to write, which is gone since QEMU 2.4; 15 is a key's own bit
TRADITIONAL = 1  # the interface there is; bit 1 would be DMA


class FwCfg:
    """Ports 0x510 and 0x511.

    :param vp_count: number of vCPUs.
    :param ram_bytes: size of RAM.
    :param files: name (at most 55 bytes) -> content, for a firmware that wants them.
    """

    def __init__(
        self, vp_count: int, ram_bytes: int, files: dict[str, bytes] | None = None
    ) -> None:
        cpus = vp_count.to_bytes(2, "little")
        self._items = {
            SIGNATURE: b"QEMU",
            ID: TRADITIONAL.to_bytes(4, "little"),
            RAM_SIZE: ram_bytes.to_bytes(8, "little"),
            NB_CPUS: cpus,
            MAX_CPUS: cpus,
        }
        directory = len(files or {}).to_bytes(4, "big")
        for key, (name, data) in enumerate((files or {}).items(), FILE_FIRST):
            self._items[key] = data
            directory += len(data).to_bytes(4, "big") + key.to_bytes(2, "big") + bytes(2)
            directory += name.encode("ascii").ljust(56, b"\0")
        self._items[FILE_DIR] = directory
        self._item, self._at = b"QEMU", 0

    def save(self) -> dict[str, Any]:
        """Return which item is read, and how far."""
        return {"item": self._item, "at": self._at}

    def load(self, state: dict[str, Any]) -> None:
        """Undo :meth:`save`."""
        self._item, self._at = state["item"], state["at"]

    def pio_in(self, offset: int, size: int) -> int:
        """Return the next bytes of the chosen item; 0 behind its end, and for unknown items."""
        count = size if offset else size - 1  # the selector's byte reads 0
        item, at = self._item, self._at  # read once: another vCPU may choose meanwhile
        self._at = at + count
        return int.from_bytes(item[at : at + count], "little") << 8 * (size - count)

    def pio_out(self, offset: int, size: int, value: int) -> None:
        """Choose an item; only the 16-bit write does."""
        if offset == 0 and size == 2:
            self._item, self._at = self._items.get(value & KEY_MASK, b""), 0
