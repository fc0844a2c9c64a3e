"""libvirt's domain XML to a ``-cpu`` and back; entities and document types are refused.

Elements: libvirt formatdomain, "Hypervisor features"; which flag is which is in knowledge.py.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from xml.parsers import expat

from ..errors import ConfigError
from ..hyperv.flags import FLAGS, SPINLOCKS_NEVER, Value
from .knowledge import KNOWLEDGE
from .text import printable

DEPTH = 100
QEMU_ARG = "{http://libvirt.org/schemas/domain/qemu/1.0}arg"
#: <cpu mode=...> without a model of its own -> QEMU's -cpu
MODES = {"host-passthrough": "host", "host-model": "host", "maximum": "max"}
POLICIES = {"force": "on", "require": "on", "optional": "on", "disable": "off", "forbid": "off"}
SPINLOCKS_LEAST = 0xFFF  # libvirt refuses fewer retries
STATES = {"on": True, "yes": True, "off": False, "no": False}


def parse_xml(text: str) -> ElementTree.Element:
    """Return the root element.

    :raises ConfigError: not well-formed, a DOCTYPE or an entity in it, nested without end.
    """
    parser, builder = expat.ParserCreate(namespace_separator="}"), ElementTree.TreeBuilder()
    depth = 0

    def name(raw: str) -> str:
        return "{" + raw if "}" in raw else raw

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEPTH:
            raise ConfigError(f"XML: elements nested more than {DEPTH} deep")
        builder.start(name(tag), {name(key): value for key, value in attributes.items()})

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name(tag))

    def refuse(*_: object) -> None:
        raise ConfigError("XML: it has a DOCTYPE; libvirt's has none, and entities can be bombs")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text.encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        raise ConfigError(
            f"XML: line {error.lineno}: {expat.ErrorString(error.code)}; "
            "give the output of virsh dumpxml"
        ) from error
    except (ValueError, LookupError) as error:  # the declaration names an encoding there is not
        raise ConfigError(f"XML: {printable(str(error))}") from error
    return builder.close()


def _state(element: ElementTree.Element, where: str) -> bool:
    text = element.get("state", "on")
    if text not in STATES:
        raise ConfigError(f"XML: <{where} state='{printable(text)}'>: on or off")
    return STATES[text]


def _elements() -> dict[str, str]:
    """Return path below <hyperv> -> flag."""
    prefix = "features/hyperv/"
    return {
        row.element.removeprefix(prefix): name
        for name, row in KNOWLEDGE.items()
        if row.element.startswith(prefix)
    }


def _hyperv(hyperv: ElementTree.Element, notes: list[str]) -> list[str]:
    """Return the -cpu items of a <hyperv> element."""
    items, known = [], _elements()
    mode = hyperv.get("mode", "custom")
    if mode in ("passthrough", "host-model"):
        items.append("hv-passthrough")
        if mode == "host-model":
            notes.append("mode='host-model' is resolved by libvirt on its host; read here as "
                         "hv-passthrough")  # fmt: skip
    elif mode != "custom":
        raise ConfigError(
            f"XML: <hyperv mode='{printable(mode)}'>: custom, passthrough, host-model"
        )
    todo = [(child.tag, child) for child in hyperv]
    while todo:
        path, element = todo.pop(0)
        flag = known.get(path)
        if flag is None:
            notes.append(f"<hyperv>: element <{printable(path, 40)}> is not known, left out")
            continue
        on = _state(element, path)
        if flag == "hv-spinlocks":
            count = element.get("retries", "") or str(SPINLOCKS_LEAST)
            item = f"hv-spinlocks={count}"
            if count.isascii() and count.isdigit() and int(count[:20]) < SPINLOCKS_LEAST:
                notes.append(f"<spinlocks retries='{printable(count, 20)}'>: libvirt wants "
                             f"{SPINLOCKS_LEAST} or more")  # fmt: skip
        elif flag == "hv-vendor-id":
            item = f"hv-vendor-id={element.get('value', '')}"
        else:
            item = flag
        if on:
            if "," in item:
                raise ConfigError(f"XML: <{path}>: a comma in a value cannot be")
            items.append(item)
        todo += [(f"{path}/{child.tag}", child) for child in element]
    return items


def cpu_of(root: ElementTree.Element) -> tuple[str, list[str]]:
    """Return the ``-cpu`` that libvirt would make of <domain>, <features> or <hyperv>; notes.

    :raises ConfigError: nothing of these is in it.
    """
    notes: list[str] = []
    if root.tag not in ("domain", "features", "hyperv", "domainsnapshot"):
        raise ConfigError(
            f"XML: <{printable(root.tag, 40)}>: wanted <domain>, <features>, <hyperv>"
        )
    hyperv = root if root.tag == "hyperv" else root.find(".//hyperv")
    items = _hyperv(hyperv, notes) if hyperv is not None else []
    for timer in root.iterfind(".//timer[@name='hypervclock']"):
        if STATES.get(timer.get("present", "yes"), True):
            items.append("hv-time")
    if root.find(".//panic[@model='hyperv']") is not None:
        items.append("hv-crash")
    hidden = root.find(".//kvm/hidden")
    if hidden is not None and _state(hidden, "hidden"):
        items.insert(0, "kvm=off")
    model = "qemu64" if root.tag == "domain" else "host"  # QEMU's default, where libvirt says none
    cpu = root.find("./cpu") if root.tag == "domain" else root.find(".//cpu")
    if cpu is not None:
        named = cpu.findtext("model", "").strip()
        model = MODES.get(cpu.get("mode", "custom")) or named or "qemu64"
        items += [
            f"{feature.get('name')}={POLICIES[feature.get('policy', 'require')]}"
            for feature in cpu.iterfind("feature")
            if feature.get("name") and feature.get("policy", "require") in POLICIES
        ]
    words = [arg.get("value", "") for arg in root.iter(QEMU_ARG)]
    if "-cpu" in words[:-1]:
        notes.append("<qemu:commandline> has a -cpu of its own; QEMU takes that one, so does this")
        return words[words.index("-cpu") + 1], notes
    if hyperv is None and len(items) == 0 and root.tag == "domain":
        notes.append("the domain has no <hyperv> element")
    return ",".join([model, *items]), notes


def to_xml(values: dict[str, Value], *, kvm: bool) -> tuple[str, list[str]]:
    """Return libvirt's XML for the flags that are on, and a note for each it has no element for."""
    features = ElementTree.Element("features")
    hyperv = ElementTree.SubElement(features, "hyperv")
    hyperv.set("mode", "passthrough" if values.get("hv-passthrough") else "custom")
    others: list[ElementTree.Element] = []
    notes = []
    for name, path in ((name, row.element) for name, row in KNOWLEDGE.items()):
        value = values.get(name, FLAGS[name].default)
        if value in (False, "off") or value == FLAGS[name].default or name == "hv-passthrough":
            continue
        if not path:
            notes.append(f"{name}: libvirt has no element for it; <qemu:commandline> can pass it")
        elif name == "hv-time":
            clock = ElementTree.Element("clock", offset="localtime")
            ElementTree.SubElement(clock, "timer", name="hypervclock", present="yes")
            others.append(clock)
        elif name == "hv-crash":
            devices = ElementTree.Element("devices")
            ElementTree.SubElement(devices, "panic", model="hyperv")
            others.append(devices)
        else:
            _add(hyperv, path.split("/")[2:], name, value)
        if name == "hv-spinlocks" and isinstance(value, int) and value < SPINLOCKS_LEAST:
            notes.append(f"hv-spinlocks={value}: libvirt wants {SPINLOCKS_LEAST} or more")
    if not kvm:
        kvm_element = ElementTree.SubElement(features, "kvm")
        ElementTree.SubElement(kvm_element, "hidden", state="on")
    lines = []
    for element in (features, *others):
        ElementTree.indent(element)
        lines.append(ElementTree.tostring(element, encoding="unicode"))
    return "\n".join(lines), notes


def _add(hyperv: ElementTree.Element, path: list[str], name: str, value: Value) -> None:
    parent = hyperv
    for tag in path[:-1]:  # a sub-mode without its parent is not valid, but is what was asked
        found = parent.find(tag)
        parent = ElementTree.SubElement(parent, tag, state="on") if found is None else found
    element = parent.find(path[-1])
    if element is None:
        element = ElementTree.SubElement(parent, path[-1])
    element.set("state", "on")
    if name == "hv-spinlocks" and value != SPINLOCKS_NEVER:
        element.set("retries", str(value))
    elif name == "hv-vendor-id":
        element.set("value", str(value))
