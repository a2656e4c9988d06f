"""Training learns, repeats itself bit for bit, survives being killed, and refuses what it cannot do."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from edgeae_runtime.errors import InputError
from torch import nn

from edgeae import Autoencoder, AutoencoderConfig, TrainingConfig, TrainingDivergedError, load_checkpoint, train
from edgeae.data import prepare
from edgeae.training.loop import learning_rate
from edgeae.training.precision import bfloat16_keeps_the_loss, built_for_bfloat16

PUBLISHED_LOSS = 0.2535  # after three epochs: Foster, chapter 3


def same_weights(first, second) -> bool:
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_loss_falls_towards_the_floor(tmp_path, small_set, small_model, small_training):
    longer = dataclasses.replace(small_training, epochs=12, batch_size=32, learning_rate=5e-3)
    checkpoint = train(small_set, tmp_path, small_model, longer)
    losses = [record.validation_loss for record in checkpoint.history]
    assert losses[0] > 0.4
    assert checkpoint.entropy_floor < losses[-1] < 0.36
    assert checkpoint.history[-1].validation_mse < 0.07 < checkpoint.history[0].validation_mse


def test_reported_losses_are_those_of_the_checkpoint(checkpoint, small_set):
    pixels = prepare(small_set.test_images, 32).astype(np.float32) / 255
    with torch.inference_mode():
        images = checkpoint.decoder(checkpoint.encoder(torch.from_numpy(pixels))).double().numpy()
    cross_entropy = -(pixels * np.log(images) + (1 - pixels) * np.log1p(-images)).mean()
    assert checkpoint.history[-1].validation_loss == pytest.approx(cross_entropy, abs=1e-6)
    assert checkpoint.history[-1].validation_mse == pytest.approx(((images - pixels) ** 2).mean(), abs=1e-6)


def test_the_same_seed_gives_the_same_weights(tmp_path, checkpoint, small_set, small_model, small_training):
    again = train(small_set, tmp_path / "again", small_model, small_training)
    other = train(small_set, tmp_path / "other", small_model, dataclasses.replace(small_training, seed=1))
    assert same_weights(again, checkpoint)
    assert not same_weights(other, checkpoint)


def test_the_caller_keeps_its_random_numbers_and_its_settings(tmp_path, small_set, small_model, small_training):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    deterministic = torch.backends.cudnn.deterministic
    train(small_set, tmp_path, small_model, small_training)
    assert torch.equal(torch.rand(3), expected)
    assert torch.backends.cudnn.deterministic == deterministic


def test_a_single_run_starts_no_process_group(checkpoint):
    assert not torch.distributed.is_initialized()


def test_progress(tmp_path, small_set, small_model, small_training):
    events = []
    checkpoint = train(small_set, tmp_path, small_model, small_training, on_progress=events.append)
    assert [(event.epoch, event.step) for event in events] == [
        (epoch, step) for epoch in (1, 2) for step in (1, 2, 3, 4, 5, 5)
    ]
    assert {(event.epochs, event.steps) for event in events} == {(2, 5)}
    ends = [event for event in events if event.validation_loss is not None]
    assert [event.validation_loss for event in ends] == [record.validation_loss for record in checkpoint.history]
    assert [event.loss for event in ends] == [record.train_loss for record in checkpoint.history]
    assert events[0].seconds_left > 0
    assert events[-1].seconds_left == 0


def test_learning_rate_is_held_then_lowered():
    rates = [learning_rate(step, 100, 1e-3) for step in range(100)]
    assert rates[:51] == [1e-3] * 51
    assert rates[75] == pytest.approx(5e-4)
    assert 0 < rates[99] < 3e-5


def test_precision_is_as_asked_for(tmp_path, small_set, small_model, small_training):
    for precision in ("float32", "bfloat16"):
        settings = dataclasses.replace(small_training, precision=precision)
        assert train(small_set, tmp_path, small_model, settings).precision == precision
        document = json.loads((tmp_path / "checkpoint.json").read_text())
        assert document["precision"] == precision
    assert load_checkpoint(tmp_path).history[-1].validation_loss == pytest.approx(
        train(small_set, tmp_path, small_model, small_training).history[-1].validation_loss, abs=0.005
    )


@pytest.mark.parametrize(
    ("capabilities", "expected"), [({}, "float32"), ({"avx512_bf16": True, "bf16": True}, "bfloat16")]
)
def test_auto_precision_follows_the_device(
    tmp_path, small_set, small_model, small_training, monkeypatch, capabilities, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert built_for_bfloat16(torch.device("cpu")) == (expected == "bfloat16")
    settings = dataclasses.replace(small_training, epochs=1, precision="auto")
    assert train(small_set, tmp_path, small_model, settings).precision == expected


def test_auto_precision_is_float32_where_the_loss_would_suffer():
    class Cancelling(nn.Module):
        """Loses in bfloat16 what it adds and takes away again."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(2, 1, 1, bias=False)
            self.convolution.weight.data = torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1)

        def forward(self, pixels):
            shifted = self.convolution(torch.cat([pixels + 10_000, torch.full_like(pixels, 10_000)], dim=1))
            return 5 * shifted, None

    torch.manual_seed(0)
    pixels = torch.rand(8, 1, 32, 32)
    assert not bfloat16_keeps_the_loss(Cancelling(), pixels)
    assert bfloat16_keeps_the_loss(Autoencoder(), pixels)


def test_layout_in_memory_does_not_change_what_is_learnt(tmp_path, checkpoint, small_set, small_model, small_training):
    settings = dataclasses.replace(small_training, channels_last=False)
    other = train(small_set, tmp_path / "other", small_model, settings)
    assert other.history[-1].validation_loss == pytest.approx(checkpoint.history[-1].validation_loss, rel=1e-4)


