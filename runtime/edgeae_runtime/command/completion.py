"""Completion for shells: a static script, made from the command line's own parser."""

from __future__ import annotations

import argparse
import shlex

SHELLS = ("bash", "zsh")

_SCRIPT = """\
# Completion of {program} for {shell}. In ~/.{shell}rc: eval "$({program} completion {shell})"
{setup}{function}() {{
    local verb="${{COMP_WORDS[1]}}" words word="${{COMP_WORDS[COMP_CWORD]}}"
    if [ "$COMP_CWORD" -le 1 ]; then
        COMPREPLY=($(compgen -W {verbs} -- "$word"))
        return
    fi
    case "${{COMP_WORDS[COMP_CWORD-1]}}" in
{choices}
    esac
    case "$verb" in
{options}
        *) return ;;
    esac
    case "$word" in
        -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
    esac
}}
complete -o default -F {function} {program}
"""
_ZSH = "autoload -Uz compinit bashcompinit && compinit -u && bashcompinit\n"


def completion_script(parser: argparse.ArgumentParser, verbs: dict[str, argparse.ArgumentParser], shell: str) -> str:
    """The script for a shell; sourcing it completes verbs, options and the values that an option knows.

    Args:
        parser: of the whole command line.
        verbs: the parser of each verb.
        shell: one of `SHELLS`.
    """
    options, choices = [], {}
    for name, verb in verbs.items():
        names = [option for action in verb._actions for option in action.option_strings]
        options.append(f"        {name}) words={shlex.quote(' '.join(names))} ;;")
        for action in verb._actions:
            for option in action.option_strings if action.choices else ():
                choices[option] = " ".join(map(str, action.choices or ()))
        positional = next((action for action in verb._actions if action.choices and not action.option_strings), None)
        if positional is not None:
            choices[name] = " ".join(map(str, positional.choices or ()))
    return _SCRIPT.format(
        program=parser.prog,
        shell=shell,
        setup=_ZSH if shell == "zsh" else "",
        function=f"_{parser.prog.replace('-', '_')}",
        verbs=shlex.quote(" ".join([*verbs, *(o for action in parser._actions for o in action.option_strings)])),
        choices="\n".join(
            f'        {option}) COMPREPLY=($(compgen -W {shlex.quote(values)} -- "$word")); return ;;'
            for option, values in choices.items()
        ),
        options="\n".join(options),
    )
