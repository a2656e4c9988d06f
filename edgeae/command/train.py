"""`edgeae train`: every finished epoch is a checkpoint, and an interrupt says how to go on."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from edgeae_runtime.command.text import here
from edgeae_runtime.errors import InputError
from edgeae_runtime.terminal import command_line

from edgeae.command import console, tables
from edgeae.command.defaults import DEFAULT_BUNDLE, DEFAULT_CHECKPOINT
from edgeae.image_size import parse_image_size

if TYPE_CHECKING:
    from edgeae_runtime.bundle.preprocessing import Fit

    from edgeae.model import Kind


def train(
    data: Annotated[
        str | None,
        typer.Option(
            help="fashion-mnist (default), sample, mnist, kmnist, cifar10, cifar100, a folder of pictures, or a .npy "
            "or .npz file."
        ),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="ae (default), a plain autoencoder, or vae, a variational one.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="small (32x32, latent 2), medium (64x64, 64) or large (128x128, 128).")
    ] = None,
    latent_dim: Annotated[int | None, typer.Option(help="Numbers in a latent; the preset's by default.")] = None,
    image_size: Annotated[
        str | None, typer.Option(help="Height and width of the images: 96x128; one number for a square.")
    ] = None,
    channels: Annotated[int | None, typer.Option(help="For pictures: 3 for colour (default), 1 for grey.")] = None,
    fit: Annotated[str | None, typer.Option(help="For pictures: crop (default), pad or stretch to the size.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs in all; 3 by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, over all processes; 128 by default.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Adam's step size at the start; 0.001 by default.")
    ] = None,
    beta: Annotated[float | None, typer.Option(help="vae: weight of the KL term; 1, the book's, by default.")] = None,
    kl_warmup: Annotated[
        float | None, typer.Option(help="vae: epochs over which that weight grows from 0; 0 by default.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed on the same machine gives the same weights; 0 by default.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto (default), float32 or bfloat16.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint.")] = DEFAULT_CHECKPOINT,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished epoch, with what the run was given.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing checkpoint.")] = False,
) -> None:
    """Train the autoencoder; every finished epoch is a checkpoint."""
    from edgeae.command.runs import Given, TerminatedError, prepare_run, stamp, stopped, terminated_as_interrupted
    from edgeae.training.loop import train as train_model

    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "beta": beta,
        "kl_warmup": kl_warmup,
        "seed": seed,
        "precision": precision,
        "device": device,
    }
    typed = cast("Kind | None", kind), cast("Fit | None", fit)
    size = parse_image_size("--image-size", image_size)
    given = Given(data, typed[0], preset, latent_dim, size, channels, typed[1], settings)
    if resume and overwrite:
        raise InputError("Got --resume and --overwrite, expected one: go on with the checkpoint, or replace it.")
    before = stamp(out)
    try:
        with terminated_as_interrupted():
            images, config, training = prepare_run(given, out, resume=resume, overwrite=overwrite, tell=console.say)
            if console.is_main_process():
                console.say(
                    f"{len(images.train_images):,} training and {len(images.test_images):,} test images: "
                    f"{images.source}"
                )
            with console.training_progress() as bar:
                checkpoint = train_model(images, out, config, training, resume=resume, on_progress=bar)
    except KeyboardInterrupt as interrupt:
        if console.is_main_process():
            told, command = stopped(out, before, sys.argv[1:])
            console.say(told)
            console.next_command(command)
        sys.exit(143 if isinstance(interrupt, TerminatedError) else 130)
    if console.is_main_process():
        tables.show_training(checkpoint)
        place = [] if out == DEFAULT_CHECKPOINT else [here(out)]
        bundle = ["--out", _free(DEFAULT_BUNDLE)] if DEFAULT_BUNDLE.exists() else []
        console.next_command(command_line("edgeae", "export", *place, "--quantize", "int8", *bundle))


def _free(path: Path) -> Path:
    """The first of `bundle-2`, `bundle-3`, … that is not there."""
    return next(each for each in (Path(f"{path}-{number}") for number in itertools.count(2)) if not each.exists())
