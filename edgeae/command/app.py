"""The list of `edgeae`'s verbs: its own, which need torch or draw tables, and those of the runtime, handed on.

Heavy imports (torch, onnx, matplotlib) live inside the verbs that need them: `edgeae --help` stays quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer
from edgeae_runtime.command import cli as runtime
from edgeae_runtime.command.exits import OK, exit_status

from edgeae.command import against_torch, bundles, console, demo, export, train
from edgeae.command.handed_on import hand_on

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train an autoencoder, put its encoder and decoder on a device, and prove that nothing changed.",
)
for _verb in (demo.demo, train.train, export.export, bundles.inspect, bundles.sign):
    app.command()(_verb)

_AGAINST_TORCH = {"verify": against_torch.verify, "bench": against_torch.bench}
"""Handed on as the others are, but for `--checkpoint`."""
for _name, _parser in runtime.verb_parsers().items():
    if _name in _AGAINST_TORCH:
        against_torch.add_checkpoint(_parser)
        hand_on(app, _name, _parser, partial(_AGAINST_TORCH[_name], _parser))
    elif _name != "completion":  # of `edgeae-runtime`; typer completes `edgeae`
        hand_on(app, _name, _parser, partial(runtime.run_verb, _name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run one verb; returns the exit status, see `edgeae_runtime.command.exits`. Nothing is raised."""

    def run() -> int:
        app(args=None if arguments is None else list(arguments), prog_name="edgeae")
        return OK

    return exit_status(run)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.say(f"edgeae {version('edgeae')}, torch {version('torch')}, {runtime.version_line()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="The versions of edgeae and its libraries."
        ),
    ] = False,
) -> None:
    """Options of `edgeae` itself."""
