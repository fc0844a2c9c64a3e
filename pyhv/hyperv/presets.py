"""Presets as data: ``--hv windows`` is a ``-cpu`` that somebody thought about; and its text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..cpu_options import DEFAULT_CPU
from ..record import Record
from .choose import Leaf, host_has
from .flags import FLAGS

DEFAULT_MODEL = "host"


class Preset(Record):
    """*items* of ``-cpu``, always there; *wanted*, only where host and driver have them."""

    meaning: str  # one sentence
    items: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    why: str = ""


def _items(text: str) -> tuple[str, ...]:
    return tuple(text.replace(" ", "").split(","))


_WINDOWS = _items(
    "kvm=off,hv_relaxed,hv_vapic,hv_spinlocks=0x1fff,hv_vpindex,hv_runtime,hv_time,hv_synic,"
    "hv_stimer,hv_stimer_direct,hv_frequencies,hv_reset,hv_avic,hv_tlbflush,hv_tlbflush_ext,hv_ipi,"
    "hv_xmm_input"
)
PRESETS: dict[str, Preset] = {
    "none": Preset(
        "No Hyper-V: the guest sees KVM's own interface.",
        why="what -cpu host is to QEMU",
    ),
    "linux": Preset(
        "What Linux uses: clock, timers, VMBus; the same as no -cpu at all.",
        _items(DEFAULT_CPU)[1:],
        why="kvm=off, or Linux prefers KVM's leaves; no flush and IPI calls, which cost more than "
        "they save in user space",
    ),
    "windows": Preset(
        "What Windows uses.",
        _WINDOWS,
        why="hv_avic: no AutoEOI, so AVIC and APICv stay on; no hv_crash, which keeps Windows from "
        "writing its own dump",
    ),
    "nested": Preset(
        "Windows with Hyper-V inside (WSL2, VBS), or another hypervisor.",
        (*_WINDOWS, "hv_reenlightenment"),
        _items("hv_evmcs,hv_emsr_bitmap,hv_tlbflush_direct"),
        why="hv_evmcs is for Intel; the three nested flags need KVM's own Hyper-V",
    ),
    "max": Preset(
        "Every flag that this host and the driver have, but the debugger's.",
        _items("kvm=off,hv_spinlocks=0xfff"),
        tuple(
            row.name.replace("-", "_")
            for row in FLAGS.values()
            if row.bit >= 0 and row.name != "hv-syndbg"
        ),
        why="hv_passthrough under Microsoft's name and version, so that guests know it",
    ),
}  # fmt: skip


def expand(
    name: str,
    cpu: str | None,
    host: Iterable[Sequence[int]],
    *,
    user: bool,
) -> tuple[str, tuple[str, ...]]:
    """Return the ``-cpu`` text that preset *name* stands for, and the flags that had to stay out.

    :param name: a key of PRESETS.
    :param cpu: the user's own ``-cpu``: its model counts, its items come last and so win.
    :param host: rows of KVM_GET_SUPPORTED_HV_CPUID, or of :func:`choose.in_user_table`.
    :param user: the in_user driver is to run it.
    """
    preset = PRESETS[name]
    table: dict[int, Leaf] = {row[0]: tuple(row[3:7]) for row in host}  # type: ignore[misc]
    there: list[str] = []
    missing: list[str] = []
    for item in preset.wanted:
        row = FLAGS[item.replace("_", "-")]
        refused = row.in_user if user else row.in_kernel
        (there if host_has(row, table) and not refused else missing).append(item)
    model, *own = (cpu or DEFAULT_MODEL).split(",")
    return ",".join([model, *preset.items, *there, *own]), tuple(missing)
