"""Gives the guest hypercall 0xf0: print these characters on the host."""

from pyhv import Machine
from pyhv.errors import BadGpa
from pyhv.hyperv import tlfs
from pyhv.hyperv.hypercalls import HYPERCALLS, Hypercall

MOST = 4096


def say(call):
    """RDX characters at guest-physical R8. Both are a stranger's: look before you use them."""
    length, address = call.in1, call.in2
    if not 0 < length <= MOST:
        return tlfs.HV_STATUS_INVALID_PARAMETER
    try:
        text = call.partition.world.memory.read(address, length)
    except BadGpa:
        return tlfs.HV_STATUS_INVALID_HYPERCALL_INPUT
    print("the guest says", ascii(text.decode(errors="replace")))
    return tlfs.HV_STATUS_SUCCESS


HYPERCALLS[0xF0] = Hypercall(0xF0, "HvCallSay", say, gate=lambda features: True)

with Machine(kernel="guest.elf", memory="16M", hyperv="user") as vm:
    vm.start()
    vm.wait(timeout=60)
    print(vm.console.text(), end="")
