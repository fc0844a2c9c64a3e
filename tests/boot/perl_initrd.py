"""The small initramfs with hv_sock and Debian's perl behind it: a program that has AF_VSOCK."""

from __future__ import annotations

import pathlib
import sys

from conftest import ROOT, image

sys.path.insert(0, str(ROOT / "tests" / "host"))

import initramfs as archive  # noqa: E402

LIBRARIES = ("libc.so.6", "libm.so.6", "libcrypt.so.1")
LOADER = "lib64/ld-linux-x86-64.so.2"
HOST, ANY = 2, 0xFFFFFFFF  # VMADDR_CID_HOST, VMADDR_CID_ANY


def build(
    suite: str, path: pathlib.Path, program: str = "", its_libraries: tuple[str, ...] = (),
    more: dict[str, pathlib.Path] | None = None,
) -> list[str]:  # fmt: skip
    """Write the archive to *path*; return the commands that load what it brings.

    :param program: one more of Debian's, by its path without the first "/".
    :param more: files of the host, by path in the guest.
    """
    kernel = pathlib.Path(image("kernel", suite)[0])
    root, base = kernel.parents[1], pathlib.Path(image("initramfs", suite)[0]).read_bytes()
    modules = archive.find_modules(root, ["hv_sock"])
    files = {name: root / name for name in ("usr/bin/perl", program) if name}
    folder = root / "usr/lib/x86_64-linux-gnu"
    for name in {*LIBRARIES, *its_libraries}:
        files[f"lib/x86_64-linux-gnu/{name}"] = (folder / name).resolve()
    files[LOADER] = (folder / pathlib.Path(LOADER).name).resolve()
    files |= more or {}
    folders = {str(parent) for name in files for parent in pathlib.Path(name).parents}
    parts = [archive._entry(name, 0o040755) for name in sorted(folders - {"."}) + ["more"]]
    parts += [archive._entry(name, 0o100755, file.read_bytes()) for name, file in files.items()]
    parts += [archive._entry(f"more/{name}.ko", 0o100644, elf) for name, elf in modules]
    parts.append(archive._entry("TRAILER!!!", 0))
    path.write_bytes(base + bytes(-len(base) % 4) + b"".join(parts))
    there = archive.find_modules(root, ["hv_vmbus"])
    return [f"insmod /more/{name}.ko" for name, _ in modules if name not in dict(there)]


def address(port: int, cid: int) -> str:
    """Return perl's expression for a struct sockaddr_vm."""
    return f'pack("SSLLL",40,0,{port},{cid},0)'


def server(port: int, body: str) -> str:
    """Return the command that listens on *port* and runs *body* for each connection C."""
    return (
        f"perl -e 'socket(S,40,1,0)||die;bind(S,{address(port, ANY)})||die $!;listen(S,5);"
        f"while(accept(C,S)){{if(!fork){{{body};exit}}close C}}' >/tmp/{port}.log 2>&1 &"
    )


#: sends back what it gets, then its end
ECHO = (
    "while(sysread(C,$b,65536)){$o=0;while($o<length$b){$o+=syswrite(C,$b,length($b)-$o,$o)}}"
    "shutdown(C,1)"
)
#: ends with the client; dropbear does not know AF_VSOCK, and would look its client's address up
DROPBEAR = (
    "socketpair(A,B,1,1,0)||die;"
    'if(!fork){close A;close C;open(STDIN,"<&B");open(STDOUT,">&B");exec "dropbear","-R","-B","-i"}'
    "close B;if(fork){while(sysread(C,$b,65536)){syswrite(A,$b)}shutdown(A,1)}"
    "else{while(sysread(A,$b,65536)){syswrite(C,$b)}shutdown(C,1)}"
)
SHELL = 'open(STDIN,"<&C");open(STDOUT,">&C");exec "sh"'


def client(port: int, body: str) -> str:
    """Return the command that connects to *port* of the host and runs *body* with S."""
    return (
        f"perl -e 'socket(S,40,1,0)||die;connect(S,{address(port, HOST)})||die \"connect: $!\";"
        f"{body}'"
    )
