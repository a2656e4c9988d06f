"""Write the tables of the README and the documents, and the plots, from the results: no figure is copied by hand.

    python -m benchmarks.render [--check]

Each table stands between `<!-- table NAME -->` and `<!-- end -->`, on as many pages as want it; `--check` only says
whether they agree, and needs nothing but Python.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable

from benchmarks.arm_instructions.table import arm_table
from benchmarks.results import EXACT_DB, PICTURES, ROOT, Report, latencies, read_result
from benchmarks.zoo.table import zoo_table

PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
OURS, PLAIN, STATIC = "edgeae int8", "ONNX Runtime float32", "ONNX Runtime quantize_static"
SHOWN = {
    "torch eager": "torch eager",
    PLAIN: "plain ONNX Runtime float32, as torch exports it",
    STATIC: "ONNX Runtime's own int8 (`quantize_static`)",
    "edgeae float32": "**edgeae float32**",
    OURS: "**edgeae int8**",
}
FAITHFUL_DB = 30
"""Below this an int8 image visibly differs."""
CASES = (("encoder", 1), ("encoder", 64), ("decoder", 1), ("decoder", 64), ("round-trip", 1), ("round-trip", 64))


def peers_table(report: Report) -> list[str]:
    """The decoder on one thread at batch 1: what it replaces (1.0x), the best faithful rival, and this project."""
    rows = latencies(report, "decoder", 1, 1)
    variants = {variant["variant"]: variant for variant in report["variants"]}
    rivals = [name for name in rows if name not in SHOWN and variants[name]["psnr_db"] >= FAITHFUL_DB]
    best = min(rivals, key=lambda name: rows[name]["median_us"])
    shown = dict(list(SHOWN.items())[:3]) | {best: f"{best}: the fastest peer"} | dict(list(SHOWN.items())[3:])
    lines = [
        "| decoder, batch 1, one thread | speed-up over plain ONNX Runtime | time | file | PSNR | round-trip error |",
        "|---|---|---|---|---|---|",
    ]
    for name, title in shown.items():
        variant, time = variants[name], rows[name]["median_us"]
        lines.append(
            f"| {title} | {rows[PLAIN]['median_us'] / time:.1f}x | {time / 1e3:.3f} ms "
            f"| {variant['bytes']['decoder'] / 1000:.0f} kB | {fidelity(variant)} | {rise(variant)} |"
        )
    return lines


def ratios_table(report: Report) -> list[str]:
    """Every peer's time over edgeae int8's, on one thread: above one, edgeae is faster."""
    head = " | ".join(f"{part} {batch}" for part, batch in CASES)
    lines = [
        f"| time over edgeae int8's | {head} | decoder file | PSNR | error | start-up | memory |",
        "|---" * (len(CASES) + 6) + "|",
    ]
    starts = {start["variant"]: start for start in report["cold_start"]}
    for variant in report["variants"]:
        name = variant["variant"]
        cells = [ratio_cell(report, name, part, batch) for part, batch in CASES]
        start = starts.get(name)
        told = [f"{start['total_ms']:.0f} ms", f"{start['peak_memory_mib']:.0f} MiB"] if start else ["", ""]
        cells.append(f"{variant['bytes']['decoder'] / 1000:.0f} kB")
        title = f"**{name}**" if name.startswith("edgeae") else name
        lines.append(f"| {title} | " + " | ".join([*cells, fidelity(variant), rise(variant), *told]) + " |")
    return [*lines, "", noise_line(report), *fewer_lines(report), *absent_lines(report)]


def noise_line(report: Report) -> str:
    """What one variant differed from itself by."""
    pairs = report["pair_noise"]
    one = max(noise for case, noise in pairs.items() if case.endswith(" 1 thread"))
    return (
        f"The same variant under two names (the A/A pair) differed by at most {100 * one:.1f} % on one thread and "
        f"{100 * max(pairs.values()):.1f} % on several."
    )


def fewer_lines(report: Report) -> list[str]:
    """Peers too slow for their fidelity to be measured over the whole test set."""
    fewer = [each for each in report["variants"] if each["fidelity_images"] < report["test_images"]]
    return [f"Fidelity of {each['variant']}: over {each['fidelity_images']} images." for each in fewer]


def absent_lines(report: Report) -> list[str]:
    """Peers that did not take part, and why."""
    whole = [each for each in report["absent"] if "," not in each["variant"]]
    return [f"Absent: {each['variant']} ({each['reason']})." for each in whole]


def ratio_cell(report: Report, name: str, part: str, batch: int) -> str:
    """One ratio, `tie` inside the noise, bold where the peer wins."""
    rows = latencies(report, part, batch, 1)
    if name not in rows:
        return (
            "too slow" if any(f"{name}, {part}, batch {batch}," in each["variant"] for each in report["absent"]) else ""
        )
    ratio = rows[name]["median_us"] / rows[OURS]["median_us"]
    pair = report["pair_noise"].get(f"{part}, batch {batch}, 1 thread", 0.0)
    noise = rows[name]["noise"] + rows[OURS]["noise"] + pair
    if name == OURS:
        return f"{rows[OURS]['median_us'] / 1e3:.3f} ms"
    if max(ratio, 1 / ratio) <= 1 + noise:
        return "tie"
    return f"{ratio:.1f}" if ratio > 1 else f"**{ratio:.2f}**"


def fidelity(variant: Report) -> str:
    """PSNR of the decoder against torch float32."""
    return "exact" if variant["psnr_db"] >= EXACT_DB else f"{variant['psnr_db']:.1f} dB"


def rise(variant: Report) -> str:
    """Rise of the round trip's reconstruction error."""
    return (
        ""
        if variant["psnr_db"] >= EXACT_DB and abs(variant["error_rise"]) < 1e-5
        else f"{100 * variant['error_rise']:+.2f} %"
    )


