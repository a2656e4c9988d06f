"""What a terminal without rich is shown: results as lines of text, and the exact command to try next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeae_runtime.errors import shown
from edgeae_runtime.measure.bench import AGAIN
from edgeae_runtime.measure.comparison import compare_reports, comparison_lines
from edgeae_runtime.parity import Check
from edgeae_runtime.terminal import MAX_NAME, command_line, cut

DEFAULT_BUNDLE, DEFAULT_PROVIDER = "bundle", "cpu"


def check_lines(checks: Sequence[Check]) -> list[str]:
    """One line per check: tick or cross, measured, limit, place of the worst element."""
    width = max(len(check.what) for check in checks)
    return [
        f"{'✓' if check.passed else '✗'} {check.what:<{width}}  {figure(check.metric, check.measured):>12}"
        f"  limit {figure(check.metric, check.limit):>10}  {cut(shown(check.where), 2 * MAX_NAME)}"
        for check in checks
    ]


def figure(metric: str, value: float) -> str:
    """A figure with its unit."""
    if metric == "psnr_db":
        return f"{value:.1f} dB"
    return f"{100 * value:+.3f} %" if metric == "error_rise" else f"{value:.2e}"


def signature_line(fingerprint: str) -> str:
    """What a good signature means."""
    return f"✓ signed, as it is, by the holder of the key {fingerprint[:16]}…"


def bench_lines(report: dict[str, Any]) -> list[str]:
    """The benchmark as plain text."""
    machine = report["machine"]
    lines = [f"{machine['processor']}, {machine['cores']} cores, ONNX Runtime {machine['onnxruntime']}", ""]
    rows = [row for row in report["rows"] if row["variant"] != AGAIN]
    width = max((2 + len(row["variant"]) for row in rows if row["variant"] != "bundle"), default=0)
    head = f"{'part':<11}{'form':<{width}}" if width else f"{'part':<11}"
    lines.append(head + f"{'batch':>6}{'threads':>9}{'median':>11}{'±':>7}{'p90':>11}{'p99':>11}{'images/s':>11}")
    for row in rows:
        median, *tail = (f"{row[key] / 1e3:>8.3f} ms" for key in ("median_us", "p90_us", "p99_us"))
        form = f"{row['variant']:<{width}}" if width else ""
        cells = f"{row['part']:<11}{form}{row['batch']:>6}{row['threads']:>9}{median}{100 * row['noise']:>5.1f} %"
        lines.append(cells + "".join(tail) + f"{row['images_per_second']:>11,.0f}")
    lines += [
        f"{start['part']}: first output {start['total_ms']:.0f} ms after process start "
        f"(load {start['load_ms']:.1f} ms, first call {start['first_call_ms']:.2f} ms), "
        f"{start['peak_memory_mib']:.0f} MiB resident"
        for start in report["cold_start"]
    ]
    return [*lines, *note_lines(report)]


def tune_lines(report: dict[str, Any]) -> list[str]:
    """What `tune` measured, a line per form and number of threads, and what it chose."""
    width = max(len(row["form"]) for rows in report["measured"].values() for row in rows)
    lines = []
    for part, rows in report["measured"].items():
        chosen = report["parts"][part]
        lines.append(
            f"{part}, {report['unit']}; a form measured twice differs by {100 * report['pair_noise'][part]:.1f} %"
        )
        for row in rows:
            taken = row["form"] == chosen["form"] and row["threads"] == chosen["threads"]
            quality = "" if row["psnr_db"] is None else f"  {row['psnr_db']:.1f} dB"
            lines.append(
                f"{'→' if taken else ' '} {row['form']:<{width}}  {counted(row['threads'], 'thread'):<10}"
                f"{row['median']:>10.1f} ± {100 * row['noise']:.1f} %{quality}"
            )
        lines.append(f"  {chosen['form']}, {counted(chosen['threads'], 'thread')}, from now on")
    return lines


def counted(number: int, what: str) -> str:
    """A number of things."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def note_lines(report: dict[str, Any]) -> list[str]:
    """What a benchmark tells beside times, as plain text: noise, idle CPU, throttling."""
    noise = max(report["pair_noise"].values(), default=0.0)
    lines = [f"noise: one variant timed twice differs by at most {100 * noise:.1f} %"]
    if "idle_cpu" in report:
        lines.append(f"idle: {100 * report['idle_cpu']:.2f} % of one core")
    if "soak" in report:
        soak = report["soak"]
        first, last = soak["windows"][0], soak["windows"][-1]
        told = "slower: this machine throttles" if soak["throttled"] else "as fast: no throttling"
        lines.append(
            f"{soak['case']}: {first['median_us']:.1f} us at first, {last['median_us']:.1f} us after "
            f"{last['seconds']:.0f} s, {told}"
        )
    return lines


def compared_lines(earlier: dict[str, Any], report: dict[str, Any]) -> list[str]:
    """What changed since an earlier benchmark, a line per case."""
    return ["", "Since the earlier benchmark:", *comparison_lines(compare_reports(earlier, report))]


def next_line(verb: str, *words: object, bundle: str | Path = DEFAULT_BUNDLE, provider: str = DEFAULT_PROVIDER) -> str:
    """The exact command to try next, with the bundle and the provider that were typed where they are not the default's.

    Commands that take the bundle as an argument have it among their `words`.
    """
    options: list[object] = [] if str(bundle) == DEFAULT_BUNDLE else ["--bundle", bundle]
    options += [] if provider == DEFAULT_PROVIDER else ["--provider", provider]
    return f"Next: {command_line('edgeae-runtime', verb, *words, *options)}"


def here(path: str | Path) -> str:
    """A path that no command line takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
