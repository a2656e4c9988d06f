"""The tables of the zoo, from its result; like all of rendering, with nothing but Python."""

from __future__ import annotations

from benchmarks.results import EXACT_DB, Report

TIE = 0.02
"""Least difference that counts: the width to which the rounds measure (`PRECISION` of the runtime's timing)."""
PLAIN, STATIC = "plain", "quantize_static"
EDGEAE = ("edgeae float32", "edgeae int8", "edgeae auto")
"""The forms that are ours, in the zoo's result; the last may be missing."""


def zoo_table(report: Report) -> list[str]:
    """Trained models of other people, part by part: every form's speed-up over plain, PSNR, size and task error."""
    measured = {name for row in report["rows"] for name in row["round_trips"]}
    refused = {name for row in report["rows"] for name in row["refused"]}
    others = sorted(measured - {PLAIN, STATIC, *EDGEAE})
    forms = [STATIC, *others, *(name for name in EDGEAE if name in measured | refused)]
    heads = [f"`{name}`" if name == STATIC else name for name in forms]
    lines = [
        f"| model | part | plain | {' | '.join(heads)} | kB: plain, `quantize_static`, int8 | int8 layers |",
        "|---" * (len(forms) + 5) + "|",
    ]
    for row in report["rows"]:
        for part, found in row["parts"].items():
            made = found["forms"]
            cells = [zoo_cell(found, name) if name in made else "refused" for name in forms]
            size = [f"{made[name]['bytes'] / 1000:.0f}" for name in (PLAIN, STATIC, EDGEAE[1]) if name in made]
            layers = "{} of {}".format(*made[EDGEAE[1]]["in_int8"]) if EDGEAE[1] in made else ""
            told = [row["model"] if part == "encoder" else "", part, f"{made[PLAIN]['median_us'] / 1e3:.3f} ms", *cells]
            lines.append("| " + " | ".join([*told, ", ".join(size), layers]) + " |")
    return [*lines, "", *zoo_errors(report, forms), "", *zoo_origins(report), *zoo_refusals(report)]


def zoo_cell(found: Report, name: str) -> str:
    """Speed-up over plain and PSNR; bold where ours is slower than the faster of plain and `quantize_static`."""
    made = found["forms"]
    form, plain = made[name], made[PLAIN]
    best = min((plain, made[STATIC]), key=lambda each: each["median_us"])
    noise = max(form["noise"] + best["noise"] + found["pair_noise"], TIE)
    slower = form["median_us"] / best["median_us"] > 1 + noise
    speed = f"{plain['median_us'] / form['median_us']:.2f}x"
    told = f"**{speed}**" if slower and name in EDGEAE else speed
    return told if form["psnr_db"] >= EXACT_DB else f"{told}, {form['psnr_db']:.1f} dB"


def zoo_errors(report: Report, forms: list[str]) -> list[str]:
    """What the whole round trip costs on the task: the rise of the squared error to the input, of what is not exact."""
    lines = [
        "| error of the round trip | inputs held out | torch | of the mean input's | "
        + " | ".join(f"`{name}`" if name == STATIC else name for name in forms)
        + " |",
        "|---" * (len(forms) + 4) + "|",
    ]
    for row in report["rows"]:
        torch, trips = row["error_of_torch"], row["round_trips"]
        cells = [
            f"{round(100 * (trips[name]['error'] / torch - 1), 2) + 0.0:+.2f} %" if name in trips else "refused"
            for name in forms
        ]
        share = f"{torch / row['error_of_the_mean_input']:.2f}"
        told = [row["model"], f"{row['held_out_inputs']}: {row['inputs']}", f"{torch:.3g}", share]
        lines.append("| " + " | ".join([*told, *cells]) + " |")
    return lines


def zoo_origins(report: Report) -> list[str]:
    """Whose weights these are."""
    told = [f"{row['model']}: {row['origin']} ({row['licence']})" for row in report["rows"]]
    processor = report["machine"]["processor"]
    flags = ", ".join(flag for flag in ("avx512_vnni", "avx_vnni", "amx_int8") if has(report, flag))
    return [f"Weights: {'; '.join(told)}. Measured on {processor} ({flags or 'no int8 instructions'})."]


def has(report: Report, flag: str) -> bool:
    """Whether the machine of a result has an instruction set."""
    return flag in report["machine"]["instruction_sets"]


def zoo_refusals(report: Report) -> list[str]:
    """What could not be exported, and why."""
    return [
        f"{row['model']}, {name}: refused. {' '.join(reason.split())}"
        for row in report["rows"]
        for name, reason in row["refused"].items()
    ]
