"""A run of `edgeae train`: what it goes on from, and what is there when it is stopped."""

from __future__ import annotations

import dataclasses
import os
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from edgeae_runtime.bundle.preprocessing import Fit
from edgeae_runtime.command.exits import interrupt_behind
from edgeae_runtime.errors import InputError

from edgeae.checkpoint import CHECKPOINT_FILE, Checkpoint, has_checkpoint, load_checkpoint
from edgeae.data import ImageSet, PictureOptions, holds_pictures, load_images
from edgeae.image_size import ImageSize
from edgeae.model import AutoencoderConfig, Kind
from edgeae.training_config import TrainingConfig

DEFAULT_DATA = "fashion-mnist"


class TerminatedError(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, but for the exit status."""


@dataclasses.dataclass(frozen=True)
class Given:
    """What was typed, which who takes it checks; None for what was not."""

    data: str | None
    kind: Kind | None
    preset: str | None
    latent_dim: int | None
    image_size: ImageSize | None
    channels: int | None
    """Of pictures; other data know theirs."""
    fit: Fit | None
    training: Mapping[str, Any]
    """Fields of `TrainingConfig`."""


def prepare_run(
    given: Given, out: Path, *, resume: bool, overwrite: bool, tell: Callable[[str], None]
) -> tuple[ImageSet, AutoencoderConfig, TrainingConfig]:
    """The images, the model's shape and the settings: as typed, else as the run that is resumed, else the defaults.

    Raises:
        InputError: a checkpoint is there without leave to replace it, or the images cannot be had. What contradicts the
            resumed run is refused by `edgeae.training.resume.previous_run`.
    """
    if has_checkpoint(out) and not resume and not overwrite:
        raise InputError(
            f"There is a checkpoint at {out} already. Go on with it: --resume; replace it: --overwrite; or choose "
            "another --out."
        )
    previous = load_checkpoint(out) if resume and has_checkpoint(out) else None
    settings = {name: value for name, value in given.training.items() if value is not None}
    if previous is None:
        data = given.data or DEFAULT_DATA
        preset = given.preset or ("medium" if holds_pictures(data) else "small")
        size = AutoencoderConfig.preset(preset, image_size=given.image_size).image_size
        pictures = PictureOptions(size=size, channels=given.channels or 3, fit=given.fit or "crop")
        images = load_images(data, pictures=pictures, on_progress=tell)
        config = AutoencoderConfig.preset(
            preset,
            channels=images.train_images.shape[1],
            kind=given.kind or "ae",
            image_size=given.image_size,
            latent_dim=given.latent_dim,
        )
        return images, config, TrainingConfig(**settings)
    training = dataclasses.replace(previous.training, **{"device": "auto", **settings})
    images = load_images(given.data or previous.data_name, pictures=_pictures(given, previous), on_progress=tell)
    return images, _config(given, previous), training


def _config(given: Given, previous: Checkpoint) -> AutoencoderConfig:
    """The previous model's shape with what was typed; a preset stands for its layers and what nobody chose apart."""
    before = previous.config
    chosen = {
        name: value for name in ("kind", "latent_dim", "image_size") if (value := getattr(given, name)) is not None
    }
    if given.preset is not None:
        widths = AutoencoderConfig.preset(given.preset).widths
        chosen |= {"widths": widths}
    return dataclasses.replace(before, **chosen)


def _pictures(given: Given, previous: Checkpoint) -> PictureOptions:
    before = PictureOptions.of(previous.preprocessing) or PictureOptions(previous.config.image_size)
    return PictureOptions(given.image_size or before.size, given.channels or before.channels, given.fit or before.fit)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within, SIGTERM raises `TerminatedError`: batch systems and `docker stop` send it, with some seconds' grace.

    An interrupt arrives as itself, whatever a library that it met while importing made of it.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise TerminatedError

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, which alone hears signals
        yield
        return
    try:
        yield
    except Exception as error:
        if interrupt := interrupt_behind(error):
            raise interrupt from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def stamp(out: Path) -> tuple[int, int] | None:
    """Tells whether the checkpoint at `out` was replaced; None where there is none."""
    with suppress(OSError):
        status = os.stat(out / CHECKPOINT_FILE)  # noqa: PTH116
        return status.st_ino, status.st_mtime_ns
    return None


def stopped(out: Path, before: tuple[int, int] | None, typed: Sequence[str]) -> tuple[str, str]:
    """What an interrupted run left, and the command that goes on.

    Args:
        out: the checkpoint's folder.
        before: its `stamp` when the run began.
        typed: the arguments of `edgeae`.
    """
    words = list(typed)
    now = stamp(out)
    if now is None:
        return "Stopped before the first epoch was done: there is no checkpoint yet.", _command(words)
    kept = load_checkpoint(out).epochs_done
    epochs = f"{kept} finished epoch{'s' if kept > 1 else ''}"
    if now == before and "--resume" not in words:
        return f"Stopped before the first epoch was done: {out} holds what it held, {epochs}.", _command(words)
    words = [word for word in words if word not in ("--overwrite", "--resume")]
    return f"Stopped. {out} holds the {epochs}.", _command([*words, "--resume"])


def _command(words: Sequence[str]) -> str:
    return shlex.join(["edgeae", *words])
