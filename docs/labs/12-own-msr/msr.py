"""Gives the guest an MSR that adds up what is written."""

from pyhv import Machine
from pyhv.errors import GuestFault

ADDER = 0x40000F00  # in the range that the MSR filter sends out (in_user)


class Adder:
    """The register of one vCPU. What raises GuestFault becomes #GP in the guest."""

    def __init__(self):
        self.sum = 0

    def read(self):
        return self.sum

    def write(self, value):
        if value == 0:
            raise GuestFault("there is nothing to add")
        self.sum = self.sum + value & 0xFFFF_FFFF_FFFF_FFFF


def install(board):
    """Called with every board, this one and those after a reset, before its vCPUs run."""
    for thread in board.threads:
        adder = Adder()
        thread.rdmsr[ADDER], thread.wrmsr[ADDER] = adder.read, adder.write


with Machine(kernel="guest.elf", memory="16M", hyperv="user") as vm:
    vm.add_instrument(install)
    vm.start()
    print(vm.wait(timeout=60).text)
    print(vm.console.text(), end="")
