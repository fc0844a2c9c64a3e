"""What tests of whole machines share: one line to make one, deadlines, and what to count."""

from __future__ import annotations

import gc
import os

import guestcode

from pyhv import Machine

#: For loops that can only be longer: 1 is what the issue promises; here, a fifth of it.
SCALE = float(os.environ.get("PYHV_SCALE", "0.2"))
#: Deadlines are for hangs, not for speed: this machine may be loaded.
SECONDS = 60


def descriptors() -> dict[str, str]:
    """Return this process's open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one listdir used
    return found


def rss_kib() -> int:
    """Return the resident set of this process, after a collection."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


def machine(body: str, **options: object) -> Machine:
    """Return a machine that runs *body*."""
    return Machine(**({"kernel": guestcode.sector(body), "cpu": "host", "memory": "2M"} | options))
