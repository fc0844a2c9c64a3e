"""The look-up commands as one table: help, completion and the man page are printed from it."""

from __future__ import annotations

from .arguments import JSON, Command, Switch

EXPLAIN = Command(
    "explain",
    "what the Hyper-V flags of a -cpu mean, need and do",
    "TEXT|FILE|-|COMMAND...",
    (
        "Explains every Hyper-V flag of a -cpu text, of a whole QEMU command line, of libvirt's "
        "domain XML (as text, a file, or - for standard input), or of a preset: what it means, "
        "the CPUID bits, MSRs and hypercalls it opens, since when, what it needs, what it does to "
        "migration, APICv, nesting, Linux and Windows. All missing flags are named at once, with "
        "the corrected text.",
    ),
    (
        Switch(("--hv",), "NAME", "explain a preset: none, linux, windows, nested, max"),
        Switch(("--to-qemu",), "", "print only the (corrected) -cpu"),
        Switch(("--to-libvirt",), "", "print only libvirt's XML for it"),
        Switch(("--strict",), "", "status 1 if there is anything to mind"),
        JSON,
    ),
    ((0, "the flags go together"), (1, "--strict, and something is not wise"),
     (2, "they do not go together, or cannot be read")),
    ("pyhv explain host,hv_time,hv_stimer", "virsh dumpxml win11 | pyhv explain -",
     "pyhv explain --to-libvirt --hv windows",
     "pyhv explain qemu-system-x86_64 -enable-kvm -cpu host,hv_ipi -m 4G"),
)  # fmt: skip

CPUID = Command(
    "cpuid",
    "a CPUID dump in names, as flags, or compared with another",
    "[FILE|-] [FILE|-]",
    (
        "Decodes a CPUID dump by name and says which -cpu flags give it; compares two by name. "
        "Dumps are the output of cpuid -r, lines 'CPUID 40000003:00 = ...', '40000003 eax ebx ecx "
        "edx', diff(1) of such, Linux's boot message 'Hyper-V: privilege flags ...', QMP's JSON "
        "(feature-words, query-cpu-model-expansion), and the JSON of pyhv explain and pyhv caps. "
        "Without a file standard input is read.",
    ),
    (
        Switch(("--cpu",), "TEXT", "compare with what this -cpu shows"),
        Switch(("--leaf",), "HEX", "the leaf of a line of four words"),
        Switch(("--on",), "N", "of cpuid -r: the leaves of CPU N; default 0"),
        Switch(("--all",), "", "all leaves, not the hypervisor's only"),
        JSON,
    ),
    ((0, "decoded; two dumps are the same"), (1, "two dumps differ"), (2, "it is no dump")),
    (
        "ssh guest cpuid -r | pyhv cpuid",
        "pyhv cpuid before.txt after.txt",
        "ssh guest dmesg | pyhv cpuid --cpu host,kvm=off,hv_time,hv_vpindex",
        "echo 262 0 0 8 | pyhv cpuid --leaf 40000003",
    ),
    most=2,
)

CAPS = Command(
    "caps",
    "what this host can give: each flag in the kernel, in user space, or why not",
    "",
    (
        "Says for each Hyper-V flag whether KVM has it in the kernel, whether pyhv serves it in "
        "user space, or why not; and what the host's clock means to guests. Needs no VM, and "
        "works without KVM. --json of two hosts can be compared.",
    ),
    (
        Switch(("--against",), "CPU", "can this host do this -cpu, QEMU command line or XML?"),
        Switch(
            ("--diff",), "A.json [B.json]", "what two hosts differ in; B is this host if left out"
        ),
        JSON,
    ),
    (
        (0, "guests can have Hyper-V here; --against: yes; --diff: the same"),
        (1, "they cannot; --against: no; --diff: they differ"),
        (2, "a wrong command line or file"),
    ),
    (
        "pyhv caps",
        "pyhv caps --against host,hv_evmcs,hv_vapic",
        "pyhv caps --json > a.json; ssh other pyhv caps --json > b.json",
        "pyhv caps --diff a.json b.json",
    ),
    most=1,
)

DOCTOR = Command(
    "doctor",
    "why /dev/kvm does not work, and what to do",
    "",
    (
        "Looks at the CPU, the kernel's modules, the device and its permissions, and opens KVM; "
        "what is wrong comes with what to do.",
    ),
    (JSON,),
    ((0, "pyhv can run guests here"), (1, "something is wrong")),
    ("pyhv doctor",),
    most=0,
)

