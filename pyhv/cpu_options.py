"""QEMU's ``-cpu`` grammar: ``host,kvm=off,hv_time,+avx2`` becomes a CpuSpec, or one clear line.

Source: qemu target/i386/cpu.c, x86_cpu_parse_featurestr and feat2prop. In ``name=value`` items
an underscore in the name is a hyphen, the value is untouched, no ``=`` means ``=on``, the last
one wins. ``+name`` and ``-name`` are taken letter by letter and win over all ``name=value``.
"""

from __future__ import annotations

from . import cpu_features
from .errors import ConfigError
from .hyperv.flags import ALIASES, FLAGS, LATER, Value
from .record import Record

#: Without -cpu: an enlightened guest, the same under both drivers, that Debian's kernels use.
#: kvm=off: Linux prefers KVM's leaves to Hyper-V's and then ignores every flag. Mandatory for
#: Linux: hv_vpindex (with the hypercall MSRs, always there). hv_time: clocksource
#: hyperv_clocksource_tsc_page. hv_stimer with hv_stimer_direct: its clockevent from the start,
#: not only once VMBus is up; both need hv_synic, as does VMBus, the disk. hv_frequencies: without
#: it Linux calibrates, and hangs before the console with hardware-reduced ACPI. hv_vapic: Linux
#: writes the VP assist page MSR whatever CPUID says, so it is to be announced. hv_avic: no
#: AutoEOI (in_user can only approximate it, APICv is lost with it) and no APIC by MSR (exits).
#: hv_relaxed, hv_runtime: free; VMBus of Windows wants hv_runtime. hv_crash: a panic is reported.
#: hv_reset: the machine resets without ACPI. Left out: hv_tlbflush, hv_ipi, hv_spinlocks (cost
#: more than they save in in_user), hv_reenlightenment, hv_xmm_input (nothing in Linux needs them
#: here), the nested flags. Not even a flag, and never shown: invariant TSC control (Linux then
#: leaves the TSC page) and extended hypercalls.
DEFAULT_CPU = (
    "host,kvm=off,hv_relaxed,hv_vpindex,hv_runtime,hv_time,hv_frequencies,hv_synic,hv_stimer,"
    "hv_stimer_direct,hv_vapic,hv_avic,hv_reset,hv_crash"
)

MODELS: dict[str, str] = {
    "host": "all that this host's KVM offers",
    "max": "the same as host",
}  # and the named models of cpu_models.txt

#: properties that are neither a feature nor a Hyper-V flag: kind; cpu_models.py applies them
PROPERTIES: dict[str, str] = {
    "kvm": "bool",
    "check": "bool",
    "enforce": "bool",
    "migratable": "bool",
    "vendor": "string",
    "model-id": "string",
    "family": "u32",
    "model": "u32",
    "stepping": "u32",
    "phys-bits": "u32",
    "host-phys-bits": "bool",
    "level": "u32",
    "xlevel": "u32",
    "pmu": "bool",
    "tsc-frequency": "u64",
    "vmware-cpuid-freq": "bool",
}
#: what QEMU has and pyhv does not is refused as such: properties, and the CPUID flags
#: of ``qemu-system-x86_64 -cpu help`` that are not in cpu_features.py
NOT_PROVIDED = """
l3-cache host-phys-bits-limit guest-phys-bits host-cache-info legacy-cache
cpuid-0xb xlevel2 min-level min-xlevel level-func7 full-cpuid-auto-level lbr-fmt
fill-mtrr-mask kvm-pv-enforce-cpuid kvm-no-smi-migration tcg-cpuid xen-vapic
x-force-features tsc-freq ucode-rev start-powered-off x-intel-pt-auto-level ace2
ace2-en avx10-128 avx10-256 avx10-512 bhi-no eraps fb-clear fbsdp-no full-width-write gds-no
ibpb-brtype ibrs-all intel-pt-lip mds-no pbrsb-no perfmon-v2 phe phe-en pmm pmm-en
pschange-mc-no psdp-no rdctl-no rfds-clear rfds-no rsba sbdr-ssdp-no sbpb sgx-aex-notify
sgx-debug sgx-edeccssa sgx-exinfo sgx-kss sgx-mode64 sgx-provisionkey sgx-tokenkey sgx1 sgx2
skip-l1dfl-vmentry split-lock-detect srso-no srso-user-kernel-no ssb-no taa-no tsx-ctrl xcrypt
xcrypt-en xstore xstore-en
avx10
"""

