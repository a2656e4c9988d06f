"""A checkpoint comes back as it was written, and anything else is refused before it is used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
import shutil
from contextlib import contextmanager

import pytest
import safetensors.torch
import torch
from edgeae_runtime.bundle.preprocessing import Preprocessing
from edgeae_runtime.errors import InputError

import edgeae
from edgeae import AutoencoderConfig, checkpoint_writer, load_checkpoint, train
from edgeae.checkpoint_writer import save_checkpoint


def weights(checkpoint):
    return checkpoint.model.state_dict()


def assert_same_weights(first, second):
    assert weights(first).keys() == weights(second).keys()
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(second)[name]), name


def edit(checkpoint, change):
    """Change checkpoint.json as a stranger would."""
    path = checkpoint.path / "checkpoint.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def replace_model(checkpoint, content: bytes):
    """Put other bytes in the model's file, with the right digest."""

    def change(document):
        record = document["files"]["model"]
        (checkpoint.path / record["file"]).write_bytes(content)
        record |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    edit(checkpoint, change)


def test_round_trip(checkpoint):
    loaded = load_checkpoint(str(checkpoint.path))
    assert_same_weights(loaded, checkpoint)
    for field in dataclasses.fields(loaded):
        if field.name != "model":
            assert getattr(loaded, field.name) == getattr(checkpoint, field.name), field.name


def test_what_the_exporter_needs(checkpoint):
    loaded = load_checkpoint(checkpoint.path)
    assert loaded.image_shape == (1, 32, 32)
    assert loaded.latent_dim == 2
    assert loaded.epochs_done == 2
    assert loaded.seed == 0
    assert loaded.data_name == "sample"
    assert loaded.preprocessing == Preprocessing(source_size=(28, 28), pad=(2, 2, 2, 2), scale=1 / 255)
    assert not loaded.model.training
    for parameter in loaded.model.parameters():
        assert parameter.device.type == "cpu"
        assert parameter.dtype == torch.float32
    image = loaded.decoder(loaded.encoder(torch.zeros(3, 1, 32, 32)))
    assert image.shape == (3, 1, 32, 32)


def test_only_the_last_epoch_stays_and_nothing_is_pickled(checkpoint):
    names = sorted(path.name for path in checkpoint.path.iterdir())
    assert [name.split("-")[0] for name in names] == ["checkpoint.json", "metrics.json", "model", "optimizer"]
    assert all(name.endswith((".json", ".safetensors")) for name in names)
    assert names[2].startswith("model-0002-")


def test_metrics_stand_beside_the_floor(checkpoint):
    metrics = json.loads((checkpoint.path / "metrics.json").read_text())
    assert metrics["entropy_floor"] == checkpoint.entropy_floor
    assert [record["epoch"] for record in metrics["history"]] == [1, 2]
    assert metrics["history"][-1]["validation_loss"] == checkpoint.history[-1].validation_loss


def test_a_killed_write_leaves_the_old_checkpoint(checkpoint, monkeypatch):
    """At whatever write the process dies, what is there is the old checkpoint or the new one."""
    original, calls = checkpoint_writer.write_atomically, []
    old = load_checkpoint(checkpoint.path)
    new_model = edgeae.Autoencoder(checkpoint.config).eval()
    new = dataclasses.replace(checkpoint, model=new_model)

    class Killed(BaseException):
        pass

    for dies_at in range(5):
        calls.clear()

        def write(path, content, dies_at=dies_at):
            if len(calls) == dies_at:
                raise Killed
            calls.append(path)
            original(path, content)

        monkeypatch.setattr(checkpoint_writer, "write_atomically", write)
        if dies_at < 4:  # two tensor files, checkpoint.json, metrics.json
            with pytest.raises(Killed):
                save_checkpoint(new, {"state": torch.zeros(1)})
            assert_same_weights(load_checkpoint(checkpoint.path), new if dies_at == 3 else old)
        else:
            save_checkpoint(new, {"state": torch.zeros(1)})
    assert_same_weights(load_checkpoint(checkpoint.path), new)
    assert len(list(checkpoint.path.iterdir())) == 4


def test_left_overs_of_a_killed_write_are_removed_but_nothing_else(checkpoint):
    (checkpoint.path / ".model-0001-abc.safetensors.x.partial").write_bytes(b"half")
    (checkpoint.path / "model-0001-0123abcd.safetensors").write_bytes(b"old")
    (checkpoint.path / "model-notes.txt").write_bytes(b"mine")
    save_checkpoint(checkpoint, {"state": torch.zeros(1)})
    assert (checkpoint.path / "model-notes.txt").exists()
    assert len(list(checkpoint.path.iterdir())) == 5


def test_no_checkpoint_tells_what_to_run(tmp_path):
    with pytest.raises(InputError, match="Run `edgeae train --out"):
        load_checkpoint(tmp_path)
    with pytest.raises(InputError, match="no checkpoint in"):
        load_checkpoint(tmp_path / "none")


