"""How results look in a terminal: tables and lines, through rich."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeae_runtime.command.text import check_lines, note_lines
from edgeae_runtime.measure.bench import AGAIN
from edgeae_runtime.terminal import cut, name_of
from rich.markup import escape
from rich.table import Table

from edgeae.command import inspection
from edgeae.command.console import console, heading, plain, say, warn
from edgeae.command.inspection import RewriteDecision, rewrite_decisions, versions

if TYPE_CHECKING:  # these bring torch with them
    from edgeae_export import ExportReport
    from edgeae_runtime.bundle.manifest import Manifest
    from edgeae_runtime.parity import Check

    from edgeae.checkpoint import Checkpoint

_MOST_ROWS = 1000


def show_training(checkpoint: Checkpoint) -> None:
    """The loss after every epoch, beside the floor that nothing can go below.

    A variational autoencoder's KL divergence and total, 500 times the loss plus the KL, are those of the book.
    """
    variational = checkpoint.config.kind == "vae"
    further = ("training\nKL", "validation\nKL", "training\ntotal", "validation\ntotal") if variational else ()
    titles = ("epoch", "training\nloss", "validation\nloss", "entropy\nfloor", *further, "seconds")
    table = _table(*titles, right=titles)
    for record in checkpoint.history:
        losses = (record.train_loss, record.validation_loss, checkpoint.entropy_floor)
        totals = (record.train_kl, record.validation_kl, record.train_total, record.validation_total)
        cells = [f"{loss:.4f}" for loss in losses] + [f"{value:.2f}" for value in totals if variational]
        table.add_row(str(record.epoch), *cells, f"{record.seconds:.1f}")
    console.print(table)
    say(f"Wrote the checkpoint {checkpoint.path}")


def show_export(report: ExportReport) -> None:
    """Operators and sizes before and after, then the parity lines."""
    table = _table("part", "stage", "kB", "operators", right=("kB",))
    for name, part in report.parts.items():
        simplification = part.simplification
        stages = (
            ("traced", simplification.bytes_before, simplification.operators_before),
            ("simplified", simplification.bytes_after, simplification.operators_after),
            (f"{part.compiled.precision}: {part.compiled.plan}", part.bytes, part.operators),
        )
        for stage, size, operators in stages:
            counts = ", ".join(f"{count} {operator}" for operator, count in operators.items())
            table.add_row(name if stage == "traced" else "", stage, f"{size / 1000:,.1f}", counts)
        if simplification.notice:
            say(f"Simplification of the {name} was dropped: {simplification.notice}.")
    for told in report.notices:
        warn(told)
    console.print()
    console.print(table)
    _show_candidates(report)
    heading("Parity with torch")
    show_checks(report.checks)
    if report.verdict:
        first, *further = sentences(report.verdict)
        console.print()
        console.print(f"[bold]{plain(first)}[/bold]", soft_wrap=True)
        for sentence in further:
            say(sentence)


def sentences(text: str) -> list[str]:
    """A text, sentence by sentence: one that begins with a capital or with int8 begins anew."""
    return re.split(r"(?<=\.) (?=[A-Z])", text)


def _show_candidates(report: ExportReport) -> None:
    """What each set of rewrites took, where they were timed; and what stayed in float."""
    for name, part in report.parts.items():
        times = part.compiled.times_us
        if times:
            told = ", ".join(f"{plan} {time / 1e3:.3f} ms" for plan, time in times.items())
            say(f"Timed the {name}, by CPU time: {told}. Took: {part.compiled.plan}.")
        for layer, why in part.compiled.kept.items():
            say(f"In the {name}, {layer} stays in float: {why}.")


def show_checks(checks: Sequence[Check]) -> None:
    """One line per check: tick or cross, measured, limit, place of the worst element."""
    for check, line in zip(checks, check_lines(checks), strict=True):
        colour = "green" if check.passed else "bold red"
        console.print(f"[{colour}]{line[0]}[/{colour}]{plain(line[1:])}", soft_wrap=True)


def show_bench(report: dict[str, Any]) -> None:
    """Latency, throughput and start-up of every variant, then the verdict."""
    machine = report["machine"]
    torch_version = f", torch {machine['torch']}" if "torch" in machine else ""
    say(
        f"{machine['processor']} ({', '.join(machine['instruction_sets'])}), {machine['cores']} cores, "
        f"Python {machine['python']}, ONNX Runtime {machine['onnxruntime']}{torch_version}"
    )
    figures = ("median ms", "±", "p90", "p99", "images/s")
    table = _table("part", "batch", "threads", "variant", *figures, right=("batch", "threads", *figures))
    previous = None
    for row in report["rows"]:
        if row["variant"] == AGAIN:
            continue
        case = (row["part"], row["batch"], row["threads"])
        median, *tail = (f"{row[key] / 1e3:.3f}" for key in ("median_us", "p90_us", "p99_us"))
        repeated = case == previous
        table.add_row(
            *("" if repeated else str(value) for value in case),
            row["variant"],
            median,
            f"{100 * row['noise']:.1f} %",
            *tail,
            f"{row['images_per_second']:,.0f}",
        )
        previous = case
    console.print(table)
    keys = ("import_ms", "load_ms", "first_call_ms", "total_ms", "peak_memory_mib")
    titles = ("import ms", "load ms", "first call ms", "in all ms", "peak MiB")
    starts = _table("first output of", "variant", *titles, right=titles)
    for start in report["cold_start"]:
        starts.add_row(start["part"], start["variant"], *(f"{start[key]:,.1f}" for key in keys))
    console.print()
    console.print(starts)
    console.print()
    for line in note_lines(report):
        say(line)
    if "verdict" in report:
        console.print()
        console.print(f"[bold]{plain(report['verdict'])}[/bold]", soft_wrap=True)


def show_manifest(manifest: Manifest) -> None:
    """What a bundle holds."""
    decisions, quality, made_with = list(rewrite_decisions(manifest)), inspection.quality(manifest), versions(manifest)
    image, latent = (" x ".join(map(str, shape)) for shape in (manifest.image_shape, manifest.latent.shape))
    kind = ", variational" if manifest.latent.prior else ""
    say(f"Images {image}, latents {latent}{kind}")
    layers = [
        (f"{name} ({part.record.bytes:,} bytes)", each) for name, part in manifest.parts.items() for each in part.layers
    ]
    table = _table("part", "layer", "operator", "precision")
    for (title, layer), before in zip(layers[:_MOST_ROWS], [None, *layers], strict=False):
        shown_title = "" if before and before[0] == title else title
        table.add_row(shown_title, cell(layer.name), cell(layer.op), layer.precision)
    console.print(table)
    _say_rest(len(layers), "layers")
    for name, part in manifest.parts.items():
        forms = [f"{each.name} ({each.record.bytes:,} bytes)" for each in part.variants]
        if forms:
            say(f"Variants of the {name}: {', '.join(forms)}")
    _show_rewrites(decisions)
    if quality:
        say(
            f"Mean squared error {quality.mse:.5f}, torch float32 {quality.mse_torch:.5f} ({100 * quality.rise:+.3f} %)"
        )
    say("Made with " + cut(", ".join(f"{name_of(tool)} {name_of(version)}" for tool, version in made_with.items())))


def _show_rewrites(decisions: Sequence[RewriteDecision]) -> None:
    """Which rewrites were applied, to which node, and why others were not."""
    table = _table("part", "rewrite", "node", "", "why", wrap="why")
    for decision, before in zip(decisions[:_MOST_ROWS], [None, *decisions], strict=False):
        title = "" if before and before.part == decision.part else cell(decision.part)
        mark = "[green]✓[/green]" if decision.applied else "–"
        table.add_row(title, cell(decision.rule), cell(decision.node), mark, plain(cut(decision.why)))
    if table.row_count:
        console.print()
        console.print(table)
        _say_rest(len(decisions), "decisions")


def _say_rest(count: int, what: str) -> None:
    if count > _MOST_ROWS:
        say(f"and {count - _MOST_ROWS:,} more {what}, which the manifest lists")


def cell(name: object) -> str:
    """A stranger's name as it may stand in a table."""
    return escape(name_of(name))


def _table(*columns: str, right: Sequence[str] = (), wrap: str = "operators") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=column != wrap)
    return table
