"""How much a process cost: under -icount CPU time is instructions, one each nanosecond."""

from __future__ import annotations

import os
import pathlib
import subprocess
import time

from .machines import ROOT

TRACING = pathlib.Path("/sys/kernel/tracing")


class Failed(Exception):
    """A measured program did not do what it was started for; says which and what it printed."""


class Process:
    """A running program, its output in a file; with it all its threads and dead children count.

    :param status: the exit status that means all went well.

    ``guest_s``, after :meth:`finish`: how much of its CPU time was spent in guest code, dead
    children's too. The kernel counts it by timer ticks: right to some of them, 4 ms each.
    """

    guest_s = 0.0

    def __init__(self, command: list[object], output: pathlib.Path, status: int = 0) -> None:
        self.command, self.output, self.status = [str(word) for word in command], output, status
        self.errors = output.with_suffix(".err")
        with open(output, "wb") as out, open(self.errors, "wb") as err:
            self._child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=ROOT
            )
        self.pid = self._child.pid

    def cpu_s(self) -> float:
        """Return the CPU time so far of all its threads, ended ones too; guest time counts."""
        # linux: include/linux/posix-timers.h, make_process_cpuclock(pid, CPUCLOCK_SCHED)
        return time.clock_gettime((~self.pid << 3) | 2)

    def expect(self, text: bytes, times: int = 1, timeout: float = 200) -> None:
        """Wait until the output has *text* so many times."""
        deadline = time.monotonic() + timeout
        while self.output.read_bytes().count(text) < times:
            if time.monotonic() > deadline or self._child.poll() is not None:
                raise self._failed(f"no {text!r}")
            time.sleep(0.02)

    def finish(self, timeout: float = 200) -> float:
        """Wait for its end.

        :returns: user + system time of the whole process, in seconds of CPU.
        """
        deadline = time.monotonic() + timeout
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                raise self._failed("time is up")
            time.sleep(0.01)
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        # proc(5): guest_time and cguest_time are fields 43 and 44, the first here is the third
        ticks = int(fields[43 - 3]) + int(fields[44 - 3])
        self.guest_s = ticks / os.sysconf("SC_CLK_TCK")
        _, status, usage = os.wait4(self.pid, 0)
        self._child.returncode = os.waitstatus_to_exitcode(status)
        if self._child.returncode != self.status:
            raise self._failed(f"exit status {self._child.returncode}")
        return usage.ru_utime + usage.ru_stime

    def kill(self) -> None:
        """End it."""
        self._child.kill()
        self._child.wait()

    def overhead_kib(self) -> int:
        """Return its peak resident memory less what its largest mapping, guest RAM, has now."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0])
        return peak - largest_mapping(pathlib.Path(f"/proc/{self.pid}/smaps").read_text())[1]

    def _failed(self, what: str) -> Failed:
        if self._child.returncode is None:
            self.kill()
        said = (self.output.read_bytes()[-600:] + self.errors.read_bytes()[-1500:]).decode(
            errors="replace"
        )
        return Failed(f"{' '.join(self.command)}: {what}; its last words:\n{said}")


def largest_mapping(smaps: str) -> tuple[int, int]:
    """Return (size, resident) in KiB of the largest mapping in the text of /proc/PID/smaps."""
    best = (0, 0)
    size = 0
    for line in smaps.splitlines():
        if line.startswith("Size:"):
            size = int(line.split()[1])
        elif line.startswith("Rss:"):
            best = max(best, (size, int(line.split()[1])))
    return best


def mount_debug_files() -> None:
    """Make the kernel's trace points reachable."""
    if not os.path.ismount(TRACING):
        subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], check=True)


class UserExits:
    """Counts KVM_RUN's returns to user space, of all VMs, while the block runs."""

    count = 0

    def __enter__(self) -> UserExits:
        (TRACING / "trace").write_text("")  # empties it, and with it the counts
        self._set("1")
        return self

    def __exit__(self, *exception: object) -> None:
        self._set("0")
        for stats in TRACING.glob("per_cpu/cpu*/stats"):
            for line in stats.read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("entries", "overrun"):
                    self.count += int(value)

    @staticmethod
    def _set(value: str) -> None:
        (TRACING / "events/kvm/kvm_userspace_exit/enable").write_text(value)