TSC_HZ = (1_000_000, 1 << 41)  # KVM counts kHz in 31 bits

_WORDS = {"on": True, "yes": True, "true": True, "y": True}
_WORDS |= {"off": False, "no": False, "false": False, "n": False}
_BITS = {"u8": 8, "u16": 16, "u32": 32, "u64": 64}


class CpuSpec(Record):
    """A parsed ``-cpu``. Keys are hyphen forms; only what the user gave is in the dicts."""

    text: str
    model: str  # a key of MODELS, or a name of cpu_named.py
    hv: dict[str, Value]  # flags of hyperv/flags.py
    features: dict[str, bool]  # names of cpu_features
    properties: dict[str, Value]  # names of PROPERTIES
    warnings: tuple[str, ...]

    @property
    def kvm(self) -> bool:
        """Tell whether KVM's own CPUID leaves are shown (``kvm=``, on by default)."""
        return bool(self.properties.get("kvm", True))


def parse_value(name: str, kind: str, text: str) -> Value:
    """Return *text* as a value of *kind* (a kind of flags.py, or u64).

    :raises ConfigError: QEMU's ``Parameter 'hv-spinlocks' expects uint64`` and so on.
    """
    if kind == "string":
        return text
    given = f"{name}={_shown(text)}"
    if kind == "bool":
        if text in _WORDS:
            return _WORDS[text]
        raise ConfigError(f"{given}: Parameter '{name}' expects 'on' or 'off'")
    if kind == "onoffauto":
        if text in ("on", "off", "auto"):
            return text
        raise ConfigError(
            f"{given}: Parameter '{name}' does not accept value '{_shown(text)}'; "
            "use on, off or auto"
        )
    number = _integer(text)
    if number is None:
        word = "int64" if kind == "i32" else "uint64"
        raise ConfigError(f"{given}: Parameter '{name}' expects {word}")
    if kind == "i32":
        if -(1 << 31) <= number < 1 << 31:
            return number
        raise ConfigError(f"{given}: Parameter '{name}' expects int32_t")
    if 0 <= number < 1 << _BITS[kind]:
        return number
    raise ConfigError(f"{given}: Parameter '{name}' expects uint{_BITS[kind]}_t")


def _integer(text: str) -> int | None:
    """Return C's reading of *text*, a leading 0 being octal; None if it is no number."""
    sign, digits = (text[0], text[1:]) if text[:1] in ("+", "-") else ("+", text)
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[:1] == "0" else 10
    if base == 16:
        digits = digits[2:]
    if not (digits.isascii() and digits.isalnum()) or len(digits) > 30:
        return None  # int() would take spaces and underscores too
    try:
        return int(sign + digits, base)
    except ValueError:
        return None


def _shown(text: str) -> str:
    """Return what a user typed as it may stand in one line of output."""
    return text if text.isprintable() and len(text) <= 100 else ascii(text[:60])


