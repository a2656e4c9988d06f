"""The structure: arrows point one way, nothing runs in circles, and no folder is a corridor."""

import ast
import importlib
import pkgutil
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "edgeae_runtime": ROOT / "runtime",
    "edgeae_export": ROOT / "export",
    "edgeae": ROOT,
    "benchmarks": ROOT,
    "examples": ROOT,
}
ORDER = ("edgeae_runtime", "edgeae_export", "edgeae", "benchmarks")
"""A package imports those before it."""
MOST_ROOMS = 20


def modules():
    """Every module's file, by its dotted name."""
    found = {}
    for package, base in PACKAGES.items():
        for file in sorted((base / package).rglob("*.py")):
            found[".".join(file.relative_to(base).with_suffix("").parts).removesuffix(".__init__")] = file
    return found


FILES = modules()


def imported(source):
    """The dotted names that a module's text imports, wherever: within functions and for types too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{entry.name}" for entry in node.names)
        elif isinstance(node, ast.Import):
            yield from (entry.name for entry in node.names)


def arrows():
    """From each module to those of ours that it imports."""
    found = defaultdict(set)
    for name, file in FILES.items():
        for full in imported(file.read_text()):
            target = full if full in FILES else full.rpartition(".")[0]
            if target in FILES and target != name:
                found[name].add(target)
    return found


def room(name):
    """A module's place in the house: its wing, or for a file of the package's own, itself."""
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 or FILES[name].name == "__init__.py" else name


def between_rooms(edges):
    found = defaultdict(set)
    for name, targets in edges.items():
        found[room(name)] |= {room(target) for target in targets} - {room(name)}
    return found


def circle(edges):
    """One circle, as the names on it; empty where there is none."""
    done = set()

    def follow(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges.get(name, ())):
            if found := follow(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := follow(name, []))), [])


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_modules_and_no_wings_import_each_other_in_a_circle():
    edges = arrows()
    assert len(edges) > 100
    assert circle(edges) == []
    assert circle(between_rooms(edges)) == []


def test_packages_import_one_way():
    back = [
        f"{name} -> {target}"
        for name, targets in arrows().items()
        for target in targets
        if name.split(".")[0] in ORDER
        and (target.split(".")[0] not in ORDER or ORDER.index(target.split(".")[0]) > ORDER.index(name.split(".")[0]))
    ]
    assert back == []


def test_every_folder_says_what_it_is_for_and_has_few_rooms():
    for folder in sorted({file.parent for name, file in FILES.items() if not name.startswith("examples")}):
        rooms = [each for each in folder.iterdir() if each.suffix == ".py" or (each / "__init__.py").is_file()]
        assert len(rooms) <= MOST_ROOMS, f"{folder} has {len(rooms)} rooms"
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


@pytest.mark.parametrize("package", ["edgeae_runtime", "edgeae_export", "edgeae"])
def test_no_name_hides_a_module(package):
    """`from edgeae_export.rewrites import subpixel` must not be a function where there is a module of that name."""
    for name, file in FILES.items():
        if name.split(".")[0] == package and file.name == "__init__.py":
            folder = importlib.import_module(name)
            for child in pkgutil.iter_modules([str(file.parent)]):
                value = getattr(folder, child.name, None)
                hidden = f"{name}.{child.name} is {value!r}, which hides the module"
                assert value is None or getattr(value, "__name__", "") == f"{name}.{child.name}", hidden
