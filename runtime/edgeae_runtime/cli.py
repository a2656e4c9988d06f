"""`edgeae-runtime`: the commands a device needs, with nothing but the standard library, numpy and ONNX Runtime."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from edgeae_runtime import commands
from edgeae_runtime.errors import EdgeAEError, IntegrityError, ParityError

OK, CHECK_FAILED, BAD_INPUT = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, call one function, print; the exit status is 0 done, 1 a check failed, 2 bad usage or input."""
    options = _parser().parse_args(arguments)
    action: Callable[[argparse.Namespace], int] = options.action
    return exit_status(lambda: action(options), sys.stderr, checking=options.command == "verify")


def exit_status(action: Callable[[], int], stream: TextIO, *, checking: bool) -> int:
    """Run a command; turn the errors a user can mend into one paragraph and an exit status.

    Args:
        action: the command.
        stream: where the paragraph goes.
        checking: whether the command's purpose is to check a bundle: then a changed byte is a check that failed,
            elsewhere it is bad input.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=stream)
            return action()
    except EdgeAEError as error:
        stream.write(f"error: {error}\n")
        failed = isinstance(error, ParityError) or (checking and isinstance(error, IntegrityError))
        return CHECK_FAILED if failed else BAD_INPUT
    except OSError as error:
        stream.write(f"error: {describe_os_error(error)}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        stream.write("interrupted\n")
        return 130


def describe_os_error(error: OSError) -> str:
    """An operating system's error as a sentence with a remedy."""
    place = error.filename or error.filename2 or "A file"
    return (
        f"{place} cannot be used: {error.strerror or error}. Nothing half-written was left there. "
        "Check that the folder is writable and that the disk has room, or choose another place."
    )


def _verify(options: argparse.Namespace) -> int:
    checks = commands.verify(options.bundle, options.provider)
    for line in commands.check_lines(checks):
        _say(line)
    _write_json(options.json, commands.verify_document(checks))
    commands.require_parity(checks)
    _say(f"Verified: this machine computes what the torch model did.\nNext: edgeae-runtime bench {options.bundle}")
    return OK


def _bench(options: argparse.Namespace) -> int:
    batches, threads = commands.numbers(options.batch), commands.numbers(options.threads)
    earlier = commands.earlier_bench(options.compare)
    report = commands.bench(
        options.bundle, options.part, batches, threads, options.provider, options.soak, lambda what: _say(f"… {what}")
    )
    for line in commands.bench_lines(report):
        _say(line)
    for line in commands.compared_lines(earlier, report) if earlier else ():
        _say(line)
    _write_json(options.json, report)
    return OK


def _compare(options: argparse.Namespace) -> int:
    for line in commands.compare(options.old, options.new):
        _say(line)
    return OK


def _doctor(options: argparse.Namespace) -> int:
    lines, healthy = commands.doctor()
    for line in lines:
        _say(line)
    return OK if healthy else CHECK_FAILED


def _tune(options: argparse.Namespace) -> int:
    for line in commands.tune(options.bundle, options.provider):
        _say(line)
    return OK


def _convert(options: argparse.Namespace) -> int:
    convert = getattr(commands, options.command)
    _say(convert(options.bundle, options.input, options.out, options.provider))
    return OK


def _sample(options: argparse.Namespace) -> int:
    _say(commands.sample(options.bundle, options.count, options.seed, options.out, options.provider))
    return OK


def _interpolate(options: argparse.Namespace) -> int:
    _say(commands.interpolate(options.bundle, options.start, options.end, options.steps, options.out, options.provider))
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgeae-runtime", description="Run an autoencoder bundle, without torch.")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def verb(name: str, action: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = verbs.add_parser(name, help=text, description=text)
        command.set_defaults(action=action)
        command.add_argument("--provider", default="cpu", help="cpu, cuda, directml or auto (default: cpu)")
        return command

    verify = verb("verify", _verify, "Check the hashes and replay the golden vectors.")
    bench = verb("bench", _bench, "Time the bundle on this machine.")
    tune = verb("tune", _tune, "Measure which number of threads is fastest here, and keep it beside the bundle.")
    for command in (verify, bench, tune):
        command.add_argument("bundle", nargs="?", default="bundle", help="folder of the bundle (default: bundle)")
    for command in (verify, bench):
        command.add_argument("--json", metavar="FILE", help="also write the figures to FILE")
    bench.add_argument("--part", action="append", choices=commands.BENCH_PARTS, help="may be repeated; default: all")
    bench.add_argument("--batch", default="1,64", help="such as 1,64")
    bench.add_argument("--threads", default="1", help="such as 1,2")
    bench.add_argument("--soak", type=float, default=0.0, metavar="SECONDS", help="also run so long, to see throttling")
    bench.add_argument("--compare", metavar="OLD", help="an earlier bench --json: what changed, and is it real?")
    for name, text in commands.CONVERSIONS.items():
        convert = verb(name, _convert, text)
        convert.add_argument("input", help="input file or folder")
        convert.add_argument("--out", required=True, help="output file")
    sample = verb("sample", _sample, "Decode random latents: new images.")
    sample.add_argument("count", type=int, nargs="?", default=16)
    sample.add_argument("--seed", type=int, help="the same seed gives the same latents everywhere")
    interpolate = verb("interpolate", _interpolate, "Decode the straight line between two images or latents.")
    interpolate.add_argument("start", help="file with one image or one latent")
    interpolate.add_argument("end", help="file with one image or one latent")
    interpolate.add_argument("--steps", type=int, default=9)
    for command in (sample, interpolate):
        command.add_argument("--out", required=True, help="output file: .png, .npy or .npz")
    for name, command in verbs.choices.items():
        if name not in ("verify", "bench", "tune"):
            command.add_argument("--bundle", default="bundle", help="folder of the bundle (default: bundle)")
    doctor = verbs.add_parser("doctor", help="Find what is wrong with this machine's set-up, and what mends it.")
    doctor.set_defaults(action=_doctor)
    compare = verbs.add_parser("compare", help="Compare two files of bench --json: what changed, and is it real?")
    compare.set_defaults(action=_compare)
    compare.add_argument("old", help="file written by bench --json")
    compare.add_argument("new", help="another, of the same bundle or another one")
    return parser


def _write_json(path: str | None, report: dict[str, Any]) -> None:
    if path:
        commands.write_json(path, report)
        _say(f"Wrote {path}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