def _unknown(item: str, name: str) -> ConfigError:
    """Say why *name* is no property, and what it might have been."""
    item = _shown(item)
    if name in LATER:
        return ConfigError(f"{item}: {name} ({LATER[name]}) is of QEMUs after 10; not in pyhv yet")
    if name in NOT_PROVIDED.split() or name.startswith("vmx-"):
        return ConfigError(f"{item}: QEMU's {name} is not provided by pyhv; leave it out")
    hyphens = name.replace("_", "-")
    if item[0] in "+-" and (hyphens in FLAGS or hyphens in ALIASES):
        return ConfigError(
            f"{item}: no CPU flag {name}: after + and - only the spelling with hyphens counts; "
            f"use {item[0]}{hyphens}"
        )
    import difflib

    known = [*FLAGS, *ALIASES, *PROPERTIES, *cpu_features.names()]
    near = difflib.get_close_matches(hyphens[:40], known, 1, 0.5)
    if near and item.startswith("hv_"):
        near = [near[0].replace("-", "_")]
    return ConfigError(f"{item}: no such CPU flag" + (f"; did you mean {near[0]}?" if near else ""))


def _set(spec: CpuSpec, item: str, name: str, value: str) -> None:
    """Put one assignment into its dict."""
    name = ALIASES.get(name, name)
    if name in FLAGS:
        spec.hv[name] = parse_value(name, FLAGS[name].kind, value)
        return
    if name in PROPERTIES:
        spec.properties[name] = parse_value(name, PROPERTIES[name], value)
        return
    feature = cpu_features.ALIASES.get(name, name)
    if not cpu_features.places(feature):
        raise _unknown(item, name)
    spec.features[feature] = bool(parse_value(name, "bool", value))


def _check_model(text: str, model: str) -> None:
    """Refuse *model* if it is not one of the named models."""
    from .cpu_named import catalogue

    if catalogue().find(model) is not None:
        return
    import difflib

    known = [*MODELS, *catalogue().names()]
    near = difflib.get_close_matches(model[:40], known, 1, 0.6)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(MODELS)} and -cpu help"
    raise ConfigError(
        f"-cpu {_shown(text)}: no CPU model {model[:60]!r}; {hint} "
        f"(with flags: {next(iter(MODELS))},hv_time)"
    )


def parse_cpu(text: str) -> CpuSpec:
    """Parse the argument of ``-cpu``.

    :raises ConfigError: an unknown model or flag, or a value of the wrong kind; one line.
    """
    model, *items = text.split(",")
    if model not in MODELS:
        _check_model(text, model)
    spec = CpuSpec(text, model, {}, {}, {}, ())
    warnings: list[str] = []
    plain: dict[str, str] = {}
    signed: dict[str, list[str]] = {"+": [], "-": []}
    for item in filter(None, items):
        if item[0] in signed:
            signed[item[0]].append(item[1:])
            continue
        name, equals, value = item.partition("=")
        name = name.replace("_", "-")
        plain[name] = item
        _set(spec, item, name, value if equals else "on")
    for sign, word in (("+", "on"), ("-", "off")):  # off is applied last: it wins
        for name in signed[sign]:
            if name in plain:
                warnings.append(
                    f"Ambiguous CPU model string. Don't mix both \"{sign}{name}\" and "
                    f'"{plain[name]}"'
                )
            _set(spec, sign + name, name, word)
    _finish(spec, warnings)
    return spec._replace(warnings=tuple(warnings))


def _finish(spec: CpuSpec, warnings: list[str]) -> None:
    """Check what one assignment alone does not show."""
    hertz = spec.properties.get("tsc-frequency", TSC_HZ[0])
    if not TSC_HZ[0] <= int(hertz) < TSC_HZ[1]:
        raise ConfigError(f"tsc-frequency={hertz}: in Hz, from {TSC_HZ[0]} to below {TSC_HZ[1]}")
    vendor = spec.hv.get("hv-vendor-id")
    if isinstance(vendor, str) and len(vendor.encode("utf-8", "replace")) > 12:
        warnings.append("hv-vendor-id truncated to 12 characters")
    cpu = spec.properties.get("vendor")
    if isinstance(cpu, str) and len(cpu.encode("utf-8", "replace")) != 12:
        raise ConfigError(f"vendor={_shown(cpu)}: a CPU vendor has 12 characters, as GenuineIntel")
