"""A machine at one moment: its RAM, and what its parts said of themselves; see docs/snapshots.md.

RAM is a file without a name (memfd), or one with: every machine that goes on from it maps it copy
on write, so that ten clones of a guest have in memory once what none of them changed.
"""

from __future__ import annotations

import ctypes
import os
import time

from . import snapshotfile
from .config import Drive, MachineConfig, Smp
from .diskoverlay import Layer, Overlay
from .errors import ConfigError, HostError
from .saving import from_json, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .console import Console
    from .disk import Disk
    from .diskoverlay import Clusters
    from .machine import Machine
    from .memory import GuestMemory

PAGE, BLOCK, CLUSTER = 4096, 1 << 16, Overlay.CLUSTER
#: fields of MachineConfig that a restored machine may have otherwise
FREE = ("time_limit", "no_reboot", "hyperv")


class Snapshot:
    """What :meth:`Machine.snapshot` returns; :meth:`close` it, or use ``with``.

    ``config`` and ``driver``: of the machine; ``taken``: seconds since 1970. It does not change:
    machines that go on from it write to copies of its pages.
    """

    def __init__(
        self, state: dict[str, Any], fd: int, at: int, size: int,
        extents: list[tuple[int, int]], overlays: list[Clusters | None],
    ) -> None:  # fmt: skip
        self._overlays = overlays  # what each drive with snapshot=on had written
        self._fd, self._at, self.memory_bytes, self._extents = fd, at, size, extents
        try:
            # the text, not the dict: what is put back is then the same from memory and from a file
            self._text = to_json(state)
            self.config = _config(state["config"])
            self.driver: str = state["driver"]
            self.taken: float = state["taken"]
            if self.config.memory_bytes != size:
                raise ValueError(f"{size} bytes of RAM for {self.config.memory_bytes}")
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, machine: Machine) -> Snapshot:
        """Take one; on the event loop or before start, while the machine stands."""
        from . import boardstate

        board, memory = machine.board, machine.memory
        if machine.plugged:
            raise ConfigError("snapshot: a drive or a medium was changed while the machine ran")
        if memory.added:
            raise ConfigError("snapshot: memory was added while the machine ran; take it before")
        state = {
            "config": machine.config._asdict(), "driver": driver(machine), "taken": time.time(),
            "cpuid": cpuid_rows(machine), "board": boardstate.save(board),
            "disks": [disk.stamp() for disk in machine.disks],
        }  # fmt: skip
        try:
            fd = os.memfd_create("pyhv-snapshot")
        except OSError as error:
            raise HostError(f"snapshot: {error.strerror}") from error
        try:
            extents = _copy(memory, fd)
        except OSError as error:
            os.close(fd)
            raise HostError(
                f"snapshot: {memory.size >> 20} MiB of RAM: {error.strerror}"
            ) from error
        return cls(state, fd, 0, memory.size, extents, [disk.freeze() for disk in machine.disks])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file; memory that is zero takes no room there.

        :raises HostError: it cannot be written.
        """
        if self._fd < 0:
            raise ConfigError("snapshot: it is closed")
        overlays = [None if one is None else sorted(one) for one in self._overlays]
        state = {**self.state, "overlays": overlays}
        snapshotfile.write(
            os.fspath(path), state, self._fd, self._at, self.memory_bytes, self._extents,
            self._written(overlays),
        )  # fmt: skip

    def _written(self, overlays: list[list[int] | None]) -> Iterator[bytes]:
        """Yield the clusters of all drives, in the order of *overlays*."""
        for clusters, order in zip(self._overlays, overlays, strict=True):
            for cluster in order or ():
                layer, at = clusters[cluster]  # type: ignore[index]
                yield os.pread(layer.fd, CLUSTER, at).ljust(CLUSTER, b"\0")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Open a file of :meth:`save`. It must not be changed while machines go on from it.

        :raises ConfigError: no snapshot, cut short, damaged. HostError: it cannot be read.
        """
        path = os.fspath(path)
        found = snapshotfile.read(path)
        state, fd = found.state, found.fd
        extents = [(offset, length) for offset, length, _ in state.pop("extents")]
        try:
            overlays = _overlays(state.pop("overlays", ()), fd, found.tail)
            return cls(state, fd, found.ram_at, found.ram_bytes, extents, overlays)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"snapshot {path}: of another pyhv: {error!r}") from error

    @property
    def state(self) -> dict[str, Any]:
        """What it holds beside RAM, made anew at each call; boardstate.py says what that is."""
        return from_json(self._text)

    def machine_config(self, **options: object) -> MachineConfig:
        """Return the configuration of a machine that goes on from here.

        :raises ConfigError: an option that is the snapshot's.
        """
        from .config import checked

        others = options.keys() - {"time_limit", "no_reboot"}
        if others:
            raise ConfigError(f"Machine(snapshot=..., {min(others)}=...): that is the snapshot's")
        hyperv = self.driver.removeprefix("in_")
        return checked(self.config._replace(hyperv=hyperv, **options))

    def adopt(self, memory: GuestMemory) -> None:
        """Make *memory* what the machine had, copy on write."""
        if self._fd < 0:
            raise ConfigError("snapshot: it is closed")
        memory.adopt(self._fd, self._at)

    def go_back(self, disks: list[Disk]) -> None:
        """Let the drives with snapshot=on have what they had."""
        for disk, clusters in zip(disks, self._overlays, strict=True):
            disk.go_back(clusters)

    def clone(self, console: Console | None = None) -> Machine:
        """Return a new machine that goes on from here when it is started."""
        from .machine import Machine

        return Machine(console=console, snapshot=self)

    def close(self) -> None:
        """Give its memory back; machines that go on from it keep what they have. Idempotent."""
        fd, self._fd, self._overlays = self._fd, -1, []
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def driver(machine: Machine) -> str:
    """Return the driver's name, also where it serves the guest no Hyper-V."""
    return "in_kernel" if machine.in_kernel else "in_user"


