"""How commands end: one paragraph and an exit status, whatever happens and wherever the output goes."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from edgeae_runtime import BundleError, IntegrityError, ParityError
from edgeae_runtime import __main__ as program
from edgeae_runtime.command import actions as commands
from edgeae_runtime.command import cli
from edgeae_runtime.command.cli import main
from edgeae_runtime.command.exits import checking, exit_status
from edgeae_runtime.files.documents import write_json
from edgeae_runtime.terminal import MAX_PARAGRAPH, cut, name_of

ENCODINGS = ("cp1252", "ascii", "utf-16", "cp037", "latin-1", "utf-8")
FULL = Path("/dev/full")


@pytest.fixture
def run(run_program):
    """The command, or a shell's line in which `"$@"` is the command; what it writes comes as bytes."""

    def run(*arguments, shell=None, **environment):
        return run_program("edgeae_runtime", *arguments, shell=shell, text=False, environment=environment)

    return run


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ParityError("p"), 1),
        (IntegrityError("i"), 2),
        (BundleError("b"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "x.npy"), 2),
        (MemoryError(), 2),
        (MemoryError("Unable to allocate 4 TiB"), 2),
        (RecursionError("maximum recursion depth exceeded"), 2),
        (UnicodeDecodeError("utf-8", b"\xfe", 0, 1, "invalid start byte"), 2),
        (OverflowError("int too large"), 2),
        (RuntimeError("Could not determine home directory."), 2),
        (ModuleNotFoundError("No module named 'onnxruntime'"), 2),
        (StopIteration(), 2),
        (AssertionError(), 2),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141),
        (SystemExit(2), 2),
        (SystemExit(None), 0),
        (SystemExit("a sentence"), 2),
    ],
    ids=repr,
)
def test_whatever_is_raised_becomes_a_paragraph_and_a_status(error, status, capsys):
    assert exit_status(raising(error)) == status
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert told.err.count("\n") <= 1
    assert told.out == ""
    if isinstance(error, Exception) and not isinstance(error, BrokenPipeError):
        assert told.err.startswith("error: ")


@pytest.mark.parametrize(
    ("behind", "left", "status"),
    [
        (KeyboardInterrupt(), ImportError("initialization failed"), 130),  # a C extension's words for an interrupt
        (KeyboardInterrupt(), RuntimeError("Error calling __set_name__"), 130),  # Python's own, of a class's field
        (KeyboardInterrupt(), SystemExit(1), 130),
        (KeyboardInterrupt(), BundleError("what it means"), 2),
        (BrokenPipeError(), SystemExit(1), 141),  # rich's way
        (ValueError(), SystemExit(2), 2),
    ],
    ids=repr,
)
def test_what_libraries_make_of_an_end_is_undone(behind, left, status, capsys):
    def action():
        try:
            raise behind
        except BaseException:
            raise left  # noqa: B904 - as they do it

    assert exit_status(action) == status
    assert "Traceback" not in capsys.readouterr().err


