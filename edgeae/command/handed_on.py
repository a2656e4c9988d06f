"""A verb of the runtime in `edgeae`'s list: what is typed behind it goes on as it is, to its own help and exit status.

Typer lists it and completes its options, which are read off the runtime's own parser, and parses nothing.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

PANEL = "With a bundle, as edgeae-runtime does where torch is not"

Run = Callable[[Sequence[str]], int]


class _Untouched(TyperCommand):
    """Takes everything as it was typed, also `--` and what looks like an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's own class of it is private
        ctx.args = list(args)
        return args


def hand_on(app: typer.Typer, name: str, parser: argparse.ArgumentParser, run: Run) -> None:
    """Add a verb of the runtime to the list.

    Args:
        app: the list.
        name: the verb.
        parser: what knows its options and what it says of itself.
        run: takes what was typed behind the verb, returns the exit status.
    """

    def command(context: typer.Context, **_: object) -> None:
        sys.exit(run(context.args))

    options = [_option(action) for action in parser._actions if action.option_strings]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    command.__signature__ = inspect.Signature([context, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in (context, *options)}
    app.command(name, cls=_Untouched, help=parser.description, add_help_option=False, rich_help_panel=PANEL)(command)


def _option(action: argparse.Action) -> inspect.Parameter:
    """An option as typer completes it: its names, and the values that it knows."""
    values = [str(value) for value in action.choices or ()]

    def known(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    told = typer.Option(*action.option_strings, help=action.help, autocompletion=known if values else None)
    kind, default = (bool, False) if action.nargs == 0 else (str | None, None)
    return inspect.Parameter(
        action.dest, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, told], default=default
    )
