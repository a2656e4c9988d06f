"""`edgeae` with what strangers wrote, and the ends of its commands where rich and typer have their own."""

import copy
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from edgeae_runtime import BundleError, EdgeAEError
from edgeae_runtime.bundle.manifest import parse_manifest
from edgeae_runtime.command import cli as runtime

from edgeae.command import app, tables

BUNDLE = Path(__file__).parent.parent.parent / "examples" / "bundle"
DOCUMENT = json.loads((BUNDLE / "manifest.json").read_text())
HOSTILE = (
    "[/x]",
    "conv[/red]x",
    "[link=https://example.org]here[/link]",
    "[bold",
    "\\",
    "[\\",
    "\x1b[2J\x07",
    "\u202e",
    "✗",
)


@pytest.fixture
def run(run_program):
    """`edgeae` in a process of its own, whose output comes as bytes."""

    def run(*arguments, shell=None, **environment):
        return run_program("edgeae", *arguments, shell=shell, text=False, environment=environment)

    return run


def inspected(document, capsys):
    tables.show_manifest(parse_manifest(json.dumps(document).encode()))
    return capsys.readouterr().out


def strings(value, path=()):
    """The place of every string of a document."""
    if isinstance(value, str):
        yield path
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from strings(entry, (*path, key))


def changed(path, value):
    document = copy.deepcopy(DOCUMENT)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_strangers_text_is_markup_or_steers_the_terminal(text, capsys):
    shown = 0
    for path in strings(DOCUMENT):
        try:
            told = inspected(changed(path, text * 2), capsys)
        except BundleError:
            continue
        shown += 1
        assert all(c.isprintable() or c == "\n" for c in told)
    assert shown > 50, "most strings of a manifest are free"
    layer = inspected(changed(("parts", "encoder", "layers", 0, "name"), "conv[/red]x"), capsys)
    assert "conv[/red]x" in layer


def test_long_names_and_long_lists_are_cut(capsys):
    document = changed(("parts", "encoder", "layers", 0, "name"), "n" * 1_000_000)
    assert len(inspected(document, capsys)) < 20_000
    layer = DOCUMENT["parts"]["encoder"]["layers"][0]
    told = inspected(changed(("parts", "encoder", "layers"), [layer] * 20_000), capsys)
    assert "more layers" in told
    assert told.count("\n") < 1_200


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("quality",), 3),
        (("quality",), []),
        (("quality", "reconstruction_mse"), "x"),
        (("quality", "reconstruction_mse"), True),
        (("quality", "reconstruction_mse"), 10**400),
        (("versions",), ["edgeae"]),
        (("versions", "edgeae"), 1),
        (("parts", "encoder", "plan"), {}),
        (("parts", "encoder", "rewrites"), {}),
        (("parts", "decoder", "rewrites", 0), "x"),
        (("parts", "decoder", "rewrites", 0, "applied"), "yes"),
        (("parts", "decoder", "rewrites", 0, "why"), 7),
        (("parts", "encoder", "kept_in_float"), []),
        (("parts", "encoder", "kept_in_float"), {"layer": 1}),
    ],
    ids=str,
)
def test_values_of_another_kind_are_a_bundle_error(path, value, capsys):
    with pytest.raises(BundleError, match=r"has .* expected"):
        inspected(changed(path, value), capsys)


@pytest.mark.parametrize("key", ["quality", "versions"])
def test_what_older_bundles_lack_is_left_out(key, capsys):
    document = copy.deepcopy(DOCUMENT)
    del document[key]
    for part in document["parts"].values():
        for name in ("rewrites", "kept_in_float", "plan"):
            part.pop(name, None)
    assert "latents 2" in inspected(document, capsys)


def test_random_values_anywhere_are_shown_or_refused(capsys):
    generator = random.Random(0)
    values = [None, True, 0, -1, 1 << 70, 10**400, 1e308, "", "[/x]", "\ud800", [], {}, [[]], {"a": 1}, ["[/]"]]

    def places(value, path=()):
        yield path
        for key, entry in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            yield from places(entry, (*path, key))

    everywhere = [path for path in places(DOCUMENT) if path]
    for path in generator.sample(everywhere, 300):
        try:
            manifest = parse_manifest(json.dumps(changed(path, generator.choice(values))).encode())
        except (EdgeAEError, OverflowError):  # the manifest's reader has its own tests
            continue
        try:
            tables.show_manifest(manifest)
        except BundleError as error:
            assert "expected" in str(error)  # noqa: PT017 - either is right
    capsys.readouterr()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-16"])
