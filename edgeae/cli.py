"""`edgeae`: parse, call one library function, print, map errors to exit codes."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from edgeae_runtime.bundle.manifest import PARTS
from edgeae_runtime.command import actions as commands
from edgeae_runtime.command.cli import version_line
from edgeae_runtime.command.exits import exit_status
from edgeae_runtime.errors import InputError
from edgeae_runtime.files.writing import STANDARD_OUTPUT
from edgeae_runtime.terminal import command_line

from edgeae import console
from edgeae.own_model.words import chosen_range, half_arguments, numbers_or_none

if TYPE_CHECKING:
    from edgeae.data import ImageSet

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train an autoencoder, put its encoder and decoder on a device, and prove that nothing changed.",
)

# Heavy imports (torch, onnx, matplotlib) live inside the commands that need them: `edgeae --help` stays quick.

Bundle = Annotated[Path, typer.Argument(help="Folder of the bundle.")]
BundleOption = Annotated[Path, typer.Option("--bundle", help="Folder of the bundle.")]
Provider = Annotated[str, typer.Option(help="cpu, cuda, directml, or auto.")]
Data = Annotated[
    str,
    typer.Option(
        help="fashion-mnist, sample, mnist, kmnist, cifar10, cifar100, a folder of pictures, or a .npy or .npz file."
    ),
]
Output = Annotated[Path, typer.Option("--out", help="Output file.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file; - is standard output.")]

OWN = "Your own model"
DEFAULT_CHECKPOINT, DEFAULT_BUNDLE = Path("runs/latest"), Path("bundle")


def main() -> None:
    """Entry point of the `edgeae` command."""

    def action() -> int:
        app()
        return 0

    sys.exit(exit_status(action, checking=sys.argv[1:2] == ["verify"]))


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        console.say(f"edgeae {version('edgeae')}, torch {version('torch')}, {version_line()}")
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


@app.command()
def demo(
    data: Data = "fashion-mnist",
    kind: Annotated[str, typer.Option(help="ae, a plain autoencoder, or vae, a variational one.")] = "ae",
    epochs: Annotated[int, typer.Option(help="Epochs to train.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo"),
) -> None:
    """Train, export float32 and int8, verify, time and draw: the whole story."""
    from edgeae.data import holds_pictures
    from edgeae.demo import run_demo
    from edgeae.model import AutoencoderConfig
    from edgeae.training.loop import TrainingConfig

    images = _load_or_sample(data)
    preset = "medium" if holds_pictures(data) else "small"
    console.heading("edgeae demo")
    with console.training_progress() as bar:
        report = run_demo(
            images,
            out,
            TrainingConfig(epochs=epochs),
            AutoencoderConfig.preset(preset, channels=images.train_images.shape[1], kind=kind),
            on_stage=lambda stage: bar.line(f"· {stage}"),
            on_training=bar,
        )
    console.heading("Training")
    console.show_training(report.checkpoint)
    console.heading("Exported, int8")
    console.show_export(report.exports["int8"])
    console.heading("Speed")
    console.show_bench(report.bench)
    console.heading("Pictures")
    for picture in report.pictures:
        console.say(f"  {picture}")
    console.say(f"\nEverything measured stands in {out / 'metrics.json'}.")
    console.next_command(
        command_line("edgeae-runtime", "sample", 16, "--bundle", out / "bundle-int8", "--out", "new.png")
    )


@app.command()
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
    image_size: Annotated[int | None, typer.Option(help="Height and width of the images.")] = None,
    channels: Annotated[int | None, typer.Option(help="For pictures: 3 for colour (default), 1 for grey.")] = None,
    fit: Annotated[str | None, typer.Option(help="For pictures: crop (default), pad or stretch to a square.")] = None,
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
    from edgeae.runs import Given, TerminatedError, prepare_run, stamp, stopped, terminated_as_interrupted
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
    given = Given(data, kind, preset, latent_dim, image_size, channels, fit, settings)
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
        console.show_training(checkpoint)
        place = [] if out == DEFAULT_CHECKPOINT else [commands.here(out)]
        bundle = ["--out", _free(DEFAULT_BUNDLE)] if DEFAULT_BUNDLE.exists() else []
        console.next_command(command_line("edgeae", "export", *place, "--quantize", "int8", *bundle))


@app.command()
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
            "raspberry-pi-5 or laptop."
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
    pixels: Annotated[str, typer.Option(help="What the decoder gives: float32 or uint8.")] = "float32",
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
        "overwrite": overwrite,
    }
    told: dict[str, Any] = {
        "image_shape": numbers_or_none("--image-shape", image_shape, int),
        "encoder": encoder,
        "decoder": decoder,
        "outputs": outputs.split(",") if outputs else None,
        "encoder_arguments": half_arguments("--encoder-argument", encoder_argument or []),
        "decoder_arguments": half_arguments("--decoder-argument", decoder_argument or []),
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
    console.show_export(report)
    console.say(f"\nWrote the bundle {out}")
    verify_it = command_line("edgeae-runtime", "verify", commands.here(out))
    console.next_command(verify_it if out != DEFAULT_BUNDLE else "edgeae bench")


@app.command()
def verify(
    bundle: Bundle = DEFAULT_BUNDLE,
    checkpoint: Annotated[Path | None, typer.Option(help="Compare with this checkpoint's torch model too.")] = None,
    key: Annotated[Path | None, typer.Option(help="The publisher's public key: also check the signature.")] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds until it is given up.")] = commands.TIMEOUT_S,
    provider: Provider = "cpu",
    json: Json = None,
) -> None:
    """Check the hashes and replay the golden vectors; with a checkpoint, compare with torch itself."""
    _leave_output_to(json)
    checks, fingerprint = commands.verify(str(bundle), provider, key, timeout)
    if checkpoint is not None:
        from edgeae.export import verify_against_torch

        checks += verify_against_torch(bundle, checkpoint, provider)
    if fingerprint:
        console.say(commands.signature_line(fingerprint))
    console.show_checks(checks)
    _write_json(json, commands.verify_document(checks, fingerprint))
    commands.require_parity(checks)
    _next("bench", bundle, provider=provider)


@app.command()
def sign(
    bundle: Bundle = DEFAULT_BUNDLE,
    *,
    key: Annotated[Path, typer.Option(help="Your private key: PEM, an elliptic-curve key on P-256, P-384 or P-521.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier signature.")] = False,
) -> None:
    """Sign every file of a bundle, so that others can check who made it: `verify --key` with your public key."""
    from edgeae_runtime.bundle.signing import SIGNATURE_FILE

    from edgeae.signing import password_of
    from edgeae.signing import sign as sign_bundle

    fingerprint = sign_bundle(bundle, key, password_of(key), overwrite=overwrite)
    console.say(f"Signed {bundle} with the key {fingerprint[:16]}…, in {bundle / SIGNATURE_FILE}")
    console.say("Give others the public key by another way than the bundle; with it they run verify --key.")
    public = key.with_suffix(".pub")
    if public.exists():
        console.next_command(command_line("edgeae-runtime", "verify", commands.here(bundle), "--key", public))
    else:
        console.next_command(command_line("openssl", "pkey", "-in", key, "-pubout", "-out", public))


@app.command()
def bench(
    bundle: Bundle = DEFAULT_BUNDLE,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Compare with this checkpoint in torch and in plain ONNX Runtime.")
    ] = None,
    part: Annotated[list[str] | None, typer.Option(help="encoder, decoder or round-trip; may be repeated.")] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, such as 1,64.")] = "1,64",
    threads: Annotated[str, typer.Option(help="Thread counts, such as 1,2.")] = "1",
    provider: Provider = "cpu",
    soak: Annotated[float, typer.Option(metavar="SECONDS", help="Also run so long, to see throttling.")] = 0.0,
    compare: Annotated[Path | None, typer.Option(metavar="OLD", help="File of an earlier bench --json.")] = None,
    json: Json = None,
) -> None:
    """Time the bundle; with the checkpoint it came from, against torch and plain ONNX Runtime."""
    from edgeae.export import bench_checkpoint

    _check_parts(part)
    _leave_output_to(json)
    source = checkpoint or (DEFAULT_CHECKPOINT if DEFAULT_CHECKPOINT.exists() else None)
    batches, counts = commands.bench_cases(bundle, batch, threads)
    earlier = commands.earlier_bench(compare)
    with console.StageLog() as stages:
        if source is None:
            report = commands.bench(str(bundle), part, batches, counts, provider, soak, stages)
        else:
            report = bench_checkpoint(
                bundle,
                source,
                parts=part,
                batches=batches,
                threads=counts,
                provider=provider,
                soak_seconds=soak,
                on_step=stages,
            )
    console.show_bench(report)
    for line in commands.compared_lines(earlier, report) if earlier else ():
        console.say(line)
    _write_json(json, report)
    _next("inspect", bundle)


@app.command()
def inspect(bundle: Bundle = DEFAULT_BUNDLE) -> None:
    """Show what a bundle holds: layers and their precision, quality, versions."""
    from edgeae_runtime import open_bundle

    console.show_manifest(open_bundle(bundle).manifest)
    _next("verify", bundle)


@app.command()
def doctor() -> None:
    """Find what is wrong with this machine's set-up, and the command that mends it."""
    lines, healthy = commands.doctor()
    for line in lines:
        console.say(line)
    if not healthy:
        sys.exit(1)


