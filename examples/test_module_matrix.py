"""The same module under several sets of Hyper-V flags, served by the kernel and by pyhv."""

import pytest
from test_module import BROKEN, USE

from pyhv.kvm.system import Kvm

FLAGS = {
    "none": "host,kvm=off",
    "clock": "host,kvm=off,hv_time,hv_vpindex,hv_relaxed",
    "timers": "host,kvm=off,hv_time,hv_vpindex,hv_synic,hv_stimer",
    "direct": "host,kvm=off,hv_time,hv_vpindex,hv_synic,hv_stimer,hv_stimer_direct",
}
CLOCK = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource"


@pytest.fixture(params=["kernel", "user"])
def driver(request: pytest.FixtureRequest) -> str:
    """Who serves Hyper-V; a KVM without Hyper-V leaves pyhv alone."""
    kvm = Kvm()
    has = kvm.has_hyperv()
    kvm.close()
    if request.param == "kernel" and not has:
        pytest.skip("this KVM has no Hyper-V: only --hyperv user")
    return request.param


@pytest.mark.parametrize("flags", FLAGS)
def test_brd(vm_factory, linux, flags: str, driver: str) -> None:
    vm = vm_factory(**linux, cpu=FLAGS[flags], hyperv=driver)
    vm.start()
    done = vm.run(USE, timeout=300)
    assert (done.status, done.text) == (0, "hello\n"), done.stderr
    wanted = "hv_time" in FLAGS[flags]
    assert vm.run(CLOCK).text.startswith("hyperv_clocksource") == wanted
    assert not BROKEN.search(vm.run("dmesg").text)
