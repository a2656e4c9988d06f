"""Write what of docs/ is in the code already: a line per module, and the public names with their docstrings.

    python docs/generate.py [--check]

Nothing is imported that it describes, and it needs nothing but Python. It writes between `<!-- code NAME -->` and
`<!-- end -->`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PACKAGES = {
    "edgeae": ROOT / "edgeae",
    "edgeae_export": ROOT / "export" / "edgeae_export",
    "edgeae_runtime": ROOT / "runtime" / "edgeae_runtime",
}
BESIDE = ("benchmarks", "examples")
PAGES = (DOCS / "architecture.md", DOCS / "api.md")
LONGEST = 120
PLACE = re.compile(r"(<!-- code (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Definition = ast.ClassDef | ast.FunctionDef


# Modules


def modules(package: str) -> Iterator[str]:
    """The folders of a package, each with a line per module."""
    top = PACKAGES.get(package, ROOT / package)
    for folder in [top, *sorted(path for path in top.rglob("*") if path.is_dir())]:
        files = sorted(folder.glob("*.py"))
        if not files or "__pycache__" in folder.parts:
            continue
        yield f"\n### `{folder.relative_to(ROOT).as_posix()}/`\n"
        if (folder / "__init__.py").exists():
            yield f"{first_paragraph(parsed(folder / '__init__.py'))}\n"
        yield "| file | what it is for |\n|---|---|"
        for file in files:
            if file.name != "__init__.py":
                yield f"| `{file.name}` | {first_paragraph(parsed(file)).replace('|', chr(92) + '|')} |"


def parsed(file: Path) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(file.read_text())


def first_paragraph(node: ast.Module | Definition) -> str:
    """The first paragraph of a docstring, on one line."""
    text = ast.get_docstring(node) or ""
    return " ".join(text.split("\n\n")[0].split())


# Public names


def public(package: str) -> Iterator[str]:
    """The names in a package's `__all__`, each with what its docstring says first."""
    init = PACKAGES[package] / "__init__.py"
    for name in exported(init):
        definition = find(init, name)
        yield f"\n### {name}\n\n{signature(definition)}\n\n{first_paragraph(definition)}"
        methods = [] if isinstance(definition, ast.FunctionDef) else list(described_methods(definition))
        if methods:
            yield "\n" + "\n".join(methods)


def exported(init: Path) -> list[str]:
    """A package's `__all__`."""
    for node in parsed(init).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    sys.exit(f"{init} has no __all__.")


def find(file: Path, name: str) -> Definition:
    """Where a name is defined, through the imports that bring it."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
            return find(source_of(node.module), name)
    sys.exit(f"{file} neither defines nor imports {name}.")


def source_of(module: str) -> Path:
    """The file of one of our modules."""
    package, *rest = module.split(".")
    path = PACKAGES[package].joinpath(*rest)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def signature(node: Definition) -> str:
    """How it is called, or for a class what it is derived from, as a block of code."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"```python\nclass {node.name}{f'({bases})' if bases else ''}: ...\n```"
    line = f"def {node.name}{called(node)}: ..."
    if len(line) > LONGEST:
        listed = "".join(f"    {parameter},\n" for parameter in parameters(node.args))
        line = f"def {node.name}(\n{listed}){result(node)}: ..."
    return f"```python\n{line}\n```"


def called(node: ast.FunctionDef) -> str:
    """Parameters and result, on one line."""
    return f"({', '.join(parameters(node.args))}){result(node)}"


def result(node: ast.FunctionDef) -> str:
    """What a function gives."""
    return f" -> {ast.unparse(node.returns)}" if node.returns else ""


def parameters(arguments: ast.arguments) -> list[str]:
    """The parameters as the code's formatter writes them, without self or cls."""
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    told = [parameter(*each) for each in zip(plain, defaults, strict=True) if each[0].arg not in ("self", "cls")]
    if arguments.vararg or arguments.kwonlyargs:
        told.append(f"*{parameter(arguments.vararg, None)}" if arguments.vararg else "*")
    told += [parameter(*each) for each in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return told + ([f"**{parameter(arguments.kwarg, None)}"] if arguments.kwarg else [])


def parameter(argument: ast.arg, default: ast.expr | None) -> str:
    """One parameter."""
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    value = "" if default is None else ast.unparse(default).replace("'", '"')
    return f"{argument.arg}{kind}" + (f" = {value}" if value else "")


def described_methods(node: ast.ClassDef) -> Iterator[str]:
    """A line per public method, property and field."""
    for entry, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(entry, ast.FunctionDef) and not entry.name.startswith("_"):
            decorators = {ast.unparse(decorator) for decorator in entry.decorator_list}
            call = "" if decorators & {"property", "cached_property", "functools.cached_property"} else called(entry)
            yield f"- `{entry.name}{call}`: {first_paragraph(entry)}"
        elif isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and entry.target.id[0] != "_":
            told = f": {' '.join(after.value.value.split())}" if is_text(after) else ""
            yield f"- `{entry.target.id}: {ast.unparse(entry.annotation)}`{told}"


def is_text(node: ast.stmt | None) -> bool:
    """Whether a statement is a string, as what describes a field is."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


# Pages


def written(text: str) -> str:
    """A page with its places filled anew."""
    makers = {"modules": modules, "public": public}
    return PLACE.sub(lambda place: f"{place[1]}{chr(10).join(makers[place[2]](place[3])).strip()}\n{place[4]}", text)


def main() -> None:
    """Write or check."""
    stale = [page for page in PAGES if written(page.read_text()) != page.read_text()]
    if "--check" in sys.argv[1:]:
        if stale:
            named = ", ".join(page.name for page in stale)
            sys.exit(f"{named}: not what the code says; run python docs/generate.py")
        return
    for page in stale:
        page.write_text(written(page.read_text()))


if __name__ == "__main__":
    main()
