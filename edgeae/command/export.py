"""`edgeae export`: from a checkpoint, or a model of the user's own, to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from edgeae_runtime.bundle.manifest import PARTS
from edgeae_runtime.command.text import here
from edgeae_runtime.errors import InputError
from edgeae_runtime.terminal import command_line

from edgeae.command import console, tables
from edgeae.command.defaults import DEFAULT_BUNDLE, DEFAULT_CHECKPOINT
from edgeae.own_model.words import chosen_range, numbers_or_none, part_arguments

OWN = "Your own model"


def export(
    model: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT", help="Folder of a checkpoint, or your own: package.module:build."),
    ] = str(DEFAULT_CHECKPOINT),
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")] = DEFAULT_BUNDLE,
    quantize: Annotated[
        str, typer.Option(help="none; int8; or auto, each part in the form that is fastest here, float32 included.")
    ] = "none",
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Images to calibrate int8 with, as --data; by default the checkpoint's training set. Of a .npz with "
            "several arrays, one by its name: file.npz:x_train."
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="host (this machine, timed), x86-avx2, x86-vnni, x86-amx, arm64, raspberry-pi-4, "
            "raspberry-pi-5, apple-silicon, browser or laptop."
        ),
    ] = "host",
    quantize_part: Annotated[
        list[str] | None, typer.Option(help="encoder or decoder; may be repeated. Both by default.")
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            help="What int8 may cost, such as 45dB or 0.05%, instead of 30dB and 5%: the layers that hurt most stay "
            "in float until it holds."
        ),
    ] = None,
    pixels: Annotated[str, typer.Option(help="What images are at both ends: float32 or uint8.")] = "float32",
    layout: Annotated[
        str, typer.Option(help="Of uint8 pixels that go in: nchw, or nhwc as cameras give them.")
    ] = "nchw",
    variants: Annotated[
        bool | None,
        typer.Option(
            "--variants/--no-variants",
            help="Add further forms of both parts, of which edgeae-runtime tune takes the best on the device. By "
            "default where the target is not this machine.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Your model's weights, .safetensors or a file of torch's.", rich_help_panel=OWN),
    ] = None,
    weights_key: Annotated[
        str | None, typer.Option(help="Where in that file, if in several places: ema.", rich_help_panel=OWN)
    ] = None,
    image_shape: Annotated[
        str | None, typer.Option(help="One image, such as 3,64,64; a signal 1,256; a row 20.", rich_help_panel=OWN)
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(help="Calibration pictures of other sizes: crop, pad or stretch.", rich_help_panel=OWN),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Its method or submodule.", rich_help_panel=OWN)] = None,
    decoder: Annotated[str | None, typer.Option(help="The same.", rich_help_panel=OWN)] = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            help="What the encoder returns, in order: mean, log_variance, log_std, std, variance, sample, or -.",
            rich_help_panel=OWN,
        ),
    ] = None,
    encoder_argument: Annotated[
        list[str] | None, typer.Option(help="A further argument of the encoder, NAME=JSON.", rich_help_panel=OWN)
    ] = None,
    decoder_argument: Annotated[
        list[str] | None,
        typer.Option(
            help="The same of the decoder. A list of whole numbers is tried as it is, then as a tensor; one with a "
            "fraction, or behind tensor:, is a tensor.",
            rich_help_panel=OWN,
        ),
    ] = None,
    value_range: Annotated[
        str | None, typer.Option(help="Of your model's images, such as -1,1.", rich_help_panel=OWN)
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Your normalisation, per channel.", rich_help_panel=OWN)] = None,
    std: Annotated[str | None, typer.Option(help="The same.", rich_help_panel=OWN)] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Let the weights' file run code.", rich_help_panel=OWN)
    ] = False,
) -> None:
    """Export separate encoder and decoder graphs, checked against torch, as a bundle."""
    from edgeae_export import Int8, OwnModel

    from edgeae.export import export_checkpoint, export_own_model
    from edgeae.own_model.import_name import is_import_name

    options: dict[str, Any] = {
        "quantize": quantize,
        "calibration": calibration,
        "target": target,
        "int8": Int8(tuple(quantize_part or PARTS), max_drop),
        "pixels": pixels,
        "layout": layout,
        "variants": variants,
        "overwrite": overwrite,
    }
    told: dict[str, Any] = {
        "image_shape": numbers_or_none("--image-shape", image_shape, int),
        "encoder": encoder,
        "decoder": decoder,
        "outputs": outputs.split(",") if outputs else None,
        "encoder_arguments": part_arguments("--encoder-argument", encoder_argument or []),
        "decoder_arguments": part_arguments("--decoder-argument", decoder_argument or []),
        "value_range": chosen_range(value_range, mean, std),
    }
    files: dict[str, Any] = {
        "weights": checkpoint,
        "weights_key": weights_key,
        "trust_pickle": trust_pickle,
        "fit": fit,
    }
    own = told | files
    its_own_model = is_import_name(model)
    if not its_own_model and any(own.values()):
        words = {
            "weights": "checkpoint",
            "encoder_arguments": "encoder-argument",
            "decoder_arguments": "decoder-argument",
        }
        given = ", ".join(f"--{words.get(name, name).replace('_', '-')}" for name, value in own.items() if value)
        raise InputError(f"Got {given} for the checkpoint {model}, which knows these. They go with your own model.")
    console.heading(f"Export {model} to {out}")
    with console.StageLog() as stages:
        if its_own_model:
            report = export_own_model(model, out, own_model=OwnModel(**told), **files, **options, on_progress=stages)
        else:
            report = export_checkpoint(model, out, **options, on_progress=stages)
    tables.show_export(report)
    console.say(f"\nWrote the bundle {out}")
    verify_it = command_line("edgeae-runtime", "verify", here(out))
    console.next_command(verify_it if out != DEFAULT_BUNDLE else "edgeae bench")
