"""One life of a Linux guest, in a process of its own: made, booted, typed at, closed, by a library.

``life.py JSON``, with

* ``paths``: what to put in front of sys.path
* ``options``: of pyhv's Machine; or
* ``qemu``: the command; ``CONSOLE`` and ``QMP`` in it become descriptors of sockets. QEMU is
  driven by the qemu.qmp package, as qemu.machine (which is on no index) drives it: the console
  and QMP are socket pairs, it is there when QMP's greeting is, and ``quit`` ends it.

Prints stage -> CPU seconds as JSON, a child's in it; "imports" is all until then.
"""

# nothing more: what a library imports shall count as its own
import json
import sys
import time

LIMIT_S = 200.0
UP = "PYHV-USERSPACE"  # tools/debian_image.py
PROMPT, COMMAND, ANSWER = "# ", "echo $((6*7)) $(uname -s)\n", "42 Linux"


class Pyhv:
    """The machine is in this process."""

    def __init__(self, order: dict) -> None:
        from pyhv import Machine

        self.make, self.options = Machine, order["options"]

    def create(self) -> None:
        """Build the machine, let it run."""
        self.vm = self.make(**self.options)
        self.vm.start()

    def expect(self, text: str) -> None:
        """Wait until the guest prints *text*."""
        self.vm.console.expect(text, timeout=LIMIT_S)

    def send(self, text: str) -> None:
        """Type *text*."""
        self.vm.console.send(text)

    def close(self) -> None:
        """End it, whatever the guest does."""
        self.vm.close()

    def child_s(self) -> float:
        """Return the CPU time of children."""
        return 0.0

    def abandon(self) -> None:
        """Leave nothing behind."""
        self.vm.close()


class Qemu:
    """The machine is a child, the package talks to it."""

    def __init__(self, order: dict) -> None:
        import resource
        import socket
        import subprocess

        from qemu.qmp.legacy import QEMUMonitorProtocol

        self.resource, self.socket, self.subprocess = resource, socket, subprocess
        self.monitor, self.command = QEMUMonitorProtocol, order["qemu"]
        self.child = None

    def create(self) -> None:
        """Start it, negotiate; the guest runs from the beginning."""
        pairs = {"CONSOLE": self.socket.socketpair(), "QMP": self.socket.socketpair()}
        words = self.command
        for name, (_, theirs) in pairs.items():
            words = [word.replace(name, str(theirs.fileno())) for word in words]
        theirs = [pair[1] for pair in pairs.values()]
        self.child = self.subprocess.Popen(
            words, stdin=self.subprocess.DEVNULL, pass_fds=[one.fileno() for one in theirs]
        )
        for one in theirs:
            one.close()
        self.console = pairs["CONSOLE"][0]
        self.console.settimeout(LIMIT_S)
        self.text = b""
        self.qmp = self.monitor(pairs["QMP"][0])
        self.qmp.connect()

    def expect(self, text: str) -> None:
        """Wait until the guest prints *text*."""
        while text.encode() not in self.text:
            data = self.console.recv(65536)
            if not data:
                raise EOFError(f"no {text!r} on the console: {self.text[-1000:]!r}")
            self.text += data
        self.text = self.text.partition(text.encode())[2]

    def send(self, text: str) -> None:
        """Type *text*."""
        self.console.sendall(text.encode())

    def close(self) -> None:
        """End it, whatever the guest does."""
        self.qmp.cmd("quit")
        try:
            self.qmp.close()
        except EOFError:  # QEMU was gone first, which the package holds for an error
            pass
        self.child.wait(LIMIT_S)
        self.console.close()

    def child_s(self) -> float:
        """Return the CPU time of QEMU so far."""
        usage = self.resource.getrusage(self.resource.RUSAGE_CHILDREN)
        spent = usage.ru_utime + usage.ru_stime
        if self.child is not None and self.child.returncode is None:
            # linux: include/linux/posix-timers.h, make_process_cpuclock(pid, CPUCLOCK_SCHED)
            spent += time.clock_gettime((~self.child.pid << 3) | 2)
        return spent

    def abandon(self) -> None:
        """Leave nothing behind."""
        if self.child is not None:
            self.child.kill()


def live(order: dict) -> dict[str, float]:
    """Return what each stage took."""
    driver = Pyhv(order) if "options" in order else Qemu(order)
    before = time.process_time()
    taken = {"imports": before}

    def stage(name: str) -> None:
        nonlocal before
        now = time.process_time() + driver.child_s()
        taken[name], before = now - before, now

    try:
        driver.create()
        stage("create")
        if order.get("boot", True):
            driver.expect(UP)
            stage("boot")
            driver.expect(PROMPT)
            driver.send(COMMAND)
            driver.expect(ANSWER)
            stage("run")
        driver.close()
        stage("close")
    except BaseException:
        driver.abandon()
        raise
    return taken


def main() -> None:
    """Do what the argument says."""
    order = json.loads(sys.argv[1])
    sys.path[:0] = order["paths"]
    print(json.dumps(live(order)))


if __name__ == "__main__":
    main()