# Stopping and going on


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, checkpoint, small_set, small_model, small_training):
    def interrupt(event):
        if (event.epoch, event.step) == (2, 3):
            raise KeyboardInterrupt

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(small_set, out, small_model, small_training, on_progress=interrupt)
    assert load_checkpoint(out).epochs_done == 1
    resumed = train(small_set, out, small_model, small_training, resume=True)
    assert same_weights(resumed, checkpoint)
    losses = [[(r.train_loss, r.validation_loss) for r in c.history] for c in (resumed, checkpoint)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    program = [sys.executable, str(Path(__file__).with_name("train_small.py"))]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*program, str(whole)], check=True, capture_output=True)
    process = subprocess.Popen([*program, str(killed), "--pause", "0.2"], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line == "epoch 2 step 2\n":
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    assert load_checkpoint(killed).epochs_done == 1
    subprocess.run([*program, str(killed), "--resume"], check=True, capture_output=True)
    assert same_weights(load_checkpoint(killed), load_checkpoint(whole))


def test_more_epochs_go_on_from_the_last(tmp_path, checkpoint, small_set, small_model, small_training):
    longer = train(small_set, checkpoint.path, small_model, dataclasses.replace(small_training, epochs=3), resume=True)
    assert [record.epoch for record in longer.history] == [1, 2, 3]
    assert longer.history[:2] == checkpoint.history


def test_a_finished_run_is_returned_as_it_is(checkpoint, small_set, small_model, small_training):
    again = train(
        small_set,
        checkpoint.path,
        small_model,
        small_training,
        resume=True,
        on_progress=lambda event: pytest.fail("trained"),
    )
    assert same_weights(again, checkpoint)


def test_resuming_nothing_starts_afresh(tmp_path, checkpoint, small_set, small_model, small_training):
    fresh = train(small_set, tmp_path / "new", small_model, small_training, resume=True)
    assert same_weights(fresh, checkpoint)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 2e-3}, "learning_rate = 0.001, but now learning_rate = 0.002"),
        ({"batch_size": 32}, "batch_size"),
        ({"seed": 1}, "seed"),
        ({"precision": "bfloat16"}, "precision"),
        ({"epochs": 1}, "2 epochs already"),
    ],
)
def test_resuming_refuses_other_settings(checkpoint, small_set, small_model, small_training, changes, told):
    with pytest.raises(InputError, match=told):
        train(small_set, checkpoint.path, small_model, dataclasses.replace(small_training, **changes), resume=True)


def test_resuming_refuses_another_model_or_other_images(checkpoint, small_set, small_model, small_training):
    longer = dataclasses.replace(small_training, epochs=3)
    with pytest.raises(InputError, match=re.escape("widths = (4, 8), but now widths = (4, 9)")):
        train(small_set, checkpoint.path, AutoencoderConfig(widths=(4, 9)), longer, resume=True)
    other = dataclasses.replace(small_set, train_images=255 - small_set.train_images)
    with pytest.raises(InputError, match="images = "):
        train(other, checkpoint.path, small_model, longer, resume=True)


def test_a_new_run_replaces_the_old_one_only_after_its_first_epoch(checkpoint, small_set, small_model, small_training):
    seen = []

    def look(event):
        seen.append(load_checkpoint(checkpoint.path).seed)

    settings = dataclasses.replace(small_training, seed=7)
    train(small_set, checkpoint.path, small_model, settings, on_progress=look)
    assert seen == [0] * 5 + [7] * 7
    with pytest.raises(InputError, match="holds a checkpoint already"):
        train(small_set, checkpoint.path, small_model, settings, overwrite=False)


def test_divergence_is_told_and_keeps_the_last_checkpoint(checkpoint, small_set, small_model, small_training):
    wild = dataclasses.replace(small_training, learning_rate=1e30)
    with pytest.raises(TrainingDivergedError, match=r"epoch 1.*learning rate below 1e\+30"):
        train(small_set, checkpoint.path, small_model, wild)
    assert same_weights(load_checkpoint(checkpoint.path), checkpoint)


# Input that cannot be used


def test_images_must_fit_the_model(tmp_path, small_set, small_training):
    with pytest.raises(InputError, match="images of 1 channels for a model of 3"):
        train(small_set, tmp_path, AutoencoderConfig(channels=3), small_training)
    with pytest.raises(InputError, match="28x28 pixels for a model of 16x16"):
        train(small_set, tmp_path, AutoencoderConfig(image_size=16), small_training)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"epochs": True}, "epochs = True"),
        ({"batch_size": 1.5}, "batch_size = 1.5"),
        ({"seed": -1}, "seed = -1"),
        ({"learning_rate": 0}, "learning_rate = 0"),
        ({"learning_rate": math.nan}, "learning_rate = nan"),
        ({"precision": "int8"}, "auto, float32, bfloat16"),
        ({"device": "gpu"}, "auto, cpu, cuda, mps"),
        ({"channels_last": 1}, "True or False"),
    ],
)
def test_impossible_settings_are_refused(fields, told):
    with pytest.raises(InputError, match=told):
        TrainingConfig(**fields)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_device_is_named(tmp_path, small_set, small_model, small_training):
    with pytest.raises(InputError, match="device 'cuda'"):
        train(small_set, tmp_path, small_model, dataclasses.replace(small_training, device="cuda"))


@pytest.mark.slow
@pytest.mark.full_data
def test_the_default_run_beats_the_published_loss(tmp_path, fashion_mnist):
    checkpoint = train(fashion_mnist, tmp_path)
    losses = [record.validation_loss for record in checkpoint.history]
    assert len(losses) == 3
    assert checkpoint.entropy_floor < losses[-1] <= PUBLISHED_LOSS
