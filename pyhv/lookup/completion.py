"""``pyhv completion bash|zsh|fish``: a shell's completion, printed from the tables of options."""

from __future__ import annotations

from .. import options
from ..cpu_options import MODELS
from ..errors import ConfigError
from ..hyperv.flags import ROWS
from . import commands
from .arguments import HELP, help_text, parse
from .text import printable

SHELLS = ("bash", "zsh", "fish")


def cpu_words() -> list[str]:
    """Return what may stand between the commas of a -cpu: flags as most people write them."""
    return ["kvm=off", *(row.name.replace("-", "_") for row in ROWS)]


def command_words() -> dict[str, dict[str, str]]:
    """Return command -> option -> help, ``run`` first."""
    found = {
        "run": {
            name: option.help
            for option in options.OPTIONS
            if option.key != options.POSITIONAL
            for name in option.names
        }
    }
    found["shell"] = found["run"]
    found["connect"] = {}
    for command in commands.COMMANDS.values():
        found[command.name] = {
            name: switch.help for switch in (*command.switches, HELP) for name in switch.names
        }
    return found


def summaries() -> dict[str, str]:
    """Return command -> one line about it."""
    return {
        "run": "boot a guest",
        "shell": "a prompt at which a paused guest is looked into",
        "connect": "standard input and output to a guest's port, for ssh",
        "help": "a short help",
        **{command.name: command.summary for command in commands.COMMANDS.values()},
    }


def values() -> dict[str, tuple[str, ...]]:
    """Return option -> what may follow it; -cpu and -M know more than their row."""
    from ..config import HV_PRESETS
    from ..cpu_named import catalogue
    from ..hyperv.machine_types import FAMILIES, UNVERSIONED, VERSIONS

    found = {
        name: option.choices
        for option in options.OPTIONS
        if option.choices
        for name in option.names
    }
    found["--hv"] = (*HV_PRESETS, "help")
    types = [family + version for family in FAMILIES for version in VERSIONS.split()]
    found["-M"] = found["-machine"] = (*UNVERSIONED, *types, "help")
    models = (*MODELS, *sorted(catalogue().names()), "help")
    return found | dict.fromkeys(("-cpu", "--cpu", "--against"), models)


CPU = ("-cpu", "--cpu", "--against")
# bash takes a = for the end of a word: kvm=off,hv_ is three of COMP_WORDS, and the option before
# them is sought; in zsh it is one word
BASH = """\
# bash completion of pyhv; source <(pyhv completion bash)
_pyhv() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} at=$COMP_CWORD words= head= last
    if [ "$at" = 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$cur"))
        return
    fi
    [ "$cur" = "=" ] && cur=
    while [ "$at" -gt 2 ]; do
        case ${{COMP_WORDS[at]}}:${{COMP_WORDS[at-1]}} in
        =:*|*:=) at=$((at-1)) ;;
        *) break ;;
        esac
    done
    local prev=${{COMP_WORDS[at-1]}}
    case ${{COMP_WORDS[at]}} in -*) [ "$at" -lt "$COMP_CWORD" ] && prev=${{COMP_WORDS[at]}} ;; esac
    case $prev in
    {cpu})
        last=$cur
        case $cur in *,*) head=${{cur%,*}}, last=${{cur##*,}} ;; esac
        if [ -n "$head" ]; then words="{flags}"
        elif [ "$at" -lt "$COMP_CWORD" ]; then words="on off"
        else words="{models}"; fi
        COMPREPLY=($(compgen -P "$head" -W "$words" -- "$last"))
        compopt -o nospace 2>/dev/null
        return ;;
{values}
    esac
    case $cur in -*)
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        return ;;
    esac
    [ "${{COMP_WORDS[1]}}" = completion ] && words="{shells}"
    if [ -n "$words" ]; then COMPREPLY=($(compgen -W "$words" -- "$cur"))
    else COMPREPLY=($(compgen -f -- "$cur")); fi
}}
complete -o filenames -F _pyhv pyhv
"""


def bash() -> str:
    """Return the script for bash."""
    cases = "\n".join(
        f'        {name}) words="{" ".join(words)}" ;;' for name, words in command_words().items()
    )
    known = values()
    after = "\n".join(
        f'    {name}) COMPREPLY=($(compgen -W "{" ".join(words)}" -- "$cur")); return ;;'
        for name, words in known.items()
        if name not in CPU
    )
    return BASH.format(
        commands=" ".join(summaries()), flags=" ".join(cpu_words()), cpu="|".join(CPU),
        models=" ".join(known["-cpu"]), values=after, cases=cases, shells=" ".join(SHELLS),
    )  # fmt: skip


def zsh() -> str:
    """Return the script for zsh: bash's, which zsh can run."""
    return "autoload -U +X bashcompinit && bashcompinit\n" + bash()


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


FISH = """\
# fish completion of pyhv; pyhv completion fish | source
function __pyhv_cpu
    set -l parts (string split , -- (commandline -ct))
    if test (count $parts) -gt 1
        printf '%s\\n' (string join , -- $parts[1..-2]),{{{flags}}}
    else
        printf '%s\\n' {models}
    end
end
"""


def fish() -> str:
    """Return the script for fish."""
    known = values()
    text = FISH.format(flags=",".join(cpu_words()), models=" ".join(known["-cpu"]))
    lines = []
    for name, about in summaries().items():
        lines.append(f"complete -c pyhv -n __fish_use_subcommand -f -a {name} -d {_quoted(about)}")
    for name, words in command_words().items():
        for word, about in words.items():
            style = "-l" if word.startswith("--") else "-s" if len(word) == 2 else "-o"
            after = "(__pyhv_cpu)" if word in CPU else " ".join(known.get(word, ()))
            lines.append(
                f"complete -c pyhv -n '__fish_seen_subcommand_from {name}' {style} "
                f"{word.lstrip('-')} " + (f"-x -a {_quoted(after)} " if after else "")
                + f"-d {_quoted(about)}"
            )  # fmt: skip
    lines.append("complete -c pyhv -n '__fish_seen_subcommand_from completion' -f -a "
                 + _quoted(" ".join(SHELLS)))  # fmt: skip
    return text + "\n".join(lines) + "\n"


def main(arguments: list[str]) -> tuple[str, int]:
    """Return the script, and the status."""
    command = commands.COMPLETION
    parsed = parse(command, arguments)
    if "h" in parsed:
        return help_text(command), 0
    shell = parsed.words[0] if parsed.words else ""
    if shell not in SHELLS:
        name = f"completion {printable(shell, 40)}".rstrip()
        raise ConfigError(f"{name}: which shell? {', '.join(SHELLS)}")
    return {"bash": bash, "zsh": zsh, "fish": fish}[shell]().rstrip("\n"), 0