@app.command()
def tune(bundle: Bundle = DEFAULT_BUNDLE, provider: Provider = "cpu") -> None:
    """Measure which number of threads is fastest here, and keep it beside the bundle."""
    for line in commands.tune(str(bundle), provider):
        console.say(line)


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="File written by bench --json.")],
    new: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """Compare two benchmark files: what changed, and is it real?"""
    for line in commands.compare(str(old), str(new)):
        console.say(line)


def _add_conversion(name: str, help_text: str) -> None:
    """`encode`, `decode` and `reconstruct` differ only in the function they call."""

    def command(
        source: Annotated[Path, typer.Argument(metavar="INPUT", help="Input file or folder.")],
        out: Output,
        bundle: BundleOption = DEFAULT_BUNDLE,
        provider: Provider = "cpu",
    ) -> None:
        convert: Callable[[str, str, str, str], str] = getattr(commands, name)
        console.say(convert(str(bundle), str(source), str(out), provider))

    app.command(name, help=help_text)(command)


for _name, _help in commands.CONVERSIONS.items():
    _add_conversion(_name, _help)


@app.command()
def sample(
    out: Output,
    count: Annotated[int, typer.Argument(help="How many images.")] = 16,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same latents everywhere.")] = None,
    bundle: BundleOption = DEFAULT_BUNDLE,
    provider: Provider = "cpu",
) -> None:
    """Decode random latents: new images."""
    console.say(commands.sample(str(bundle), count, seed, str(out), provider))


