"""The README and the pages of docs/: figures are those of the results, links lead somewhere, commands are commands."""

import ast
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import edgeae_export
import edgeae_runtime
import pytest
import typer.main
from edgeae_runtime.command.cli import verb_parsers

import edgeae
from edgeae.command.app import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
RENDERED = [README, DOCS / "benchmarks.md"]
TABLE = re.compile(r"<!-- table (\w+) -->")


def name(page):
    return page.relative_to(ROOT).as_posix()


def prose(page):
    """A page without its blocks of code, in which nothing is a link or a heading."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


# Tables


def check(folder):
    command = [sys.executable, "-m", "benchmarks.render", "--check"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode


@pytest.fixture
def copy(tmp_path):
    """What the check reads, in a folder of its own."""
    (tmp_path / "benchmarks").mkdir()
    for part in ("__init__.py", "render.py", "results.py", "results", "zoo", "arm_instructions"):
        (tmp_path / "benchmarks" / part).symlink_to(ROOT / "benchmarks" / part)
    (tmp_path / "docs").mkdir()
    for page in RENDERED:
        shutil.copy(page, tmp_path / name(page))
    return tmp_path


def test_the_tables_are_generated(copy):
    assert check(ROOT) == 0
    assert check(copy) == 0


@pytest.mark.parametrize(
    ("page", "table"), [(page, table) for page in RENDERED for table in TABLE.findall(page.read_text())], ids=str
)
def test_a_figure_changed_by_hand_is_found(copy, page, table):
    text = page.read_text()
    figure = re.compile(r"\d+\.\d").search(text, text.index(f"<!-- table {table} -->"))
    (copy / name(page)).write_text(f"{text[: figure.start()]}9{text[figure.start() :]}")
    assert check(copy) != 0


def test_a_table_that_no_page_shows_is_missed(copy):
    page = copy / "docs" / "benchmarks.md"
    page.write_text(page.read_text().replace("<!-- table zoo -->", ""))
    assert check(copy) != 0


def test_the_result_has_no_table_written_by_hand():
    for page in PAGES:
        assert page in RENDERED or not TABLE.search(page.read_text()), page


# The door


def test_the_readme_is_a_door():
    assert len(README.read_text().split()) <= 900
    assert all(f"(docs/{page.name})" in README.read_text() for page in DOCS.glob("*.md")), "each page is linked to"


# Links


def anchors(page):
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    }


def links(page):
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link
        if page.parent == DOCS:
            assert target.is_relative_to(DOCS), f"{link}: the site holds nothing from outside docs"
        if target.suffix == ".png":
            assert target.stat().st_size < 500_000, link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_is_named_is_there(page):
    """Files of the project in back quotes, by their path from its root."""
    top = "|".join(("benchmarks", "docs", "edgeae", "examples", "export", "runtime", "tests"))
    for path in re.findall(rf"`((?:{top})/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists(), path


# Commands


def blocks(language):
    """The blocks of code of every page, with where they stand."""
    for page in PAGES:
        for block in re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
            yield page, block


COMMANDS = [
    (name(page), line)
    for page, block in blocks("")
    for line in block.replace("\\\n", " ").splitlines()
    if re.match(r"(\.venv/bin/)?(edgeae|edgeae-runtime|python -m edgeae|torchrun) ", line)
]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_is_one(page, line):
    """The programs' own parsers take it; nothing is run."""
    words = shlex.split(line, comments=True)
    program = Path(words[0]).name
    if program == "torchrun":
        program, *words = words[words.index("-m") + 1 :]
    else:
        words = words[1:]
    if program == "edgeae-runtime":
        verb_parsers()[words[0]].parse_args(words[1:])
        return
    typer.main.get_command(app).commands[words[0]].make_context(words[0], words[1:])
    if words[0] in verb_parsers() and "--checkpoint" not in words:  # handed on as it was typed
        verb_parsers()[words[0]].parse_args(words[1:])


def test_enough_commands_were_found():
    assert len(COMMANDS) > 40


def test_every_program_compiles_and_every_document_is_json():
    for page, block in blocks("python"):
        compile(block, name(page), "exec")
    for _, block in blocks("json"):
        json.loads(block)


def test_make_has_every_target_that_is_named():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"^make ([a-z0-9-]+)|`make ([a-z0-9-]+)`", page.read_text(), re.MULTILINE):
            assert (target[0] or target[1]) in targets, (page, target)


def callables():
    """What the pages' programs call, by the name it has there."""
    autoencoder = edgeae_runtime.Autoencoder
    packages = {"edgeae": edgeae, "edgeae_export": edgeae_export, "edgeae_runtime": edgeae_runtime}
    for package in packages.values():
        for public in package.__all__:
            yield public, getattr(package, public)
            yield f"{package.__name__}.{public}", getattr(package, public)
    for public in dir(autoencoder):
        if not public.startswith("_"):
            yield f"Autoencoder.{public}", getattr(autoencoder, public)


def test_what_a_program_calls_takes_what_it_gives():
    known, seen = dict(callables()), 0
    named = re.compile(r"`((?:edgeae_export|Autoencoder|load)\b[^`]*\(.*?\))`")
    inside = [call for page in PAGES for call in named.findall(page.read_text()) if "->" not in call]
    for source in [*inside, *(block for page, block in blocks("python") if page.name != "add-a-rewrite.md")]:
        source = re.sub(r"^load\(", "Autoencoder.load(", source).replace("…", "'bundle'").replace("(...", "('bundle'")
        for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
            target = ast.unparse(call.func)
            method = target.startswith("autoencoder.")
            target = target.replace("autoencoder.", "Autoencoder.")
            if re.match(r"(edgeae|Autoencoder\.|OwnModel$|Int8$)", target):
                given = [None] * method + call.args
                inspect.signature(known[target]).bind(*given, **{keyword.arg: None for keyword in call.keywords})
                seen += 1
    assert seen > 10