def _overlays(orders: list[list[int] | None], fd: int, at: int) -> list[Clusters | None]:
    """Return the clusters that lie in the file *fd* from *at* on, in that order."""
    layer = Layer(os.dup(fd)) if any(orders) else None
    found: list[Clusters | None] = []
    for order in orders:
        if order is None or layer is None:
            found.append(None if order is None else {})
            continue
        found.append({one: (layer, at + i * CLUSTER) for i, one in enumerate(order)})
        at += len(order) * CLUSTER
    return found


def cpuid_rows(machine: Machine) -> list[list[int]]:
    """Return vCPU 0's CPUID as rows: leaf, index, four registers."""
    return [[*key, *registers] for key, registers in sorted(machine.cpuid_for(0).table.items())]


def check(machine: Machine, snapshot: Snapshot) -> None:
    """Refuse a snapshot that *machine* cannot go on from.

    :raises ConfigError: another configuration, driver or CPUID.
    """
    mine, theirs = machine.config._asdict(), snapshot.config._asdict()
    for name, value in mine.items():
        if name not in FREE and value != theirs[name]:
            raise ConfigError(
                f"restore: the snapshot's machine had {name} {theirs[name]!r}, this one {value!r}"
            )
    if driver(machine) != snapshot.driver:
        raise ConfigError(
            f"restore: the snapshot's machine had Hyper-V by {snapshot.driver}, this one by "
            f"{driver(machine)}"
        )
    for disk, stamp in zip(machine.disks, snapshot.state["disks"], strict=True):
        disk.check(stamp)
    for mine_row, row in zip(cpuid_rows(machine), snapshot.state["cpuid"], strict=False):
        if mine_row != row:
            raise ConfigError(
                f"restore: the guest saw another CPU: CPUID {row[0]:#x} index {row[1]} was "
                + " ".join(f"{word:08x}" for word in row[2:]) + ", is "
                + " ".join(f"{word:08x}" for word in mine_row[2:])
            )  # fmt: skip


def _config(fields: dict[str, Any]) -> MachineConfig:
    fields = dict(fields)
    unknown = fields.keys() - set(MachineConfig._fields)
    if unknown:
        raise ValueError(f"it has {', '.join(sorted(unknown))}")
    fields["smp"] = Smp(*fields["smp"])
    fields["drives"] = tuple(Drive(*drive) for drive in fields["drives"])
    if fields["nics"]:
        from .net.config import HostForward, Nic

        nics = [Nic(*nic) for nic in fields["nics"]]
        fields["nics"] = tuple(
            nic._replace(forwards=tuple(HostForward(*one) for one in nic.forwards)) for nic in nics
        )
    else:
        fields["nics"] = ()
    return MachineConfig(**fields)


def _copy(memory: GuestMemory, fd: int) -> list[tuple[int, int]]:
    """Write all pages that are not zero to *fd*; return the runs as (offset, bytes)."""
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    zeros = ctypes.create_string_buffer(BLOCK)
    zero, base, size, runs = ctypes.addressof(zeros), memory.address, memory.size, []
    os.ftruncate(fd, size)
    start = -1
    for block in range(0, size, BLOCK):
        length = min(BLOCK, size - block)
        if not compare(base + block, zero, length):
            pages: range = range(0)
            if start >= 0:
                runs.append((start, block - start))
                start = -1
        else:
            pages = range(block, block + length, PAGE)
        for page in pages:
            if compare(base + page, zero, PAGE):
                if start < 0:
                    start = page
            elif start >= 0:
                runs.append((start, page - start))
                start = -1
    if start >= 0:
        runs.append((start, size - start))
    for offset, length in runs:
        done = 0
        while done < length:
            at = offset + done
            done += os.pwrite(fd, memory.bytes[at : offset + length], at)
    return runs