@app.command()
def interpolate(
    start: Annotated[Path, typer.Argument(help="File with one image or one latent.")],
    end: Annotated[Path, typer.Argument(help="File with one image or one latent.")],
    out: Output,
    steps: Annotated[int, typer.Option(help="Images in all, both ends included.")] = 9,
    bundle: BundleOption = DEFAULT_BUNDLE,
    provider: Provider = "cpu",
) -> None:
    """Decode the straight line between two images or latents."""
    console.say(commands.interpolate(str(bundle), str(start), str(end), steps, str(out), provider))


def _load_or_sample(name: str) -> ImageSet:
    """The named images; the demo alone falls back to the embedded sample, and says so loudly."""
    from edgeae.data import load_images

    try:
        return load_images(name, on_progress=console.say)
    except InputError as error:
        if name != "fashion-mnist":
            raise
        console.warn(f"{error}\n\nThe demo goes on with the embedded sample of 5,000 images: its losses are worse.")
        return load_images("sample")


def _free(path: Path) -> Path:
    """The first of `bundle-2`, `bundle-3`, … that is not there."""
    return next(each for each in (Path(f"{path}-{number}") for number in itertools.count(2)) if not each.exists())


def _check_parts(parts: list[str] | None) -> None:
    unknown = set(parts or ()) - set(commands.BENCH_PARTS)
    if unknown:
        raise InputError(f"Got part {', '.join(unknown)}, expected {', '.join(commands.BENCH_PARTS)}.")


def _leave_output_to(json: Path | None) -> None:
    """Standard output is for the JSON alone where it is asked for there."""
    if str(json) == STANDARD_OUTPUT:
        console.use_standard_error()


def _write_json(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        commands.write_json(path, report)
        if str(path) != STANDARD_OUTPUT:
            console.say(f"Wrote {path}")


def _next(verb: str, bundle: Path, provider: str = commands.DEFAULT_PROVIDER) -> None:
    """Name the next command, with what was typed."""
    options = [] if provider == commands.DEFAULT_PROVIDER else ["--provider", provider]
    console.next_command(command_line("edgeae", verb, commands.here(bundle), *options))
