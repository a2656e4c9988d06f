"""`edgeae-runtime`: the verbs a device needs, with nothing but the standard library, numpy and ONNX Runtime.

Each is declared here and nowhere else: `edgeae` hands them on.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgeae_runtime.bundle.tuning import TUNING_FILE
from edgeae_runtime.command import actions, text
from edgeae_runtime.command.completion import SHELLS, completion_script
from edgeae_runtime.command.exits import CHECK_FAILED, OK, checking, exit_status
from edgeae_runtime.files.documents import write_json
from edgeae_runtime.files.writing import STANDARD_OUTPUT
from edgeae_runtime.measure.bench import bench_bundle
from edgeae_runtime.measure.tune import OBJECTIVES
from edgeae_runtime.measure.tune import tune as tune_bundle
from edgeae_runtime.replay import TIMEOUT_S
from edgeae_runtime.terminal import say, tell
from edgeae_runtime.verification import require_parity, verify_document

__all__ = ["main", "run_verb", "verb_parsers", "version_line", "write_report"]

PROGRAM = "edgeae-runtime"
MOST_SECONDS = 30 * 24 * 3600  # timers of the operating system do not take any number
CONVERSIONS = {
    "encode": (actions.encode, "Turn images (.npy, .npz, a picture or a folder of pictures) into latents."),
    "decode": (actions.decode, "Turn latents (.npy or .npz) into images."),
    "reconstruct": (actions.reconstruct, "Encode images and decode them again."),
}
Run = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, call one function, print; returns the exit status, see `exits`. Nothing is raised."""

    def run() -> int:
        options = _parser().parse_args(arguments)
        action: Run = options.action
        return action(options)

    return exit_status(run)


def run_verb(name: str, typed: Sequence[str]) -> int:
    """As `main`, of one verb and what was typed behind it."""
    return main([name, *typed])


def verb_parsers() -> dict[str, argparse.ArgumentParser]:
    """What the command line of each verb is, with its description."""
    (verbs,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(verbs.choices)


def version_line() -> str:
    """The versions that matter in a report of a fault."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in (PROGRAM, "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "numpy"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join([*found, f"Python {sys.version.split()[0]}"])


def _verify(options: argparse.Namespace) -> int:
    with checking():
        checks, fingerprint = actions.check_bundle(options.bundle, options.provider, options.key, options.timeout)
    show = _shower(options.json)
    show([text.signature_line(fingerprint)] if fingerprint else [])
    show(text.check_lines(checks))
    write_report(options.json, verify_document(checks, fingerprint))
    require_parity(checks)
    show(["Verified: this machine computes what the torch model did."])
    show([text.next_line("bench", text.here(options.bundle), provider=options.provider)])
    return OK


def _bench(options: argparse.Namespace) -> int:
    batches, threads = actions.bench_cases(options.bundle, options.batch, options.threads)
    earlier = actions.earlier_bench(options.compare)
    show = _shower(options.json)
    report = bench_bundle(
        options.bundle,
        parts=options.part,
        batches=batches,
        threads=threads,
        provider=options.provider,
        soak_seconds=options.soak,
        variants=options.variants,
        on_case=lambda what: show([f"… {what}"]),
    )
    show(text.bench_lines(report))
    show(text.compared_lines(earlier, report) if earlier else ())
    write_report(options.json, report)
    show([text.next_line("tune", text.here(options.bundle), provider=options.provider)])
    return OK


def _compare(options: argparse.Namespace) -> int:
    say("\n".join(actions.compare(options.old, options.new)))
    return OK


def _doctor(options: argparse.Namespace) -> int:
    lines, healthy = actions.doctor()
    say("\n".join(lines))
    return OK if healthy else CHECK_FAILED


def _tune(options: argparse.Namespace) -> int:
    show = _shower(options.json)
    report = tune_bundle(
        options.bundle,
        options.provider,
        objective=options.objective,
        min_psnr_db=options.min_psnr,
        on_progress=lambda what: show([f"… {what}"]),
    )
    show(text.tune_lines(report))
    show([f"Kept in {Path(options.bundle) / TUNING_FILE}"])
    write_report(options.json, report)
    show([text.next_line("bench", text.here(options.bundle), provider=options.provider)])
    return OK


def _convert(convert: Callable[[str, str, str, str], str], options: argparse.Namespace) -> int:
    say(convert(options.bundle, options.input, options.out, options.provider))
    return OK


def _sample(options: argparse.Namespace) -> int:
    say(actions.sample(options.bundle, options.count, options.seed, options.out, options.provider))
    return OK


def _interpolate(options: argparse.Namespace) -> int:
    say(actions.interpolate(options.bundle, options.start, options.end, options.steps, options.out, options.provider))
    return OK


class _Version(argparse.Action):
    """Looks the versions up when they are asked for, not on every start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:  # noqa: ANN401 - argparse's own
        say(version_line())
        parser.exit()


def _seed(typed: str) -> int:
    if (seed := int(typed)) < 0:
        raise argparse.ArgumentTypeError(f"got {seed}, expected a whole number from 0")
    return seed


def _seconds(typed: str) -> float:
    if not 0 < (seconds := float(typed)) <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"got {typed}, expected seconds above 0 and up to {MOST_SECONDS:,}")
    return seconds


