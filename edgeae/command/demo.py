"""`edgeae demo`: the whole story."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from edgeae_runtime.errors import InputError
from edgeae_runtime.terminal import command_line

from edgeae.command import console, tables
from edgeae.image_size import parse_image_size

if TYPE_CHECKING:
    from edgeae.data import ImageSet, PictureOptions
    from edgeae.model import Kind


def demo(
    data: Annotated[
        str,
        typer.Option(
            help="fashion-mnist, sample, mnist, kmnist, cifar10, cifar100, a folder of pictures, or a .npy or .npz "
            "file."
        ),
    ] = "fashion-mnist",
    kind: Annotated[str, typer.Option(help="ae, a plain autoencoder, or vae, a variational one.")] = "ae",
    image_size: Annotated[
        str | None, typer.Option(help="Height and width of the images: 96x128; one number for a square.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Epochs to train.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo"),
) -> None:
    """Train, export float32 and int8, verify, time and draw: the whole story."""
    from edgeae.data import PictureOptions, holds_pictures
    from edgeae.demo import run_demo
    from edgeae.model import AutoencoderConfig
    from edgeae.training.loop import TrainingConfig

    preset = "medium" if holds_pictures(data) else "small"
    size = AutoencoderConfig.preset(preset, image_size=parse_image_size("--image-size", image_size)).image_size
    images = _load_or_sample(data, PictureOptions(size))
    config = AutoencoderConfig.preset(
        preset, channels=images.train_images.shape[1], kind=cast("Kind", kind), image_size=size
    )
    console.heading("edgeae demo")
    with console.training_progress() as bar:
        report = run_demo(
            images,
            out,
            TrainingConfig(epochs=epochs),
            config,
            on_progress=lambda stage: bar.line(f"· {stage}"),
            on_training=bar,
        )
    console.heading("Training")
    tables.show_training(report.checkpoint)
    console.heading("Exported, int8")
    tables.show_export(report.exports["int8"])
    console.heading("Speed")
    tables.show_bench(report.bench)
    console.heading("Pictures")
    for picture in report.pictures:
        console.say(f"  {picture}")
    console.say(f"\nEverything measured stands in {out / 'metrics.json'}.")
    console.next_command(
        command_line("edgeae-runtime", "sample", 16, "--bundle", out / "bundle-int8", "--out", "new.png")
    )


def _load_or_sample(name: str, pictures: PictureOptions) -> ImageSet:
    """The named images; the demo alone falls back to the embedded sample, and says so loudly."""
    from edgeae.data import load_images

    try:
        return load_images(name, pictures=pictures, on_progress=console.say)
    except InputError as error:
        if name != "fashion-mnist":
            raise
        console.warn(f"{error}\n\nThe demo goes on with the embedded sample of 5,000 images: its losses are worse.")
        return load_images("sample")
