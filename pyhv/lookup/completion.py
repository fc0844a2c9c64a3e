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
    for command in commands.COMMANDS.values():
        found[command.name] = {
            name: switch.help for switch in (*command.switches, HELP) for name in switch.names
        }
    return found


def summaries() -> dict[str, str]:
    """Return command -> one line about it."""
    return {
        "run": "boot a guest",
        "help": "a short help",
        **{command.name: command.summary for command in commands.COMMANDS.values()},
    }


BASH = """\
# bash completion of pyhv; source <(pyhv completion bash)
_pyhv() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words=
    if [ "$COMP_CWORD" = 1 ]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$cur"))
        return
    fi
    case $prev in
    -cpu|--cpu|--against)
        local head= last=$cur
        case $cur in *,*) head=${{cur%,*}}, last=${{cur##*,}} ;; esac
        if [ -n "$head" ]; then words="{flags}"; else words="{models}"; fi
        COMPREPLY=($(compgen -P "$head" -W "$words" -- "$last"))
        compopt -o nospace 2>/dev/null
        return ;;
    --hv) COMPREPLY=($(compgen -W "{presets}" -- "$cur")); return ;;
    --hyperv) COMPREPLY=($(compgen -W "auto kernel user" -- "$cur")); return ;;
    esac
    case $cur in -*)
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        return ;;
    esac
    COMPREPLY=($(compgen -f -- "$cur"))
}}
complete -o filenames -F _pyhv pyhv
"""


def bash() -> str:
    """Return the script for bash."""
    from ..config import HV_PRESETS

    cases = "\n".join(
        f'        {name}) words="{" ".join(words)}" ;;' for name, words in command_words().items()
    )
    return BASH.format(
        commands=" ".join(summaries()), flags=" ".join(cpu_words()), models=" ".join(MODELS),
        presets=" ".join(HV_PRESETS), cases=cases,
    )  # fmt: skip


def zsh() -> str:
    """Return the script for zsh: bash's, which zsh can run."""
    return "autoload -U +X bashcompinit && bashcompinit\n" + bash()


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def fish() -> str:
    """Return the script for fish."""
    lines = ["# fish completion of pyhv; pyhv completion fish | source"]
    for name, text in summaries().items():
        lines.append(f"complete -c pyhv -n __fish_use_subcommand -f -a {name} -d {_quoted(text)}")
    for name, words in command_words().items():
        for word, text in words.items():
            style = "-l" if word.startswith("--") else "-o"
            lines.append(
                f"complete -c pyhv -n '__fish_seen_subcommand_from {name}' {style} "
                f"{word.lstrip('-')} -d {_quoted(text)}"
            )
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> tuple[str, int]:
    """Return the script, and the status."""
    command = commands.COMPLETION
    parsed = parse(command, arguments)
    if "h" in parsed:
        return help_text(command), 0
    shell = parsed.words[0] if parsed.words else ""
    if shell not in SHELLS:
        raise ConfigError(f"completion {printable(shell, 40)}: which shell? {', '.join(SHELLS)}")
    return {"bash": bash, "zsh": zsh, "fish": fish}[shell]().rstrip("\n"), 0
