"""The same without pytest: unittest, and Machine by itself. python3 -m unittest does it."""

import os
import pathlib
import subprocess
import sys
import unittest

from pyhv import Machine, PyhvError
from pyhv.kvm.system import Kvm

TOOL = pathlib.Path(__file__).parents[1] / "tools" / "debian_image.py"
USE = """insmod /modules/brd.ko rd_nr=1 rd_size=1024 && echo hello >/dev/ram0 &&
         head -c 6 /dev/ram0 && busybox rmmod brd && ! test -e /dev/ram0"""


def made(*words: str) -> str:
    """Return the first path that tools/debian_image.py prints."""
    command = [sys.executable, TOOL, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


class BrdTest(unittest.TestCase):
    """Debian's RAM disk."""

    def setUp(self) -> None:
        try:
            Kvm().close()
        except PyhvError as error:
            self.skipTest(str(error))
        vm = Machine(
            kernel=os.environ.get("KERNEL") or made("kernel", "trixie"),
            initrd=os.environ.get("INITRD") or made("initramfs", "trixie", "--module", "brd"),
            append="console=ttyS0 quiet", memory="256M", agent=True,
        )  # fmt: skip
        self.vm = self.enterContext(vm)  # closed after the test, whatever happens

    def test_it(self) -> None:
        self.vm.start()
        done = self.vm.run(USE, timeout=300)
        self.assertEqual((done.status, done.text), (0, "hello\n"))  # noqa: PT009
        self.assertNotIn("BUG:", self.vm.run("dmesg").text)  # noqa: PT009


if __name__ == "__main__":
    unittest.main()