def test_an_end_of_input_that_a_library_wraps_ends(capsys):
    """Typer raises its own error from it and leaves by 1: raised again, it stands in its own chain."""

    def action():
        try:
            try:
                raise EOFError
            except EOFError as error:
                raise RuntimeError from error
        except RuntimeError:
            sys.exit(1)

    assert exit_status(action) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_an_interrupt_inside_an_exec_still_gives_its_status(tmp_path):
    """CPython ends such a process by the signal, though it was caught: -2 in place of 130."""
    (tmp_path / "interrupted.py").write_text(
        "import sys\n"
        "from edgeae_runtime.command.exits import exit_status\n"
        "sys.exit(exit_status(lambda: exec('raise KeyboardInterrupt')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_library_that_is_missing_is_told(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "edgeae_runtime.command.cli", None)
    assert program.main() == 2
    assert "pip install" in capsys.readouterr().err


def test_a_changed_byte_is_a_failed_check_only_where_one_checks(capsys):
    def checked(error):
        def action():
            with checking():
                raise error

        return exit_status(action)

    assert checked(IntegrityError("a byte was changed")) == 1
    assert capsys.readouterr().err == "error: a byte was changed\n"
    assert checked(BundleError("b")) == 2
    assert exit_status(raising(IntegrityError("i"))) == 2


def test_an_unexpected_error_says_whose_fault_it_is_and_debug_shows_where(capsys, monkeypatch):
    assert exit_status(raising(ZeroDivisionError("division by zero"))) == 2
    told = capsys.readouterr().err
    for words in ("ZeroDivisionError", "division by zero", "a fault of edgeae's", "EDGEAE_DEBUG=1"):
        assert words in told
    monkeypatch.setenv("EDGEAE_DEBUG", "1")
    assert exit_status(raising(ZeroDivisionError("division by zero"))) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_last_net_is_below_every_command(monkeypatch, capsys, bundle):
    monkeypatch.setattr(commands, "verify_bundle", lambda *_: raising(RecursionError("deep"))())
    assert main(["verify", str(bundle)]) == 2, "1 is for a check that failed"
    assert "Traceback" not in capsys.readouterr().err


def test_a_strangers_text_is_escaped_and_cut(capsys):
    hostile = "\x1b[2J\x9b\u202e\n" + "A" * 4_000_000 + "\nExport it again."
    assert exit_status(raising(BundleError(hostile))) == 2
    told = capsys.readouterr().err
    assert len(told) <= MAX_PARAGRAPH + 20
    assert told.endswith("Export it again.\n"), "what to do stands at the end, and is kept"
    assert told.strip().isprintable()
    assert len(cut("x" * 99, 50)) == 50
    assert name_of("\x1b[31m" + "y" * 10_000).startswith("\\x1b[31m")
    assert len(name_of("y" * 10_000)) <= 80


def test_warnings_are_cut_too(capsys):
    import warnings

    def action():
        warnings.warn("w" * 10_000 + "\x1b", stacklevel=1)
        return 0

    assert exit_status(action) == 0
    assert len(capsys.readouterr().err) < MAX_PARAGRAPH + 20


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_encoding_takes_the_output(bundle, encoding, run):
    done = run("verify", bundle, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    told = done.stdout.decode(encoding)
    assert told.count("✓" if encoding.startswith("utf") else "ok ") == 3
    assert "Next: edgeae-runtime bench" in told


def test_the_posix_locale_and_names_that_are_not_utf_8(bundle, tmp_path, run):
    place = os.fsencode(tmp_path) + b"/\xff\xfe\xc3\xa9"
    shutil.copytree(os.fsencode(bundle), place)
    plain = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for environment in ({}, plain, {"PYTHONIOENCODING": "ascii"}):
        done = run("verify", os.fsdecode(place), **environment)
        assert done.returncode == 0, done.stderr
        done = run("verify", os.fsdecode(place) + "/none", **environment)
        assert done.returncode == 2
        assert done.stderr.startswith(b"error: There is no bundle at ")


@pytest.mark.skipif(os.name != "posix", reason="a shell's redirections")
def test_a_closed_pipe_and_closed_streams_are_quiet(bundle, tmp_path, run):
    status = '; echo "${PIPESTATUS[0]}"'
    for arguments in (["verify", bundle], ["--help"], ["verify", bundle, "--json", "-"], ["completion", "bash"]):
        done = run(*arguments, shell='"$@" | true' + status)
        assert done.stdout.decode().strip() in ("0", "141")
        assert done.stderr == b"" or "--json" in arguments
        assert b"rror" not in done.stderr.replace(b"error_", b"")
    for shell in ('"$@" >&-', '"$@" >&- 2>&-', '"$@" >&- 2>&- <&-'):
        done = run("verify", bundle, shell=shell)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert run("verify", "none", shell=shell).returncode == 2
    out = tmp_path / "z.npy"
    assert run("sample", 2, "--bundle", bundle, "--out", out, shell='"$@" >&-').returncode == 0
    assert out.read_bytes()[:6] == b"\x93NUMPY", "the file did not become standard output"


@pytest.mark.skipif(not FULL.exists(), reason="a full device is Linux's")
def test_a_full_standard_output_is_a_sentence(bundle, run):
    done = run("verify", bundle, shell='"$@" > /dev/full')
    assert done.returncode == 2
    assert done.stderr.decode().startswith("error: Standard output cannot be written: ")
    assert done.stderr.count(b"\n") == 1
    assert run("verify", "none", shell='"$@" 2> /dev/full').returncode == 2


def test_json_on_standard_output_is_pure(bundle, replace_file, int8_bundle, capsys, run):
    done = run("verify", bundle, "--json", "-")
    assert json.loads(done.stdout)["passed"] is True
    assert "Next: " in done.stderr.decode()
    done = run("verify", replace_file("decoder.onnx", (int8_bundle / "decoder.onnx").read_bytes()), "--json", "-")
    assert done.returncode == 1
    assert json.loads(done.stdout)["passed"] is False
    done = run("bench", bundle, "--part", "decoder", "--batch", "1", "--json", "-", PYTHONIOENCODING="utf-16")
    assert json.loads(done.stdout.decode("utf-8"))["schema"] == "edgeae-bench", (
        "bytes, whatever the terminal's encoding"
    )
    document = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (-float("inf"), "x")}}
    write_json("-", document)
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": {"d": [None, "x"]}}


