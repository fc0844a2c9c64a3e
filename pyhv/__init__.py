"""pyhv gives a KVM guest the Microsoft Hyper-V interface, in Python you can read.

``Machine`` and ``MachineConfig`` load on first use: ``python -m pyhv`` pays only for what
it runs.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .agent.shell import GuestTimeout
    from .aio import AsyncMachine
    from .config import Drive, MachineConfig
    from .errors import PyhvError
    from .machine import Machine
    from .reasons import Reason
    from .snapshot import Snapshot

__version__ = "0.1.0"
__all__ = [
    "AsyncMachine", "Drive", "GuestTimeout", "Machine", "MachineConfig", "PyhvError", "Reason",
    "Snapshot", "__version__",
]  # fmt: skip

_HOMES = {
    "AsyncMachine": "aio", "Drive": "config", "GuestTimeout": "agent.shell",
    "Machine": "machine", "MachineConfig": "config", "PyhvError": "errors", "Reason": "reasons",
    "Snapshot": "snapshot",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"pyhv.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pyhv' has no attribute {name!r}")
