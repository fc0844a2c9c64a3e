"""Puts the device on the bus of a machine."""

from device import Reverser

from pyhv import Machine

with Machine(kernel="guest.elf", memory="16M") as vm:
    vm.offer(Reverser())
    vm.start()
    vm.wait(timeout=60)
    print(vm.console.text(), end="")
