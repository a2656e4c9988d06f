"""`edgeae export package.module:build`: the user's own model from the command line, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import safetensors.torch
import torch
from edgeae_runtime import Autoencoder, InputError, open_bundle

from edgeae.own_model.import_name import build_own_model, is_import_name
from edgeae.own_model.words import chosen_range, part_arguments

MODULE = """
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Dropout(0.2), nn.Flatten())
            self.a, self.b = nn.Linear(512, 4), nn.Linear(512, 4)
            self.net = nn.Sequential(nn.Linear(4, 512), nn.Unflatten(1, (8, 8, 8)), nn.ConvTranspose2d(8, 3, 4, 2, 1))

        def encode(self, x):
            h = self.features(x)
            return self.a(h), self.b(h)

        def decode(self, z, gain=1.0):
            return torch.tanh(gain * self.net(z))

    def build():
        torch.manual_seed(0)
        return Model()

    def number():
        return 3
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a user's module, its weights and some images; the current one."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "net.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)
    model = build_own_model("mine.net:build")[0]
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    coarse = np.random.default_rng(0).random((80, 3, 4, 4), dtype=np.float32)
    np.save(tmp_path / "images.npy", coarse.repeat(4, axis=2).repeat(4, axis=3))
    return tmp_path


def run(*arguments, cwd):
    command = [sys.executable, "-m", "edgeae", *map(str, arguments)]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_from_the_command_line_to_a_device(project):
    done = run(
        "export", "mine.net:build", "--checkpoint", "weights.safetensors", "--calibration", "images.npy",
        "--outputs", "mean,log_variance", "--value-range", "-1,1", "--decoder-argument", "gain=0.5",
        "--quantize", "int8", "--out", "bundle", cwd=project,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    model, images = build_own_model("mine.net:build")[0], np.load(project / "images.npy")[:4]
    with torch.inference_mode():
        mean, _ = model.encode(torch.from_numpy(images) * 2 - 1)
        expected = (model.decode(mean, gain=0.5) + 1) / 2
    ae = Autoencoder.load(project / "bundle")
    assert np.abs(ae.reconstruct(images) - expected.numpy()).max() < 0.1
    assert ae.encode_distribution(images)[1].shape == (4, 4)
    assert open_bundle(project / "bundle").manifest.document["preprocessing"]["model_range"]["std"] == [0.5]


@pytest.mark.slow
def test_the_command_line_refuses_in_one_paragraph(project):
    for arguments, words in (
        (("mine.net:nothing",), "cannot be made"),
        (("mine.net:number",), "expected a torch module"),
        (("mine.net:build",), "image-shape"),
        (("mine.net:build", "--image-shape", "3,16,16"), "--outputs mean,log_variance"),
        (("runs/latest", "--image-shape", "3,16,16"), "own model"),
        (("mine.net:build", "--image-shape", "3,x"), "numbers with commas"),
    ):
        done = run("export", *arguments, cwd=project)
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.startswith("error: ")
        assert words.lower() in done.stderr.lower()
        assert "Traceback" not in done.stderr
        assert not (project / "bundle").exists()


def test_names(project):
    assert is_import_name("mine.net:build")
    assert is_import_name("mine:Model.make")
    for text in ("runs/latest", "bundle", "C:\\runs", "a:b:c", "https://x"):
        assert not is_import_name(text)
    assert not build_own_model("mine.net:build")[0].training
    assert not build_own_model("mine.net:Model")[0].training, "a class is called"


def test_weights(project):
    for name in ("plain.pt", "nested.pt"):
        state = build_own_model("mine.net:build")[0].state_dict()
        changed = {key: value + 1 for key, value in state.items()}
        torch.save({"state_dict": changed, "epoch": 3} if name == "nested.pt" else changed, project / name)
        model, _ = build_own_model("mine.net:build", project / name)
        assert torch.equal(model.a.bias, state["a.bias"] + 1)


class Harmful:
    def __reduce__(self):
        return (os.system, ("touch harmed",))


def test_a_pickle_that_wants_more_is_refused(project):
    torch.save(
        {"state_dict": build_own_model("mine.net:build")[0].state_dict(), "extra": Harmful()}, project / "bad.pt"
    )
    with pytest.raises(InputError, match="--trust-pickle"):
        build_own_model("mine.net:build", project / "bad.pt")
    assert not (project / "harmed").exists()
    build_own_model("mine.net:build", project / "bad.pt", trust_pickle=True)
    assert (project / "harmed").exists(), "the user asked for it"


def test_weights_that_do_not_fit(project):
    state = build_own_model("mine.net:build")[0].state_dict()
    cases = {
        "missing": ({key: value for key, value in state.items() if key != "a.bias"}, "lacks a.bias"),
        "shape": ({**state, "a.bias": torch.zeros(9)}, r"a\.bias is \[9\], expected \[4\]"),
    }
    for name, (tensors, words) in cases.items():
        safetensors.torch.save_file(tensors, project / f"{name}.safetensors")
        with pytest.raises(InputError, match=words):
            build_own_model("mine.net:build", project / f"{name}.safetensors")
    (project / "text.safetensors").write_text("no")
    with pytest.raises(InputError, match="safetensors file"):
        build_own_model("mine.net:build", project / "text.safetensors")
    with pytest.raises(InputError, match="no weights"):
        build_own_model("mine.net:build", project / "none.pt")


def test_words_of_the_command_line():
    def words(*given):
        return part_arguments("--decoder-argument", given)

    assert words() == {}
    assert words("gain=0.5", "flag=true", "size=[256, 256]") == {"gain": 0.5, "flag": True, "size": [256, 256]}
    assert words("mode=nearest", 'kind="x"', "n=3") == {"mode": "nearest", "kind": "x", "n": 3}
    for text in ("y=[0, 1.0]", "y=tensor:[0, 1]"):
        assert torch.equal(words(text)["y"], torch.tensor([0.0, 1.0]))
    assert torch.equal(words("y=[[0, 1], [0.5, 2]]")["y"], torch.tensor([[0.0, 1.0], [0.5, 2.0]]))
    for word in ("gain", "gain=", "1=2"):
        with pytest.raises(InputError, match="NAME=JSON"):
            words(word)
    for word in ("y=[0", "y=[[0, 1.5], [2]]", "y=tensor:true!"):
        with pytest.raises(InputError, match="expected"):
            words(word)
    assert chosen_range(None, None, None) is None
    assert chosen_range("-1,1", None, None).std == (0.5,)
    assert chosen_range(None, "0.5,0.4,0.3", "0.2,0.2,0.2").mean == (0.5, 0.4, 0.3)
    for words in (
        ("-1", None, None),
        ("1,-1", None, None),
        (None, "0.5", None),
        (None, "0.5", "0"),
        ("-1,1", "0", "1"),
    ):
        with pytest.raises(InputError):
            chosen_range(*words)


QUANTISED = """
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
            self.decoder = nn.Sequential(nn.Linear(4, 768), nn.Unflatten(1, (3, 16, 16)))

        def forward(self, x):
            return self.decoder(torch.round(self.encoder(x)))
"""


@pytest.mark.slow
def test_the_command_line_tells_what_the_halves_leave_out_and_where_the_weights_were(project):
    (project / "mine" / "quantised.py").write_text(textwrap.dedent(QUANTISED))
    state = build_own_model("mine.quantised:Model")[0].state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, project / "w.ckpt")
    done = run(
        "export", "mine.quantised:Model", "--checkpoint", "w.ckpt", "--calibration", "images.npy", "--out", "bundle",
        cwd=project,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    said = " ".join(done.stdout.replace("│", " ").split())
    assert "other images than its own forward" in said
    assert "Weights of w.ckpt: taken from 'state_dict.module'." in said
