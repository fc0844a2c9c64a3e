"""A kernel module in a Debian guest: loads it, uses it, unloads it."""

import re

BROKEN = re.compile(r"BUG:|Oops|WARNING:|Call Trace")
USE = """insmod /modules/brd.ko rd_nr=1 rd_size=1024 && echo hello >/dev/ram0 &&
         head -c 6 /dev/ram0 && busybox rmmod brd && ! test -e /dev/ram0"""


def test_brd(vm_factory, linux):
    vm = vm_factory(**linux)
    vm.start()
    done = vm.run(USE, timeout=300)
    assert (done.status, done.text) == (0, "hello\n"), done.stderr
    assert not BROKEN.search(vm.run("dmesg").text)
