"""The table of instructions, from its result; like all of rendering, with nothing but Python."""

from __future__ import annotations

from benchmarks.results import Report


def arm_table(report: Report) -> list[str]:
    """Per model, part and form: instructions, multiplications among them, and the least cycles, on each board."""
    boards = list(dict.fromkeys(row["board"] for row in report["rows"]))
    cells = {(row["model"], row["part"], row["form"], row["board"]): row for row in report["rows"]}
    lines = [
        "| model | part | form | "
        + " | ".join(f"{board}: million instructions, products, cycles" for board in boards)
        + " |",
        "|---" * (3 + len(boards)) + "|",
    ]
    last = ("", "")
    for model, part, form in dict.fromkeys(key[:3] for key in cells):
        told = [_cell(cells[model, part, form, board]) for board in boards]
        lines.append(f"| {'' if model == last[0] else model} | {'' if (model, part) == last else part} | {form} | ")
        lines[-1] += " | ".join(told) + " |"
        last = (model, part)
    return lines


def _cell(row: Report) -> str:
    return ", ".join(f"{row[key] / 1e6:.2f}" for key in ("instructions", "products", "least_cycles"))