def test_a_changed_weight_is_found(checkpoint):
    file = next(checkpoint.path.glob("model-*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match="SHA-256"):
        load_checkpoint(checkpoint.path)


def test_a_missing_or_cut_tensor_file_is_found(checkpoint):
    file = next(checkpoint.path.glob("model-*"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"gives model-.* bytes, but it has"):
        load_checkpoint(checkpoint.path)
    file.unlink()
    with pytest.raises(InputError, match="no file in the folder"):
        load_checkpoint(checkpoint.path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hostname", "..", "a/b", ""])
def test_file_names_may_not_leave_the_folder(checkpoint, name):
    shutil.copy(next(checkpoint.path.glob("model-*")), checkpoint.path.parent / "outside.safetensors")
    edit(checkpoint, lambda document: document["files"]["model"].update(file=name))
    with pytest.raises(InputError, match="plain name inside the folder"):
        load_checkpoint(checkpoint.path)


def test_links_are_not_followed(checkpoint):
    file = next(checkpoint.path.glob("model-*"))
    outside = checkpoint.path.parent / "outside"
    file.rename(outside)
    file.symlink_to(outside)
    with pytest.raises(InputError, match="no file in the folder"):
        load_checkpoint(checkpoint.path)


def test_a_pipe_does_not_hang(checkpoint):
    file = next(checkpoint.path.glob("model-*"))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match="no file in the folder"):
        load_checkpoint(checkpoint.path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.update(format_version=2), "format version 2, expected 1. To use it, update edgeae"),
        (lambda d: d.update(format_version="1"), "'format_version'"),
        (lambda d: d.pop("config"), "lacks 'config'"),
        (lambda d: d["config"].update(latent_dim=3), "do not fit its config"),
        (lambda d: d["config"].update(latent_dim="2"), "latent_dim = '2'"),
        (lambda d: d["config"].update(widths=[1 << 16, 1 << 16]), "do not fit its config"),
        (lambda d: d["config"].update(widths=4), "'widths'"),
        (lambda d: d["config"].update(extra=1), "gives the settings"),
        (lambda d: d["files"]["model"].update(bytes=1 << 40), "bytes, expected 1 to"),
        (lambda d: d["files"]["model"].update(sha256="00"), "64 hexadecimal digits"),
        (lambda d: d["files"].pop("model"), "lacks 'model'"),
        (lambda d: d["training"].update(epochs=0), "epochs = 0"),
        (lambda d: d["preprocessing"].update(pad=[2, 2]), "'pad'"),
        (lambda d: d["preprocessing"].pop("scale"), "'scale'"),
        (lambda d: d["preprocessing"].update(source_size=None), "neither 'source_size' nor 'resize'"),
        (lambda d: d["preprocessing"].update(source_size=None, resize={"fit": "crop"}), "neither 'source_size' nor"),
        (lambda d: d["preprocessing"].update(resize={"fit": "zoom"}), "expected crop or pad or stretch"),
        (lambda d: d["preprocessing"].update(pad=[10**9, 2, 2, 2]), "which does not make"),
        (lambda d: d.update(history=[]), "no finished epoch"),
        (lambda d: d["history"][0].update(epoch=2), "epoch 2 as number 1"),
        (lambda d: d["history"][0].update(train_loss=None), "'train_loss'"),
        (lambda d: d.update(entropy_floor=True), "'entropy_floor'"),
        (lambda d: d.update(entropy_floor=10**400), "'entropy_floor'"),
        (lambda d: d["history"][0].update(train_loss=-(10**400)), "'train_loss'"),
        (lambda d: d["training"].update(learning_rate=10**400), "learning_rate"),
        (lambda d: d["training"].update(beta=10**400), "beta"),
        (lambda d: d["files"]["model"].update(file="../\x1b[2J" + "x" * 10**6), "names the file"),
    ],
)
def test_wrong_documents_are_refused(checkpoint, change, told):
    edit(checkpoint, change)
    with pytest.raises(InputError, match=told):
        load_checkpoint(checkpoint.path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"format_version": NaN}', "[" * 100_000, "\xff"])
def test_what_is_no_json_object_is_refused(checkpoint, text):
    (checkpoint.path / "checkpoint.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"checkpoint\.json .*(not valid JSON|has list)"):
        load_checkpoint(checkpoint.path)


def test_tensors_must_be_those_of_the_model(checkpoint):
    tensors = dict(weights(checkpoint))
    half = {name: tensor.half() for name, tensor in tensors.items()}
    extra = tensors | {"encoder.extra": torch.zeros(1)}
    for wrong, told in ((half, "float32"), (extra, "encoder.extra")):
        replace_model(checkpoint, safetensors.torch.save(wrong))
        with pytest.raises(InputError, match=told):
            load_checkpoint(checkpoint.path)
    replace_model(checkpoint, b"\x80\x04 this is no safetensors file")
    with pytest.raises(InputError, match="no safetensors file"):
        load_checkpoint(checkpoint.path)


@contextmanager
def files_up_to(size: int):
    """Let no file grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_old_checkpoint(checkpoint, small_set, small_training):
    other = AutoencoderConfig(widths=(4, 16))
    with files_up_to(2000), pytest.raises(InputError, match=r"Cannot write the checkpoint to .*File too large"):
        train(small_set, checkpoint.path, other, small_training)
    assert_same_weights(load_checkpoint(checkpoint.path), checkpoint)
    assert len(list(checkpoint.path.iterdir())) == 4


def test_a_folder_that_cannot_be_made_is_refused_before_training(tmp_path, small_set, small_model, small_training):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"Cannot write the checkpoint to .*/file/out"):
        train(
            small_set,
            tmp_path / "file" / "out",
            small_model,
            small_training,
            on_progress=lambda event: pytest.fail("trained"),
        )
