"""Each verb is declared once: `edgeae` hands those of the runtime on, with every option, word and exit status."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from edgeae_runtime.command import cli as runtime
from edgeae_runtime.command.doctor import Finding

from edgeae.command import app

BUNDLE = Path(__file__).parent.parent.parent / "examples" / "bundle"
OWN = {"demo", "train", "export", "inspect", "sign"}
VERBS = set(runtime.verb_parsers()) - {"completion"}
COMPARED = {"verify", "bench"}


def test_every_verb_is_listed_once(call):
    listed = call(app.main, "--help").stdout
    for verb in OWN | VERBS:
        assert len(re.findall(rf"^\W*{verb}  ", listed, re.MULTILINE)) == 1, verb
    names = [command.name or command.callback.__name__ for command in app.app.registered_commands]
    assert sorted(names) == sorted(OWN | VERBS)


def the_same(call, case):
    theirs, ours = call(runtime.main, *case), call(app.main, *case)
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    return theirs


@pytest.mark.parametrize(
    ("status", "case"),
    [
        (0, ["encode", "images.npy", "--bundle", BUNDLE, "--out", "z.npy"]),
        (0, ["encode", "images.npy", f"--bundle={BUNDLE}", "--out=z.csv"]),
        (0, ["decode", "--bundle", BUNDLE, "--out", "y.npy", "--", "-z.npy"]),
        (0, ["reconstruct", "images.npy", "--bundle", BUNDLE, "--out", "r.npy", "--prov", "cpu"]),
        (0, ["sample", 2, "--seed", 1, "--bundle", BUNDLE, "--out", "s.png"]),
        (0, ["interpolate", "images.npy", "images.npy", "--bundle", BUNDLE, "--out", "i.npy"]),
        (0, ["verify", BUNDLE]),
        (0, ["verify", BUNDLE, "--json", "-"]),
        (0, ["doctor"]),
        (2, ["sample", 2, "--seed", -1, "--out", "s.png"]),
        (2, ["verify", BUNDLE, "--provider", "tpu"]),
        (2, ["verify", "absent"]),
        (2, ["bench", BUNDLE, "--batch", "many"]),
        (2, ["bench", BUNDLE, "--compare", "absent.json"]),
        (2, ["compare", "absent.json", "absent.json"]),
        (2, ["tune", "absent"]),
    ],
    ids=lambda case: " ".join(map(str, case[:1])) if isinstance(case, list) else str(case),
)
def test_what_is_handed_on_comes_out_the_same(status, case, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no checkpoint lies
    np.save("images.npy", np.random.default_rng(0).random((1, 1, 32, 32)).astype(np.float32))
    np.save("-z.npy", np.zeros((2, 2), np.float32))
    if case == ["doctor"]:  # what this machine is told is not what is asked here
        monkeypatch.setattr(runtime.actions, "examine", lambda: [Finding("numpy", "1.0", "pip install numpy")])
        status = 1
    assert the_same(call, case).returncode == status


@pytest.mark.parametrize("verb", sorted(VERBS - COMPARED))
def test_its_help_and_its_refusals_too(verb, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runtime.actions, "examine", list)
    assert the_same(call, [verb, "--help"]).stdout.startswith(f"usage: edgeae-runtime {verb} ")
    assert the_same(call, [verb, "--no-such-option"]).returncode == 2
    assert the_same(call, [verb]).returncode == (0 if verb == "doctor" else 2)


def test_a_changed_byte_fails_the_check_of_verify_alone(call, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    broken = Path(shutil.copytree(BUNDLE, tmp_path / "broken"))
    raw = bytearray((broken / "decoder.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (broken / "decoder.onnx").write_bytes(raw)
    for main in (app.main, runtime.main):
        refused(call(main, "verify", broken), "not the file that was exported", status=1)
        refused(call(main, "sample", "--bundle", broken, "--out", "x.npy"), "not the file that was exported")
    refused(call(app.main, "verify", "--checkpoint", "absent", broken), "not the file that was exported", status=1)


@pytest.mark.parametrize("verb", sorted(COMPARED))
def test_the_form_with_a_checkpoint_has_the_runtimes_options_and_one_more(verb, call, refused):
    theirs, ours = call(runtime.main, verb, "--help"), call(app.main, verb, "--help")
    assert ours.returncode == 0

    def options(told):
        return set(re.findall(r"--[a-z]+", told.split("options:")[1]))

    assert options(ours.stdout) - {"--checkpoint"} == options(theirs.stdout)
    assert "--checkpoint" not in theirs.stdout
    assert ours.stdout.startswith(f"usage: edgeae {verb} ")
    refused(call(app.main, verb, "--checkpoint"), "--checkpoint")
    refused(call(app.main, verb, BUNDLE, "--checkpoint", "absent"), "absent")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e300", "soon"])
def test_a_time_limit_that_no_timer_takes_is_refused(seconds, call, refused):
    for main in (app.main, runtime.main):
        refused(call(main, "verify", BUNDLE, "--timeout", seconds), "--timeout")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("edgeae ver", "verify"),
        ("edgeae interp", "interpolate"),
        ("edgeae encode --b", "--bundle"),
        ("edgeae sample 4 --se", "--seed"),
        ("edgeae bench --part de", "decoder"),
        ("edgeae verify --ch", "--checkpoint"),
        ("edgeae train --la", "--latent-dim"),
    ],
)
def test_the_shell_completes_verbs_options_and_values(typed, expected, monkeypatch, capsys):
    for name, value in (("COMP_WORDS", typed), ("COMP_CWORD", str(typed.count(" "))), ("", "complete_bash")):
        monkeypatch.setenv(name or "_EDGEAE_COMPLETE", value)
    assert app.main([]) == 0
    assert capsys.readouterr().out.split() == [expected]


def test_an_interrupt_is_said_once_and_has_its_status(monkeypatch, call):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime.actions, "doctor", interrupted)
    done = call(app.main, "doctor")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_as_a_process(run_program, tmp_path):
    done = run_program("edgeae", "sample", 2, "--bundle", BUNDLE, "--out", "s.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Wrote 2 new images")
