"""What is traced: the categories, and one event."""

from __future__ import annotations

from ..errors import ConfigError
from ..record import Record

#: category -> what it shows; docs/tracing.md is checked against it
CATEGORIES = {
    "exits": "every KVM_RUN that came back to pyhv: pio, mmio, msr, hypercall and the rest",
    "pio": "port accesses",
    "mmio": "accesses to guest-physical addresses without RAM",
    "msr": "accesses to the synthetic MSRs that pyhv serves (in_user; in_kernel KVM does)",
    "hypercall": "hypercalls that pyhv serves; in_kernel only those that KVM hands on",
    "synic": "messages, events and interrupts that pyhv sends through the SynIC",
    "stimer": "synthetic timers that are armed and expire (in_user)",
    "vmbus": "channel messages, both ways",
    "ring": "packets in the rings of VMBus channels, both ways, as pyhv takes and sends them",
    "bytes": "of vmbus and ring the bytes, and guest memory, for pyhv replay; not part of all",
    "console": "lines that the guest writes to its console",
    "machine": "what the machine is, once a life: CPUID, memory map; and how it ends",
}
EXIT_CATEGORIES = frozenset(("exits", "pio", "mmio", "msr", "hypercall"))


class Event(Record):
    """Something that happened.

    ``time_ns`` and ``duration_ns`` by CLOCK_MONOTONIC; a duration of -1 says that it has none.
    ``vcpu``: -1 for the event loop and timers. ``fields``: numbers, texts, or dicts of them.
    ``result``: None where there is none.
    """

    time_ns: int
    vcpu: int
    category: str
    name: str
    fields: dict[str, object]
    result: object = None
    duration_ns: int = -1


def categories(text: str) -> frozenset[str]:
    """Return the categories in ``exits,msr`` or ``all``.

    :raises ConfigError: one that there is not.
    """
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    if "all" in wanted:
        return frozenset(CATEGORIES) - {"bytes"} | ({"bytes"} & set(wanted))
    for word in wanted:
        if word not in CATEGORIES:
            raise ConfigError(f"--trace {word}: pyhv has {', '.join(CATEGORIES)} and all")
    if not wanted:
        raise ConfigError(f"--trace needs one or more of {', '.join(CATEGORIES)}, all")
    found = frozenset(wanted)
    return found | EXIT_CATEGORIES if "exits" in found else found
