"""Which form of each part, and how many threads, a bundle is best with on this machine: measured, and kept beside it.

The exporter's machine is not this one. A bundle may carry several forms of a part, which compute the same, and a tiny
model is often fastest on one thread: handing work to a second costs more than the work. `tune` times them in turns, has
the best ones pass their golden vectors here, and writes `tuning.json`, which `edgeae_runtime.bundle.tuning` reads.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgeae_runtime.autoencoder import Autoencoder
from edgeae_runtime.bundle.reader import open_bundle
from edgeae_runtime.bundle.tuning import TUNING_FILE, Choice, tuning_document
from edgeae_runtime.errors import InputError, ParityError
from edgeae_runtime.files.documents import json_bytes
from edgeae_runtime.files.writing import write_atomically
from edgeae_runtime.machine import usable_cores
from edgeae_runtime.measure.bench import Case, bench_inputs, bundle_runs
from edgeae_runtime.measure.cold_start import bundle_command, measure_memory
from edgeae_runtime.measure.timing import METHOD, Latency, compared, interleave
from edgeae_runtime.replay import form_passes, round_trip_passes

if TYPE_CHECKING:
    from pathlib import Path

    from edgeae_runtime.bundle.parts import Part
    from edgeae_runtime.bundle.reader import Bundle

Objective = Literal["latency", "throughput", "memory"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
BATCH: dict[Objective, int] = {"latency": 1, "throughput": 64, "memory": 1}
"""Images per call of what is measured."""
WORTHWHILE = 0.9
"""A further thread must bring the time of a call below this share: it takes a core from everybody else."""


@dataclass(frozen=True)
class Measured:
    """One form of a part with one number of threads."""

    choice: Choice
    cost: float
    """Less is better: microseconds of a call, or MiB."""
    noise: float
    """Of the cost, relative."""

    def beats(self, other: Measured, pair: float) -> bool:
        """Whether it is cheaper by more than the noise of both and of their A/A pair."""
        return other.cost / self.cost > 1 + self.noise + other.noise + pair


def tune(
    path: str | Path,
    provider: str = "cpu",
    *,
    objective: str = "latency",
    min_psnr_db: float | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure every form of each part with every sensible thread count, keep the best, and return what was measured.

    Args:
        path: the bundle's folder.
        provider: where it runs.
        objective: what to choose by: `"latency"`, the median time of one image; `"throughput"`, that of 64 at once; or
            `"memory"`, the most that a fresh process ever had resident, on one thread.
        min_psnr_db: forms whose recorded PSNR against torch is lower, or not recorded, are left out.
        on_progress: told what is measured next.

    Raises:
        InputError: another objective, or no form of a part has such a PSNR.
        BundleError, ProviderError: the bundle cannot be run.
        ParityError: not even the parts themselves pass their golden vectors here.
        OSError: the folder cannot be written.
    """
    tell = on_progress or (lambda what: None)
    if objective not in OBJECTIVES:
        raise InputError(f"Got objective={objective!r}, expected one of {', '.join(OBJECTIVES)}.")
    if min_psnr_db is not None and not math.isfinite(min_psnr_db):
        raise InputError(f"Got min_psnr_db={min_psnr_db!r}, expected a number of dB.")
    bundle = open_bundle(path)
    forms = {name: _usable(bundle, name, part, min_psnr_db) for name, part in bundle.manifest.parts.items()}
    measured, pairs = {}, {}
    for name, names in forms.items():
        tell(f"measure {len(names)} form{'s' if len(names) > 1 else ''} of the {name}")
        measure = _memory if objective == "memory" else functools.partial(_times, batch=BATCH[objective])
        measured[name], pairs[name] = measure(bundle, name, names, provider)
    tell("verify the golden vectors")
    choices = _verified(bundle, provider, {name: ranked(each, pairs[name]) for name, each in measured.items()})
    document = tuning_document(bundle, provider, choices) | {
        "objective": objective,
        "min_psnr_db": min_psnr_db,
        "unit": "MiB" if objective == "memory" else f"us per call of {BATCH[objective]}",
        "method": "medians of fresh processes" if objective == "memory" else METHOD,
        "pair_noise": {name: round(noise, 4) for name, noise in pairs.items()},
        "measured": {name: [_row(bundle.manifest.parts[name], row) for row in rows] for name, rows in measured.items()},
    }
    raw = json_bytes(document)
    place = bundle.path / TUNING_FILE
    if place.is_symlink():  # a stranger's bundle must not choose which file is written
        place.unlink()
    write_atomically(place, lambda file: file.write(raw))
    return document


