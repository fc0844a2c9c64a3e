"""The few devices of the machine that are not on VMBus; ports only, no file descriptors."""
