"""What debian_image.py puts together for a screen: a kernel with hyperv_drm, and its modules."""

import shutil
from pathlib import Path

import debian
import initramfs

#: a screen, a keyboard, a mouse, and evdev to read it by
MODULES = ["hv_vmbus", "hv_utils", "hyperv-keyboard", "hid-generic", "hid-hyperv", "evdev",
           "hyperv_drm"]  # fmt: skip
#: the package with the generic kernel itself; the cloud kernels have no hyperv_drm
KERNEL = "$(apt-cache depends linux-image-amd64 | sed -n 's/.*: \\(linux-image-.*\\)/\\1/p')"
RECIPE = (MODULES, KERNEL)


def build(folder: Path, base: Path, busybox: Path, init: str) -> None:
    """Make *folder* with "vmlinuz" and "initramfs"; *base* is a root whose apt knows packages."""
    whole = folder.parent / "unpacked"
    folder.mkdir()
    debian.unpack(base, KERNEL, whole)
    shutil.copy(debian.kernel_image(whole), folder / "vmlinuz")
    modules = initramfs.find_modules(whole, MODULES)
    (folder / "initramfs").write_bytes(initramfs.build(busybox, init, modules))
