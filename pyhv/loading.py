"""From a configuration to the parts of a machine: who serves Hyper-V, its CPUID, what boots."""

from __future__ import annotations

import errno

from .errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .board import Board
    from .boot.bios import Bios
    from .boot.entry import EntryState
    from .config import MachineConfig
    from .guestcpuid import GuestCpuid
    from .kvm.system import Kvm
    from .machine import Machine


def in_kernel(config: MachineConfig, kvm: Kvm) -> bool:
    """Choose the driver: KVM's Hyper-V where there is one, unless --hyperv says otherwise.

    :raises HostError: this host cannot do what was asked.
    """
    has_kernel = kvm.has_hyperv()
    if config.hyperv == "kernel" and not has_kernel:
        raise HostError(
            "--hyperv kernel: this host's KVM has no Hyper-V (CONFIG_KVM_HYPERV); use --hyperv user"
        )
    if has_kernel and config.hyperv != "user":
        return True
    if not kvm.has_msr_exits():
        raise HostError(
            "Hyper-V in user space: this KVM cannot send MSR accesses to user space; "
            "Linux 5.10 or later can"
        )
    return False


def guest_cpuid(config: MachineConfig, kvm: Kvm, kernel: bool) -> GuestCpuid:
    """Return what the guest will read with CPUID; see GuestCpuid for the errors."""
    from .guestcpuid import GuestCpuid

    host = kvm.supported_hv_cpuid() if kernel else None
    return GuestCpuid(
        config.cpu, kvm.supported_cpuid(), host, config.smp, preset=config.hv,
        machine=config.machine, free_pages=config.free_page_reporting,
    )  # fmt: skip


def load(machine: Machine, board: Board) -> tuple[Bios | None, EntryState]:
    """Put ACPI tables and a kernel or the BIOS into RAM; return where the boot vCPU starts."""
    from .boot import acpi

    config, memory = machine.config, machine.memory
    rsdp = acpi.build(
        memory, config.smp.cpus, generation=machine.generation_id,
        serial_ports=2 if config.agent else 1,
    )  # fmt: skip
    if config.kernel is not None:
        from .boot import detect

        append, initrd = config.append, config.initrd
        if config.agent and initrd is not None:
            from .agent.initramfs import with_agent
            from .boot.image import InitrdPath

            append, archive = with_agent(append)
            initrd = InitrdPath.joined(initrd, archive)
        return None, detect.load(memory, config.kernel, append, initrd, rsdp)
    from .boot.bios import bios_image

    services = bios_services(machine, board)
    return services, services.install(bios_image(config.firmware))


def bios_services(machine: Machine, board: Board) -> Bios | None:
    """Return what serves the BIOS's calls for *board*; None where a kernel starts without one."""
    if machine.config.kernel is not None:
        return None
    from .boot import bios, bios_cdrom, e820

    serial = board.serial
    disks, cdroms = [], []
    for disk in machine.disks:
        (cdroms if disk.sector_size == bios_cdrom.SECTOR else disks).append(disk)
    return bios.Bios(
        machine.memory, disks, machine.console, e820.build(machine.memory), machine.stop,
        lambda: serial.programmed, board.cmos, cdroms=cdroms,
    )  # fmt: skip


def remedy(error: OSError) -> str:
    """Return what to do about a limit of the host; empty where we do not know."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "; a machine needs about 10 descriptors, raise the limit (ulimit -n)"
    return ""