def test_next_lines_are_commands_that_run(tmp_path, bundle, run):
    place = tmp_path / "a bundle; rm -rf 'x' ünd"
    shutil.copytree(bundle, place)
    done = run("verify", place, "--provider", "auto")
    for verb in ("bench", "tune"):
        (line,) = (line for line in done.stdout.decode().splitlines() if line.startswith("Next: "))
        command = line.removeprefix("Next: ")
        assert command.startswith(f"edgeae-runtime {verb} ")
        assert command.endswith(" --provider auto")
        program = f'edgeae-runtime() {{ "{sys.executable}" -m edgeae_runtime "$@"; }}; '
        options = " --batch 1 --part decoder" if verb == "bench" else ""
        done = subprocess.run(["bash", "-c", program + command + options], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_what_encode_says_next_runs_where_it_was_said(tmp_path, bundle, images):
    import numpy as np

    np.save(tmp_path / "some images.npy", images)
    program = f'cd "{tmp_path}"; edgeae-runtime() {{ "{sys.executable}" -m edgeae_runtime "$@"; }}; '
    line = f"edgeae-runtime encode 'some images.npy' --bundle '{bundle}' --out -z.npy"
    done = subprocess.run(
        ["bash", "-c", program + line.replace("--out -z", "--out=-z")], capture_output=True, check=True
    )
    command = done.stdout.decode().splitlines()[-1].removeprefix("Next: ")
    done = subprocess.run(["bash", "-c", program + command], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "decoded.npy").exists()


def test_impossible_numbers_are_refused_before_the_work(bundle, tmp_path, run):
    out = ("--bundle", bundle, "--out", tmp_path / "x.npy")
    for arguments, words in (
        (["sample", "10000000000", *out], "GiB are free"),
        (["sample", "1" + "0" * 40, *out], "GiB are free"),
        (["sample", "4", "--seed", "-1", *out], "whole number from 0"),
        (["sample", "4", "--seed", "1.5", *out], "invalid"),
        (["bench", bundle, "--threads", "20000"], "expected at most"),
        (["bench", bundle, "--batch", "10000000000"], "GiB are free"),
        (["bench", bundle, "--threads", "0"], "whole number from 1"),
    ):
        done = run(*arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr.decode()
        assert b"Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_more_threads_than_cores_are_told_of(bundle, monkeypatch, capsys):
    monkeypatch.setattr(commands, "usable_cores", lambda: 1)
    monkeypatch.setattr(cli, "bench_bundle", lambda *_, **__: raising(BundleError("stop here"))())
    assert main(["bench", str(bundle), "--threads", "2"]) == 2
    assert "warning: 2 threads on 1 usable cores" in capsys.readouterr().err


def test_version_and_completion(capsys):
    assert main(["--version"]) == 0
    told = capsys.readouterr().out
    for name in ("edgeae-runtime ", "onnxruntime ", "numpy ", "Python "):
        assert name in told
    assert main(["completion", "fish"]) == 2
    capsys.readouterr()
    assert main(["completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def completed(*words):
        ask = f'COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _edgeae_runtime; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("edgeae-runtime", "ver") == ["verify"]
    assert completed("edgeae-runtime", "--v") == ["--version"]
    assert completed("edgeae-runtime", "verify", "--k") == ["--key"]
    assert completed("edgeae-runtime", "bench", "--part", "de") == ["decoder"]
    assert completed("edgeae-runtime", "completion", "z") == ["zsh"]
    assert completed("edgeae-runtime", "encode", "''") == [], "files, by the shell itself"
