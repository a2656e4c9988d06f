"""`verify` and `bench` of the runtime with `--checkpoint`: the bundle against the torch model that it came from.

Without a checkpoint they are the runtime's own, to the letter.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgeae_runtime.command import actions, cli, text
from edgeae_runtime.command.exits import OK, checking
from edgeae_runtime.files.writing import STANDARD_OUTPUT
from edgeae_runtime.terminal import command_line
from edgeae_runtime.verification import require_parity, verify_document

from edgeae.command import console, tables
from edgeae.command.defaults import DEFAULT_CHECKPOINT


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Give a verb of the runtime the option that makes it one of this room."""
    parser.prog = parser.prog.replace(cli.PROGRAM, "edgeae")
    parser.description = f"{str(parser.description).rstrip('.')}; with --checkpoint, against torch itself."
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help="compare with the torch model of this checkpoint too"
        + (f" (default: {DEFAULT_CHECKPOINT}, where it is there)" if parser.prog.endswith("bench") else ""),
    )


def verify(parser: argparse.ArgumentParser, typed: Sequence[str]) -> int:
    """Check the hashes and replay the golden vectors; with a checkpoint, compare with torch itself."""
    options = parser.parse_args(typed)
    if options.checkpoint is None:
        return cli.run_verb("verify", typed)
    from edgeae.verification import verify_against_torch

    _leave_output_to(options.json)
    with checking():
        checks, fingerprint = actions.check_bundle(options.bundle, options.provider, options.key, options.timeout)
        checks += verify_against_torch(options.bundle, options.checkpoint, options.provider)
    if fingerprint:
        console.say(text.signature_line(fingerprint))
    tables.show_checks(checks)
    cli.write_report(options.json, verify_document(checks, fingerprint))
    require_parity(checks)
    provider = [] if options.provider == text.DEFAULT_PROVIDER else ["--provider", options.provider]
    console.next_command(command_line("edgeae", "bench", text.here(options.bundle), *provider))
    return OK


def bench(parser: argparse.ArgumentParser, typed: Sequence[str]) -> int:
    """Time the bundle; with the checkpoint it came from, against torch and plain ONNX Runtime."""
    options = parser.parse_args(typed)
    source = options.checkpoint or (DEFAULT_CHECKPOINT if DEFAULT_CHECKPOINT.exists() else None)
    if source is None:
        return cli.run_verb("bench", typed)
    _leave_output_to(options.json)
    batches, threads = actions.bench_cases(options.bundle, options.batch, options.threads)
    earlier = actions.earlier_bench(options.compare)
    from edgeae.benchmark import bench_checkpoint

    with console.StageLog() as stages:
        report = bench_checkpoint(
            options.bundle,
            source,
            parts=options.part,
            batches=batches,
            threads=threads,
            provider=options.provider,
            soak_seconds=options.soak,
            on_progress=stages,
        )
    tables.show_bench(report)
    for line in text.compared_lines(earlier, report) if earlier else ():
        console.say(line)
    cli.write_report(options.json, report)
    console.next_command(command_line("edgeae", "inspect", text.here(options.bundle)))
    return OK


def _leave_output_to(json: str | None) -> None:
    """Standard output is for the JSON alone where it is asked for there."""
    if json == STANDARD_OUTPUT:
        console.use_standard_error()
