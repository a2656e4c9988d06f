"""What `edgeae` says in a terminal: sentences and progress, through rich."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeae_runtime.errors import shown
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:  # these bring torch with them
    from edgeae.training.loop import TrainingProgress

_WIDTH_WITHOUT_TERMINAL = 120  # logs and pipes: rich would break tables at 80

console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)


def use_standard_error() -> None:
    """Print on standard error from now on: standard output is for a document."""
    console.stderr = True


def say(text: str = "") -> None:
    """Print plain text."""
    console.print(plain(text), soft_wrap=True)


def plain(text: object) -> str:
    """A text for rich that is no markup, whoever wrote it, and steers no terminal."""
    return escape("\n".join(shown(line) for line in str(text).split("\n")))


def heading(text: str) -> None:
    """Print the title of a step."""
    console.print(f"\n[bold]{plain(text)}[/bold]")


def warn(text: str) -> None:
    """Print what must not be overlooked, in a frame."""
    console.print(Panel(plain(text), title="notice", border_style="yellow"))


def is_main_process() -> bool:
    """Whether this process is the one that talks, where several train together."""
    return int(os.environ.get("RANK", "0")) == 0


def next_command(command: str) -> None:
    """Print the exact command to try next."""
    console.print(f"\nNext: [bold cyan]{plain(command)}[/bold cyan]", soft_wrap=True)


class StageLog:
    """Prints each stage as it begins; a spinner shows that it is alive where there is a terminal."""

    def __init__(self) -> None:
        self._status = console.status("")

    def __enter__(self) -> StageLog:
        if console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._status.stop()

    def __call__(self, stage: str) -> None:
        """Begin a stage."""
        if console.is_terminal:
            self._status.update(f"{plain(stage)} …")
        console.print(f"  [dim]·[/dim] {plain(stage)}")


@contextmanager
def training_progress() -> Iterator[TrainingBar]:
    """A bar for the running epoch with the loss and the time left; one line stays per finished epoch."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]} left"),
        console=console,
        transient=True,
        disable=not is_main_process(),
    )
    with progress:
        yield TrainingBar(progress)


class TrainingBar:
    """Receives training's progress events."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=1, epoch="1", loss="–", left="–")

    def __call__(self, event: TrainingProgress) -> None:
        """Show one event."""
        minutes, seconds = divmod(int(event.seconds_left), 60)
        self._progress.update(
            self._task,
            completed=event.step,
            total=event.steps,
            epoch=f"{event.epoch}/{event.epochs}",
            loss=f"{event.loss:.4f}",
            left=f"{minutes}:{seconds:02d}",
        )
        if event.validation_loss is not None:
            self.line(
                f"  epoch {event.epoch} of {event.epochs}: training loss {event.loss:.4f}, "
                f"validation loss {event.validation_loss:.4f}" + (f", KL {event.kl:.2f}" if event.kl else "")
            )

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(plain(text))
