"""What is put behind an initrd so that its guest has a shell on COM2: a "newc" cpio archive.

The kernel unpacks one archive after the other (linux: driver-api/early-userspace/buffer-format),
and ``rdinit=`` starts ours, which leaves a shell behind and becomes the initrd's own /init.
"""

from __future__ import annotations

FOLDER = ".pyhv"
RDINIT = "rdinit="
COM2_DEVICE = (4, 65)  # /dev/ttyS1; /dev is not there yet
NULL_DEVICE = (1, 3)
S_IFDIR, S_IFREG, S_IFCHR = 0o040000, 0o100000, 0o020000

#: {init}: what the kernel would have started. initramfs-tools (Debian's) throws its root away at
#: the end; the last thing it then does for us is to start another shell in the real root.
INIT = """\
#!/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
(
    while sh -c 'echo $$ >/.pyhv/pid; exec sh /.pyhv/tty' </dev/null >/.pyhv/tty 2>&1
          sleep 1; do :; done
) &
echo $! >/.pyhv/loop
if [ -f /scripts/init-bottom/ORDER ]; then echo '/.pyhv/bottom' >>/scripts/init-bottom/ORDER; fi
exec {init} "$@"
"""

#: $rootmnt is where the real root is mounted; /dev is moved there about now
BOTTOM = """\
#!/bin/sh
read loop </.pyhv/loop
read shell </.pyhv/pid
kill -9 $loop $shell
chroot "$rootmnt" /bin/sh -c '
    until [ -c /dev/ttyS1 ]; do sleep 1; done
    while sh /dev/ttyS1 </dev/null >/dev/ttyS1 2>&1; sleep 1; do :; done
' </dev/null >/dev/null 2>&1 &
"""


def _entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    raw = name.encode() + b"\0"
    links = 2 if mode >> 12 == S_IFDIR >> 12 else 1
    # inode, mode, uid, gid, links, mtime, size, device of the file system, its own, name, checksum
    fields = (0, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def archive(init: str) -> bytes:
    """Return the archive.

    :param init: the path in the initrd that PID 1 is to become.
    """
    return b"".join(
        (
            _entry(FOLDER, S_IFDIR | 0o755),
            _entry(f"{FOLDER}/tty", S_IFCHR | 0o600, device=COM2_DEVICE),
            # ash opens it for everything that it puts into the background
            _entry("dev", S_IFDIR | 0o755),
            _entry("dev/null", S_IFCHR | 0o666, device=NULL_DEVICE),
            _entry(f"{FOLDER}/init", S_IFREG | 0o755, INIT.format(init=init).encode()),
            _entry(f"{FOLDER}/bottom", S_IFREG | 0o755, BOTTOM.encode()),
            _entry("TRAILER!!!", 0),
        )
    )


def with_agent(append: str) -> tuple[str, bytes]:
    """Return the kernel command line that starts our init, and the archive it is in."""
    words = append.split(" ")
    init = [word.removeprefix(RDINIT) for word in words if word.startswith(RDINIT)]
    rest = [word for word in words if not word.startswith(RDINIT)]
    command_line = " ".join([f"{RDINIT}/{FOLDER}/init", *rest]).rstrip()
    return command_line, archive(init[-1] if init else "/init")
