"""This host's ssh into a guest whose root has no password, and dropbear as the guest's server."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from conftest import COMMAND_S, ROOT

#: an SSH server as a program; its libraries (perl_initrd.py)
DROPBEAR = "usr/sbin/dropbear"
DROPBEAR_LIBRARIES = (
    "libtomcrypt.so.1", "libtommath.so.1", "libgmp.so.10", "libz.so.1", "libcrypt.so.1",
)  # fmt: skip
#: what dropbear wants of the small initramfs. It makes its host keys when the first client comes,
#: and only in a folder that is there: Debian's dropbear-bin brings none, and the client hears no
#: more than "Connection closed"
DROPBEAR_SETUP = (
    "mkdir -p /etc/dropbear; echo /bin/sh > /etc/shells; "
    "echo root::0:0::/root:/bin/sh > /etc/passwd"
)
OPTIONS = (
    "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR",
    "PreferredAuthentications=none",
)  # fmt: skip


def ssh(command: str, *options: str, host: str = "guest", data: bytes = b"") -> bytes:
    """Run *command* in the guest, *data* as its input; return what it printed.

    :param options: more of ssh's, in the manner of ssh_config(5).
    """
    if shutil.which("ssh") is None:
        pytest.fail("ssh is missing: apt-get install openssh-client (tests/run --all does)")
    words = [word for one in (*OPTIONS, *options) for word in ("-o", one)]
    done = subprocess.run(
        ["ssh", *words, f"root@{host}", command], input=data, capture_output=True,
        timeout=COMMAND_S, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout
