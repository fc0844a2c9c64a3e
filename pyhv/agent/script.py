"""What is typed at the guest's shell, and how bytes are spelled in it: printable ASCII only.

The line may be a terminal that echoes, edits and puts CR before LF (there may be no ``stty``), so
no byte that such a terminal acts on is sent, a line is short until the terminal is known to be
raw, and no typed line contains the mark it makes the shell print (``$9`` is empty).

Any POSIX shell: dash, busybox's ash and bash were tried.
"""

from __future__ import annotations

from base64 import b64encode

MARK = b"pyhv"
#: typed until it is answered: whatever part of it gets lost, the rest is words and no open quote
PROBE = "\necho pyhv$9%s.\n"
#: a terminal that cannot be made raw will do as well, slower
RAW = 't=;{ stty raw -echo <"$0"&&t=raw; } 2>&1;echo pyhv$9%s.\n'

#: d TEXT: x is TEXT with its \0ooo replaced; f NONCE COMMAND...: run it between the marks;
#: r NONCE [FILE]: run $c in a session of its own, with FILE as its input; k: kill that one.
#: A job's stderr goes to a file, because there is one line for two streams. Without setsid, what
#: the killed command itself has started goes on.
FUNCTIONS = r"""
cd /;Z=/dev/null
d() { x=$(printf '%bx' "$1");x=${x%x}; }
f() { n=$1;shift;echo "pyhv$n<";"$@";s=$?;echo "pyhv$n> $s";echo "pyhv$n."; }
for E in /run /tmp /dev/shm /dev /.pyhv;do E=$E/.pyhv-$$;{ : >$E; } 2>$Z&&break;done
b=;command -v base64 >$Z&&b=base64
S=;W='sh -c "$1" <"$3"& i=$!;trap "kill -9 $i" 15;wait $i;'
command -v setsid >$Z&&S=setsid&&W='sh -c "$1" <"$3";'
R='exec 2>"$4";echo "pyhv$2<";'$W's=$?;echo "pyhv$2> $s";[ -s "$4" ]&&cat <"$4";echo "pyhv$2."'
r() { : >$E;$S sh -c "$R" sh "$c" $1 "${2:-$Z}" $E <$Z& p=$!; }
k() { [ "$p" ]&&{ kill -9 -$p||kill $p;wait $p; } 2>$Z;p=; }
k;command exec 3<&- 4>&-
"""

SHORT_LINE = 900  # of 4096 that a terminal's own editing takes
LONG_LINE = 8192  # of a raw terminal; what its driver holds back is bounded, too
STREAM_LINE = 49152  # of a socket, which makes the sender wait
#: neither a backslash nor a quote by itself: it stands between single quotes
SPELLED = tuple(
    chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\0{byte:03o}"
    for byte in range(256)
)


def spell(data: bytes) -> str:
    """Return *data* as ``printf %b`` reads it, to be put between single quotes."""
    return "".join([SPELLED[byte] for byte in data])


def assign(variable: str, data: bytes, line: int) -> list[str]:
    """Return lines after which the shell's *variable* is *data* (no NUL); they use d.

    :param line: about how long a line may be.
    """
    step = line // len(SPELLED[0]) - 10
    return [f"{variable}="] + [
        f"d '{spell(data[at : at + step])}';{variable}=${variable}$x"
        for at in range(0, len(data), step)
    ]


def append(data: bytes, base64: bool, line: int) -> tuple[str, int]:
    """Return a line that writes the beginning of *data* to descriptor 4, and how much of it."""
    if base64:
        part = data[: line * 3 // 4]
        return f"echo {b64encode(part).decode()}|base64 -d >&4", len(part)
    part = data[: line // len(SPELLED[0])]
    return f"printf %b '{spell(part)}' >&4", len(part)


def shown(data: bytes) -> str:
    """Return a command as an error names it: one short line."""
    text = repr(data.decode(errors="backslashreplace"))
    return text if len(text) <= 70 else text[:66] + "..."