def _decibels(typed: str) -> float:
    if not math.isfinite(figure := float(typed.removesuffix("dB"))):
        raise argparse.ArgumentTypeError(f"got {typed}, expected a number of dB, such as 40")
    return figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Run an autoencoder bundle, without torch.")
    parser.add_argument("--version", action=_Version, nargs=0, help="the versions of this program and what it runs on")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def verb(name: str, action: Run, says: str) -> argparse.ArgumentParser:
        command = verbs.add_parser(name, help=says, description=says)
        command.set_defaults(action=action)
        return command

    verify = verb("verify", _verify, "Check the hashes and replay the golden vectors.")
    bench = verb("bench", _bench, "Time the bundle on this machine.")
    tune = verb(
        "tune", _tune, "Measure which form and how many threads are best here, and keep that beside the bundle."
    )
    for command in (verify, bench, tune):
        command.add_argument("bundle", nargs="?", default="bundle", help="folder of the bundle (default: bundle)")
    for command in (verify, bench, tune):
        command.add_argument("--json", metavar="FILE", help="also write the figures to FILE; - is standard output")
    verify.add_argument("--timeout", type=_seconds, default=TIMEOUT_S, metavar="SECONDS", help="until it is given up")
    verify.add_argument("--key", metavar="FILE", help="the publisher's public key: also check the signature")
    bench.add_argument("--part", action="append", choices=actions.BENCH_PARTS, help="may be repeated; default: all")
    bench.add_argument("--batch", default="1,64", help="such as 1,64")
    bench.add_argument("--threads", default="1", help="such as 1,2")
    bench.add_argument("--variants", action="store_true", help="time every form of each part, in turns")
    tune.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="latency",
        help="what to choose by: one image's time, images per second at 64, or peak memory (default: latency)",
    )
    tune.add_argument("--min-psnr", type=_decibels, metavar="DB", help="leave out forms with less, such as 40")
    bench.add_argument("--soak", type=float, default=0.0, metavar="SECONDS", help="also run so long, to see throttling")
    bench.add_argument("--compare", metavar="OLD", help="an earlier bench --json: what changed, and is it real?")
    conversions = [verb(name, partial(_convert, convert), says) for name, (convert, says) in CONVERSIONS.items()]
    for command in conversions:
        command.add_argument("input", help="input file or folder")
        command.add_argument("--out", required=True, help="output file")
    sample = verb("sample", _sample, "Decode random latents: new images.")
    sample.add_argument("count", type=int, nargs="?", default=16)
    sample.add_argument("--seed", type=_seed, help="the same seed gives the same latents everywhere")
    interpolate = verb("interpolate", _interpolate, "Decode the straight line between two images or latents.")
    interpolate.add_argument("start", help="file with one image or one latent")
    interpolate.add_argument("end", help="file with one image or one latent")
    interpolate.add_argument("--steps", type=int, default=9)
    for command in (sample, interpolate):
        command.add_argument("--out", required=True, help="output file: .png, .npy or .npz")
    for command in (*conversions, sample, interpolate):
        command.add_argument("--bundle", default="bundle", help="folder of the bundle (default: bundle)")
    for command in (verify, bench, tune, *conversions, sample, interpolate):
        command.add_argument("--provider", default="cpu", help="cpu, cuda, directml or auto (default: cpu)")
    verb("doctor", _doctor, "Find what is wrong with this machine's set-up, and what mends it.")
    compare = verb("compare", _compare, "Compare two files of bench --json: what changed, and is it real?")
    compare.add_argument("old", help="file written by bench --json")
    compare.add_argument("new", help="another, of the same bundle or another one")
    completion = verb(
        "completion",
        lambda options: _print(completion_script(parser, verbs.choices, options.shell)),
        "Print the script that completes commands in a shell.",
    )
    completion.add_argument("shell", choices=SHELLS)
    return parser


def _print(script: str) -> int:
    say(script.rstrip("\n"))
    return OK


def _shower(json: str | None) -> Callable[[Iterable[str]], None]:
    """What prints lines: to standard error where standard output is the JSON's."""
    write = tell if json == STANDARD_OUTPUT else say

    def show(lines: Iterable[str]) -> None:
        for line in lines:
            write(line)

    return show


def write_report(path: str | None, report: dict[str, Any]) -> None:
    """Write the figures where `--json` says, if anywhere, and tell; `-` is standard output, which gets nothing else."""
    if path:
        write_json(path, report)
        if path != STANDARD_OUTPUT:
            say(f"Wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
