"""QMP, QEMU's machine protocol, as far as tools for one machine need it."""
