"""What an older machine type of QEMU (``-M pc-i440fx-6.1``) changes in the Hyper-V interface.

pyhv has one machine; of QEMU's machine types only these defaults of Hyper-V flags are left.
Sources: ``qemu-system-x86_64 -M help`` of QEMU 10.0.13 and dumps of guests under old types.
"""

from __future__ import annotations

from ..errors import ConfigError
from .flags import Value

#: a type's version -> defaults that it and all older types have
COMPAT: tuple[tuple[tuple[int, int], dict[str, Value]], ...] = (
    # Windows Server 2008 R2, 6.1.7100; from 6.2 on it is Server 2016
    ((6, 1), {"hv-version-id-build": 0x1BBC, "hv-version-id-major": 6, "hv-version-id-minor": 1}),
    ((3, 0), {"x-hv-synic-kvm-only": True}),
    ((2, 10), {"x-hv-max-vps": 0x40}),
)
#: types without a version; all mean the newest
UNVERSIONED = ("pc", "q35", "microvm")
FAMILIES = ("pc-i440fx-", "pc-q35-")
#: of QEMU 10.0, both families; pc-q35-4.0.1 is the only one with three numbers
VERSIONS = (
    "2.4 2.5 2.6 2.7 2.8 2.9 2.10 2.11 2.12 3.0 3.1 4.0 4.1 4.2 5.0 5.1 5.2 6.0 6.1 6.2 7.0 7.1 "
    "7.2 8.0 8.1 8.2 9.0 9.1 9.2 10.0"
)


def _version(name: str) -> tuple[int, int] | None:
    """Return the version of a machine type; None when there is no such type."""
    for family in FAMILIES:
        text = name.removeprefix(family)
        if text != name:
            text = "4.0" if name == "pc-q35-4.0.1" else text
            if text in VERSIONS.split():
                major, minor = text.split(".")
                return int(major), int(minor)
    return None


def hyperv_defaults(text: str) -> dict[str, Value]:
    """Return the flags whose defaults differ, for the argument of ``-M``.

    :raises ConfigError: no machine type of QEMU 10.0, or an option other than ``accel=kvm``.
    """
    name, *items = text.removeprefix("type=").split(",")
    if name == "accel=kvm":  # -machine accel=kvm
        name = UNVERSIONED[0]
    for item in items:
        if item != "accel=kvm":
            raise ConfigError(
                f"-M {ascii(text)[1:-1]}: {ascii(item)[1:-1]!r} is not provided by pyhv; of a "
                "machine type it takes the defaults of Hyper-V flags, and accel=kvm"
            )
    if name in UNVERSIONED:
        return {}
    version = _version(name)
    if version is None:
        raise ConfigError(
            f"-M {ascii(name)[1:-1]}: no machine type of QEMU 10.0; pyhv has one machine, and "
            f"takes {', '.join(UNVERSIONED)}, {FAMILIES[0]}6.1 and so on (-M help) for the "
            "defaults of Hyper-V flags"
        )
    found: dict[str, Value] = {}
    for newest, defaults in COMPAT:
        if version <= newest:
            found |= defaults
    return found