SWEEPS = {
    "size, grey": "images of 32x32 to 256x256, grey",
    "size, RGB": "images of 32x32 to 256x256, RGB",
    "width": "widths of a half to double, in macs",
    "latent": "latents of 2 to 256 dimensions",
    "batch": "batches of 1 to 256 images",
}


def scaling_table(report: Report) -> list[str]:
    """How time grows along each sweep; at its largest point the time, what of the peak is used, and the memory."""
    titles = {"plain float32": "plain float32", "float32": "edgeae float32", "int8": "edgeae int8"}
    lines = [
        "| one thread | " + " | ".join(titles.values()) + " |",
        "|---" * (len(titles) + 1) + "|",
    ]
    for sweep, title in SWEEPS.items():
        cells = []
        for variant in titles:
            fit = report["fits"][f"{sweep}: {variant}"]
            share = [f"{100 * fit[f'fraction_of_{limit}']:.0f} % of {limit}" for limit in ("peak", "bandwidth")]
            time, memory = milliseconds(fit["largest_us"]), f"{fit['largest_mib']:.0f} MiB"
            cells.append(f"x^{fit['exponent']:.2f} to {time}: {', '.join([*share, memory])}")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def milliseconds(us: float) -> str:
    """Three digits at most."""
    return f"{us / 1e3:.{2 if us < 1e4 else 0}f} ms"


def others_table(report: Report) -> list[str]:
    """Other decoders against their plain float32 export."""
    lines = [
        "| decoder | plain, batch 1 | edgeae float32 | edgeae int8, batch 1 / 8 / 64 | PSNR | size |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        times = row["median_us"]
        first = times["1"]
        speed = " / ".join(f"{each['plain float32'] / each['int8']:.1f}x" for each in times.values())
        size = 100 * row["bytes"]["int8"] / row["bytes"]["plain float32"]
        plain = first["plain float32"]
        cells = [row["decoder"], f"{plain / 1e3:.2f} ms", f"{plain / first['float32']:.2f}x", speed]
        lines.append("| " + " | ".join([*cells, f"{row['psnr_db']:.1f} dB", f"{size:.0f} %"]) + " |")
    return lines


def own_models_table(report: Report) -> list[str]:
    """Other people's architectures: parity, int8's fidelity, speed-ups over plain float32, what stayed in float."""
    lines = [
        "| model | latent | float32 parity, of its limit | int8 PSNR, error | encoder: float32, int8 "
        "| decoder: float32, int8 | in int8 | kept in float |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        latent = "x".join(map(str, row["latent"]))
        parity = f"{row['float32_max_abs']:.0e} of {row['float32_limit']:.0e}"
        quality = f"{row['int8_psnr_db']:.1f} dB, {100 * row['int8_error_rise']:+.2f} %"
        speed = [", ".join(speed_up(row["speed"][part][name]) for name in ("float32", "int8")) for part in row["speed"]]
        layers = ", ".join(f"{done} of {all_}" for done, all_ in row["in_int8"].values())
        lines.append(
            f"| {row['model']} | {latent} | {parity} | {quality} | {' | '.join(speed)} | {layers} | {reasons(row)} |"
        )
    return lines


def speed_up(found: Report) -> str:
    """A ratio; what the noise allows is a tie; bold where plain ONNX Runtime wins."""
    if not found["real"]:
        return "tie"
    return f"{found['speed_up']:.1f}x" if found["speed_up"] > 1 else f"**{found['speed_up']:.2f}x**"


def reasons(row: Report) -> str:
    """Why layers stayed in float32, with how many layers each reason holds."""
    told = [reason for kept in row["kept_in_float"].values() for reason in kept.values()]
    return "; ".join(f"{told.count(reason)}: {reason}" for reason in dict.fromkeys(told))


TABLES: dict[str, tuple[str, Callable[[Report], list[str]]]] = {
    "decoder": ("peers", peers_table),
    "peers": ("peers", ratios_table),
    "scaling": ("scaling", scaling_table),
    "other_decoders": ("other_decoders", others_table),
    "other_models": ("other_models", own_models_table),
    "zoo": ("zoo", zoo_table),
    "arm_instructions": ("arm_instructions", arm_table),
}
"""Per place on a page, the result it is made of and how."""
PLACE = re.compile(r"(<!-- table (\w+) -->\n).*?(\n?<!-- end -->)", re.DOTALL)


def rendered(text: str) -> str:
    """A page with its tables written anew."""

    def table(place: re.Match[str]) -> str:
        if place[2] not in TABLES:
            raise SystemExit(f"There is no table {place[2]}; there are {', '.join(TABLES)}.")
        result, make = TABLES[place[2]]
        return f"{place[1]}{chr(10).join(make(read_result(result)))}\n<!-- end -->"

    return PLACE.sub(table, text)


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    pages = {page: page.read_text() for page in PAGES}
    missing = TABLES.keys() - {place[2] for text in pages.values() for place in PLACE.finditer(text)}
    if missing:
        sys.exit(f"No page has a place for the table {', '.join(sorted(missing))}.")
    if options.check:
        stale = [page.name for page, text in pages.items() if rendered(text) != text]
        if stale:
            sys.exit(f"{', '.join(stale)}: not the figures of benchmarks/results; run python -m benchmarks.render")
        return
    for page, text in pages.items():
        page.write_text(rendered(text))
    from benchmarks.plots import draw_all

    draw_all(PICTURES)


if __name__ == "__main__":
    main()