def ranked(measured: Sequence[Measured], pair: float) -> list[Measured]:
    """One entry per form, each with its best thread count, the best form first.

    The first form of the list stays unless another really beats it: a tie is decided for it, and for fewer threads.
    """
    best: dict[str, Measured] = {}
    for each in sorted(measured, key=lambda each: each.choice.threads):
        known = best.get(each.choice.form)
        if known is None or (each.cost < WORTHWHILE * known.cost and each.beats(known, pair)):
            best[each.choice.form] = each
    first, *others = (best[form] for form in dict.fromkeys(each.choice.form for each in measured))
    order = sorted(others, key=lambda each: each.cost)
    faster = [each for each in order if _better(each, first, pair)]
    return [*faster, first, *(each for each in order if each not in faster)]


def _better(one: Measured, other: Measured, pair: float) -> bool:
    """Whether a form replaces another: beyond the noise, and with more threads only where these are worth it."""
    more = one.choice.threads > other.choice.threads
    return one.beats(other, pair) and (not more or one.cost < WORTHWHILE * other.cost)


def _usable(bundle: Bundle, name: str, part: Part, min_psnr_db: float | None) -> list[str]:
    """The forms that are there, the part itself first, but for those of a lower PSNR.

    Raises:
        InputError: none is left.
    """
    usable = {form: part.form(form) for form in bundle.forms(name)}
    if min_psnr_db is None:
        return list(usable)
    good = [form for form, each in usable.items() if each.psnr_db is not None and each.psnr_db >= min_psnr_db]
    if not good:
        told = ", ".join(f"{form} {each.psnr_db:.1f}" for form, each in usable.items() if each.psnr_db is not None)
        raise InputError(
            f"No form of the {name} has a recorded PSNR of {min_psnr_db:g} dB; it has {told or 'none recorded'}. Ask "
            "for less with --min-psnr, or export a bundle with better forms (edgeae export --variants --max-drop …)."
        )
    return good


def _times(bundle: Bundle, name: str, forms: Sequence[str], provider: str, batch: int) -> tuple[list[Measured], float]:
    """Times of a call, all forms and thread counts in turns, and the noise of an A/A pair."""
    manifest, cores = bundle.manifest, usable_cores()
    counts = sorted({1, 2, 4, cores} & set(range(1, cores + 1)))
    inputs = bench_inputs(manifest)(Case(name, batch, 1))
    choices = {f"{form}, {count}": Choice(form, count) for form in forms for count in counts}
    calls: dict[str, Callable[[], object]] = {}
    for key, choice in choices.items():
        loaded = Autoencoder.from_bundle(
            bundle, provider, parts=name, threads=choice.threads, variants={name: choice.form}
        )
        calls[key] = functools.partial(bundle_runs(loaded)[name], inputs)
    first = next(iter(calls))
    calls["again"] = calls[first]
    latency: Mapping[str, Latency] = interleave(calls)
    ratio = compared(latency[first], latency["again"]).ratio
    rows = [Measured(choice, latency[key].median_us, latency[key].noise) for key, choice in choices.items()]
    return rows, max(ratio, 1 / ratio) - 1


def _memory(bundle: Bundle, name: str, forms: Sequence[str], provider: str) -> tuple[list[Measured], float]:
    """The most memory that a fresh process has, per form, on one thread; the first form twice, for the noise."""
    rows = []
    for form in [*forms, forms[0]]:
        median, noise = measure_memory(bundle_command(bundle.path, name, provider, form))
        rows.append(Measured(Choice(form, 1), median, noise))
    again = rows.pop()
    return rows, abs(again.cost / rows[0].cost - 1)


def _verified(bundle: Bundle, provider: str, ranking: Mapping[str, Sequence[Measured]]) -> dict[str, Choice]:
    """The best form of each part that passes its golden vectors here, alone and with the other's.

    Raises:
        ParityError: none does.
    """
    golden = bundle.read_golden()
    passing = {
        name: [row.choice for row in rows if form_passes(bundle, golden, provider, name, row.choice)]
        for name, rows in ranking.items()
    }
    for combination in itertools.product(*passing.values()):  # the best ones first, and nearly always these
        choices = dict(zip(passing, combination, strict=True))
        if round_trip_passes(bundle, golden, provider, choices):
            return choices
    alone = next((f"form of the {name} computes" for name, each in passing.items() if not each), "two forms compute")
    raise ParityError(
        f"No {alone} here what the torch model did, so none was kept. See which checks fail: edgeae-runtime verify."
    )


def _row(part: Part, row: Measured) -> dict[str, Any]:
    form = part.form(row.choice.form)
    return {
        "form": row.choice.form,
        "threads": row.choice.threads,
        "precision": form.precision,
        "median": round(row.cost, 2),
        "noise": round(row.noise, 4),
        "psnr_db": form.psnr_db,
    }