def test_any_encoding(encoding, run):
    for arguments in (["verify", BUNDLE], ["inspect", BUNDLE], ["--help"], ["verify", BUNDLE / "none"]):
        done = run(*arguments, PYTHONIOENCODING=encoding)
        assert done.returncode == (2 if "none" in str(arguments) else 0), done.stderr
        (done.stdout or done.stderr).decode(encoding)
        assert "Traceback" not in done.stderr.decode(encoding)


def test_closed_and_full_streams(run):
    status = '; echo "${PIPESTATUS[0]}"'
    for arguments in (["verify", BUNDLE], ["inspect", BUNDLE], ["--help"], ["bench", "--help"], ["--version"]):
        done = run(*arguments, shell='"$@" | true' + status)
        assert done.stdout.decode().strip() in ("0", "141"), "1 is for a check that failed"
        assert done.stderr == b""
    done = run("verify", BUNDLE, shell='"$@" >&- 2>&-')
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    if Path("/dev/full").exists():
        done = run("inspect", BUNDLE, shell='"$@" > /dev/full')
        assert done.returncode == 2
        assert done.stderr.startswith(b"error: ")
        assert done.stderr.count(b"\n") == 1


def test_json_on_standard_output_is_pure(run):
    done = run("verify", BUNDLE, "--json", "-")
    assert json.loads(done.stdout)["passed"] is True
    assert "✓" in done.stderr.decode()


def test_version_completion_and_bad_numbers(run):
    done = run("--version")
    for name in (b"edgeae ", b"torch ", b"edgeae-runtime ", b"onnxruntime "):
        assert name in done.stdout
    done = subprocess.run(
        [sys.executable, "-c", "from edgeae.command.app import main; main([])"],
        capture_output=True,
        check=False,
        env={**os.environ, "_EDGEAE_COMPLETE": "complete_bash", "COMP_WORDS": "edgeae ver", "COMP_CWORD": "1"},
    )
    assert done.stdout.split() == [b"verify"], done.stderr
    for arguments, words in (
        (["sample", "4", "--seed", "-1", "--out", "x.npy"], "--seed"),
        (["sample", "10000000000", "--bundle", BUNDLE, "--out", "x.npy"], "GiB are free"),
        (["bench", BUNDLE, "--threads", "20000"], "expected at most"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert words in done.stderr.decode()


def test_next_lines_repeat_what_was_typed(tmp_path, run):
    place = tmp_path / "a bundle"
    shutil.copytree(BUNDLE, place)
    done = run("verify", place, "--provider", "auto")
    assert f"Next: edgeae-runtime bench '{place}' --provider auto" in done.stdout.decode()
    done = run("inspect", place)
    assert f"Next: edgeae verify '{place}'" in done.stdout.decode()


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("no home"), 2), (KeyboardInterrupt(), 130), (EOFError(), 2), (OSError(5, "x"), 2)],
)
def test_what_a_command_raises_passes_typer(error, status, monkeypatch, capsys):
    def raise_it(*_):
        raise error

    monkeypatch.setattr(tables, "show_manifest", raise_it)
    monkeypatch.setattr(runtime.actions, "check_bundle", raise_it)
    for verb in ("inspect", "verify"):  # a verb of its own, and one that is handed on
        assert app.main([verb, str(BUNDLE)]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_no_home_and_no_entry_for_the_user(tmp_path):
    """As in a container that is run as a user it does not know."""
    program = (
        "import os, pwd, sys\n"
        "def unknown(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\n"
        "pwd.getpwuid = unknown\n"
        "os.environ.pop('HOME', None)\n"
        "from edgeae.command.app import main\n"
        "sys.exit(main())\n"
    )
    for arguments, status in (
        (["verify", BUNDLE], 0),
        (["inspect", BUNDLE], 0),
        (["train", "--data", "~nobody-here/x"], 2),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, check=False, cwd=tmp_path
        )
        assert done.returncode == status, done.stderr
        assert b"Traceback" not in done.stderr