AUDIT = Command(
    "audit",
    "what a guest was offered, enabled, really used; and why not",
    "[TRACE|-]",
    (
        "Compares what CPUID advertised with what the guest enabled and really used, with counts, "
        "and names the probable reason where an advertised thing is not used. pyhv run --audit "
        "does it live; here a recorded trace is read.",
        "Traces: pyhv run --trace msr,hypercall --trace-format jsonl --trace-file FILE; of any "
        "other VMM on KVM the text of the kernel's trace points kvm:kvm_msr and "
        "kvm:kvm_hv_hypercall (trace-cmd report, perf script), or their histograms "
        "(hist:keys=ecx,write).",
    ),
    (
        Switch(("--cpu",), "TEXT", "the -cpu that the guest ran with"),
        Switch(("--cpuid",), "FILE", "or a dump of what it saw, of any form of pyhv cpuid"),
        JSON,
    ),
    (
        (0, "nothing that costs"),
        (1, "something costs: it is marked with *"),
        (2, "no trace, or a wrong command line"),
    ),
    (
        "pyhv audit --cpu host,kvm=off,hv_time,hv_vpindex trace.jsonl",
        "trace-cmd record -e kvm:kvm_msr sleep 60; trace-cmd report > t",
        "pyhv audit --cpuid guest-cpuid.txt t",
    ),
    most=1,
)

REPORT = Command(
    "report",
    "a trace as one HTML page: timeline, exits, MSRs, hypercalls, VMBus",
    "[TRACE|-]",
    (
        "Turns a trace into one HTML file that needs no network: boot timeline and console, exits "
        "by reason over time, CPUID, MSRs and hypercalls by name, the messages on VMBus, the "
        "memory map.",
        "The trace is what pyhv run --trace all --trace-format jsonl --trace-file FILE writes; "
        "of categories that it does not have the page says so.",
    ),
    (
        Switch(("-o", "--output"), "FILE", "where the page goes; default: standard output"),
        Switch(("--title",), "TEXT", "its title; default: the trace's name"),
        Switch(("--ladder",), "FORM", "no page: the messages on VMBus, text or jsonl"),
    ),
    ((0, "the page is made"), (1, "it cannot be written"), (2, "no trace, or wrong options")),
    (
        "pyhv run --trace all --trace-format jsonl --trace-file t.jsonl",
        "pyhv report t.jsonl -o report.html",
        "pyhv report t.jsonl --ladder text | less",
    ),
    most=1,
)

REPLAY = Command(
    "replay",
    "the guest of a trace against pyhv's VMBus of today, without KVM",
    "[TRACE|-] [IMAGE ...]",
    (
        "Plays the guest's messages and ring packets of a trace against the bus and its devices, "
        "and compares what these say with what they said then; each difference is named.",
        "The trace, as it is or packed by gzip, is what pyhv run --trace vmbus,ring,bytes,machine "
        "--trace-format jsonl --trace-file FILE writes. IMAGEs are what its disks were before, in "
        "the order of the LUNs; they are not written to. Without them disks are empty, and what "
        "was read of them is not compared.",
    ),
    (JSON,),
    ((0, "no difference"), (1, "differences"), (2, "no such trace, or no such image")),
    (
        "pyhv replay t.jsonl",
        "pyhv replay t.jsonl.gz disk-as-it-was.img",
    ),
    most=65,
)

COMPLETION = Command(
    "completion",
    "a shell's completion of commands, options and flags",
    "bash|zsh|fish",
    ("Prints what makes the shell complete pyhv's commands, options and Hyper-V flags.",),
    (),
    ((0, "printed"), (2, "no such shell")),
    ("source <(pyhv completion bash)", "pyhv completion fish | source"),
    most=1,
)

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (EXPLAIN, CAPS, DOCTOR, CPUID, AUDIT, REPORT, REPLAY, COMPLETION)
}

#: commands whose module has another name
MODULES = {"report": "webpage"}


def run(name: str, arguments: list[str]) -> tuple[str, int]:
    """Run a command; return what to print and the status."""
    import importlib

    module = importlib.import_module(f".{MODULES.get(name, name)}", __package__)
    text, status = module.main(arguments)
    return text, status
