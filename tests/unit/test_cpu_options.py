"""The -cpu grammar: spelling, order, values, and a clear line for what is wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pyhv.cpu_features import ALIASES, names, places
from pyhv.cpu_options import MODELS, NOT_PROVIDED, PROPERTIES, CpuSpec, parse_cpu, parse_value
from pyhv.errors import ConfigError
from pyhv.hyperv.flags import FLAGS, LATER, ROWS

BASELINE = Path(__file__).parents[1] / "baseline"
FEATURES = names()
GOOD = {"bool": "on", "string": "PyHV", "onoffauto": "auto"}


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("under", [False, True], ids=["hyphen", "underscore"])
def test_every_flag_in_both_spellings(name: str, *, under: bool) -> None:
    text = GOOD.get(FLAGS[name].kind, "7")
    spelled = name.replace("-", "_") if under else name
    value = {"on": True, "7": 7}.get(text, text)
    assert parse_cpu(f"host,{spelled}={text}").hv == {name: value}
    if FLAGS[name].kind == "bool":
        assert parse_cpu(f"host,{spelled}").hv == {name: True}
        assert parse_cpu(f"host,+{name}").hv == {name: True}
        assert parse_cpu(f"host,{name},-{name}").hv == {name: False}


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature(name: str) -> None:
    assert parse_cpu(f"host,{name}").features == {name: True}
    assert parse_cpu(f"host,-{name}").features == {name: False}
    assert parse_cpu(f"host,+{name}").features == {name: True}


@pytest.mark.parametrize("alias", ALIASES)
def test_every_feature_alias(alias: str) -> None:
    assert parse_cpu(f"host,+{alias}").features == {ALIASES[alias]: True}


@pytest.mark.parametrize("model", MODELS)
def test_models(model: str) -> None:
    assert parse_cpu(model) == CpuSpec(model, model, {}, {}, {}, ())


@pytest.mark.parametrize(
    ("cpu", "on"),
    [
        ("host,hv-time=on,hv-time=off", False),
        ("host,hv-time=off,hv_time", True),
        ("host,hv-apicv,hv-avic=off", False),
        ("host,-hv-time,hv-time=on", False),
        ("host,+hv-time,-hv-time", False),
        ("host,-hv-time,+hv-time", False),
        ("host,+hv-time,hv-time=off", True),
        ("host,,hv-time,", True),
    ],
)
def test_the_last_wins_and_signs_win_over_all(cpu: str, *, on: bool) -> None:
    """Minus is applied after plus, wherever they stand; empty items are nothing."""
    assert list(parse_cpu(cpu).hv.values()) == [on]


def test_mixing_is_ambiguous() -> None:
    spec = parse_cpu("host,+hv-time,hv_time=off,-avx2")
    assert spec.warnings == (
        "Ambiguous CPU model string. Don't mix both \"+hv-time\" and \"hv_time=off\"",
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [(word, True) for word in ("on", "yes", "true", "y")]
    + [(word, False) for word in ("off", "no", "false", "n")],
)
def test_bool_words(text: str, *, value: bool) -> None:
    assert parse_cpu(f"host,kvm={text}").kvm is value


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("u32", "0x1fff", 0x1FFF),
        ("u32", "0XfF", 0xFF),
        ("u32", "017", 15),
        ("u32", "0", 0),
        ("u32", "4294967295", 0xFFFFFFFF),
        ("u16", "65535", 65535),
        ("u8", "255", 255),
        ("i32", "-1", -1),
        ("i32", "-0x10", -16),
        ("u64", "2500000000", 2500000000),
    ],
)
def test_integers_are_cs(kind: str, text: str, value: int) -> None:
    assert parse_value("n", kind, text) == value


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("hv-spinlocks=abc", "Parameter 'hv-spinlocks' expects uint64"),
        ("hv-spinlocks=0x1ffffffff", "Parameter 'hv-spinlocks' expects uint32_t"),
        ("hv-spinlocks=-1", "Parameter 'hv-spinlocks' expects uint32_t"),
        ("hv-spinlocks", "Parameter 'hv-spinlocks' expects uint64"),
        ("hv-spinlocks=09", "Parameter 'hv-spinlocks' expects uint64"),
        ("hv-spinlocks=1_0", "Parameter 'hv-spinlocks' expects uint64"),
        ("hv-spinlocks= 1", "Parameter 'hv-spinlocks' expects uint64"),
        ("hv-spinlocks=", "Parameter 'hv-spinlocks' expects uint64"),
        ("hv-version-id-major=0x10000", "expects uint16_t"),
        ("hv-version-id-sbranch=256", "expects uint8_t"),
        ("x-hv-max-vps=0x80000000", "expects int32_t"),
        ("hv-time=maybe", "Parameter 'hv-time' expects 'on' or 'off'"),
        ("hv-time=ON", "Parameter 'hv-time' expects 'on' or 'off'"),
        (
            "hv-no-nonarch-coresharing=maybe",
            "Parameter 'hv-no-nonarch-coresharing' does not accept value 'maybe'",
        ),
        ("avx2=2", "Parameter 'avx2' expects 'on' or 'off'"),
        ("vendor=Intel", "12 characters"),
        ("hv_tiem", "hv_tiem: no such CPU flag; did you mean hv_time?"),
        ("hv-synik=on", "did you mean hv-synic?"),
        ("+avx3", "did you mean avx"),
        ("-hv_relaxed", "use -hv-relaxed"),
        ("qqqqqqqq", "qqqqqqqq: no such CPU flag"),
        ("l3-cache=on", "l3-cache=on: QEMU's l3-cache is not provided by pyhv"),
        ("vmx-ept", "not provided by pyhv"),
        ("tsc-frequency=2.5G", "Parameter 'tsc-frequency' expects uint64"),
        *((name, "QEMUs after 10") for name in LATER),
    ],
)
def test_wrong_items(item: str, words: str) -> None:
    """One line that holds the user's own spelling and QEMU's words where it has some."""
    with pytest.raises(ConfigError) as caught:
        parse_cpu(f"host,hv_relaxed,{item}")
    assert words in str(caught.value)
    assert item.split("=")[0].lstrip("+-") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cpu", "words"),
    [
        ("", "known: host, max and -cpu help"),
        ("hv_time", "known: host, max and -cpu help (with flags: host,hv_time)"),
        ("host hv_time", "no CPU model 'host hv_time'"),
        ("Haswel,+avx2", "-cpu Haswel,+avx2: no CPU model 'Haswel'; did you mean Haswell?"),
        ("epyc", "no CPU model 'epyc'"),
        ("Haswell-v9", "did you mean Haswell-v"),
    ],
)
def test_unknown_model(cpu: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_cpu(cpu)
    assert words in str(caught.value)


def test_long_vendor_is_cut_with_qemus_warning() -> None:
    warning = "hv-vendor-id truncated to 12 characters"
    assert parse_cpu("host,hv_vendor_id=ABCDEFGHIJKLMNOP").warnings == (warning,)
    assert parse_cpu("host,hv_vendor_id=ABCDEFGHIJKL").warnings == ()


def test_every_flag_of_qemu_is_known_or_refused_by_name() -> None:
    """The list of `-cpu help` of QEMU 10: each is a feature, or named as not provided."""
    lines = (BASELINE / "qemu10_cpu_features.txt").read_text().splitlines()
    names = [line for line in lines if not line.startswith("#")]
    assert len(names) > 300
    assert set(FEATURES) <= set(names)
    for name in set(names) - set(FEATURES):
        with pytest.raises(ConfigError, match="not provided by pyhv"):
            parse_cpu(f"host,{name}")


def test_places_of_what_is_no_feature() -> None:
    assert [places(name) for name in ("", "-", "avx3", "avx51", "a", " ", "avx avx2")] == [()] * 7
    assert len(places("kvmclock")) == 2


def test_names_do_not_overlap() -> None:
    """No name means two things."""
    groups = [set(FLAGS), set(FEATURES), set(PROPERTIES), set(NOT_PROVIDED.split()), set(LATER)]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_nonsense_never_raises_anything_else() -> None:
    """1,000 strings of pieces of -cpu, cut and mixed (seed fixed): a CpuSpec or a ConfigError."""
    dice = random.Random(2)
    pieces = ["host", "qemu64", ",", "=", "+", "-", "_", "on", "0x", "9" * 40, "\0", "\n", "é"]
    pieces += [row.name for row in ROWS] + list(PROPERTIES)
    pieces += ["hv", "\udc80", "²", "=-", "=+", " ", ",,"]
    texts = []
    for _ in range(1000):
        text = "host," * (dice.random() < 0.7) + "".join(
            dice.choice(pieces) for _ in range(dice.randrange(1, 6))
        )
        try:
            parse_cpu(text)
        except ConfigError as error:
            texts.append(str(error))
    assert 100 < len(texts) < 1000
    assert all(text.isprintable() for text in texts)
