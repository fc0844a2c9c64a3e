"""QEMU as the oracle of CPUID: what its guests read, what its models are; recorded, compared."""
