"""Sets of calibration inputs that would make blind ranges: told, refused, or used without what is broken."""

import numpy as np
import pytest
import torch
from edgeae_export import OwnModel, export
from edgeae_export.modules.calibration_set import glitches, remarks, without_glitches
from edgeae_export.modules.images import ExportImages, choose_images
from edgeae_runtime import Autoencoder, InputError
from edgeae_runtime.parity import psnr
from torch import nn

RNG = np.random.default_rng(5)


def signals(count, length=64):
    """Sums of two sines, within about [-1.5, 1.5]."""
    rng, time = np.random.default_rng(count), np.arange(length) / length
    phase, rate = rng.random((2, count, 1)) * 6.3
    amplitude = rng.uniform(0.5, 1, (count, 1))
    wave = amplitude * np.sin(6.3 * (1 + rate) * time + phase) + 0.3 * np.sin(50 * time + 2 * phase)
    return wave[:, None].astype(np.float32)


class SignalModel(nn.Module):
    """Trained a little: an untrained one would show nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(
            nn.Conv1d(1, 16, 4, 2, 1),
            nn.ReLU(),
            nn.Conv1d(16, 16, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 40),
        )
        self.decoder = nn.Sequential(nn.Linear(40, 128), nn.ReLU(), nn.Linear(128, 64), nn.Unflatten(1, (1, 64)))
        data, adam = torch.from_numpy(signals(256)), torch.optim.Adam(self.parameters(), 2e-3)
        for _ in range(60):
            adam.zero_grad()
            nn.functional.mse_loss(self.decoder(self.encoder(data)), data).backward()
            adam.step()


def given(images, bounded=True, held_out=None):
    return choose_images(images.shape[1:], images, held_out, (0.0, 1.0) if bounded else None)


@pytest.mark.parametrize("where", [[7, 130], [295, 298]])  # in the calibration, and in what is held out from it
def test_a_glitch_is_told_and_blinds_neither_the_ranges_nor_the_figures(where, tmp_path):
    model, clean, fresh = SignalModel().eval(), signals(300), signals(64)
    broken = clean.copy()
    broken[where, :, 20:24] = 40.0
    fidelity, told, notices = {}, {}, {}
    for name, some in (("clean", clean), ("broken", broken)):
        report = export(
            model,
            tmp_path / name,
            quantize="int8",
            calibration=some,
            target="x86-vnni",
            own_model=OwnModel(image_shape=(1, 64)),
        )
        autoencoder = Autoencoder.load(tmp_path / name)
        with torch.inference_mode():
            expected = model.decoder(model.encoder(torch.from_numpy(fresh))).numpy()
        fidelity[name] = psnr(expected, autoencoder.decode(autoencoder.encode(fresh)), np.ptp(expected))
        told[name] = report.manifest.document["quality"]["decoder_psnr_db"]
        notices[name] = " ".join(report.notices)
    assert fidelity["broken"] > fidelity["clean"] - 2
    assert abs(told["broken"] - told["clean"]) < 3
    assert notices["clean"] == ""
    assert "look like glitches" in notices["broken"]
    assert str(where[0]) in notices["broken"]
    assert str(where[1]) in notices["broken"]


def test_long_tails_are_no_glitches():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        loud = rng.lognormal(0, 0.7, (300, 1, 1)).astype(np.float32)
        assert not glitches(loud * rng.normal(size=(300, 1, 50)).astype(np.float32)).any()
    often = np.ones((100, 4), np.float32)
    often[:20] = 50  # a fifth of the data is no glitch
    assert not glitches(often).any()
    assert not glitches(np.array([[1.0], [50.0]], np.float32)).any()  # who is to say which of the two


def test_pictures_in_their_range_are_all_kept():
    images = given(RNG.random((40, 1, 6, 6), np.float32) * np.linspace(0.01, 1, 40)[:, None, None, None].astype("f"))
    assert without_glitches(images) == (images, [])


@pytest.mark.parametrize("bounded", [True, False])
def test_identical_inputs_are_refused(bounded):
    one = RNG.random((1, 1, 8, 8), np.float32)
    nearly = np.repeat(one, 200, axis=0)
    nearly[::2] += np.float32(1e-4)
    with pytest.raises(InputError, match=r"Got 200 identical .*expected varied ones"):
        remarks(given(np.clip(nearly, 0, 1), bounded))
    with pytest.raises(InputError, match="identical"):
        remarks(given(np.zeros((200, 3, 8, 8), np.float32), bounded))


def test_black_pictures_are_refused_before_any_work(tmp_path, model):
    stages = []
    black = np.zeros((200, 1, 16, 16), np.uint8)
    with pytest.raises(InputError, match="200 identical images"):
        export(model, tmp_path / "b", quantize="int8", calibration=black, on_progress=stages.append)
    assert stages == []


VARIED = RNG.random((300, 1, 8, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (VARIED, ""),
        (VARIED[np.arange(300) % 3], "only 3 of them are different"),
        (np.clip(VARIED[:1] + RNG.normal(0, 2 / 255, VARIED.shape), 0, 1).astype("f"), "nearly the same"),
        (np.repeat(np.repeat(RNG.random((300, 1, 1, 1)), 8, 2), 8, 3).astype("f"), "of one value each"),
        (0.3 * VARIED, "between 0.0"),
        (0.7 + 0.3 * VARIED, "between 0.7"),
        (np.where(VARIED > 0.99, 1, 0).astype("f"), ""),  # sparse, but varied
    ],
)
def test_a_set_that_shows_too_little_is_told(inputs, words):
    found = " ".join(remarks(given(inputs)))
    assert (words in found) if words else found == ""


def test_held_out_inputs_that_reach_further_are_told():
    narrow = signals(200)
    assert remarks(given(narrow, False, 3 * signals(50))) != []
    assert remarks(given(narrow, False, signals(50))) == []
    assert remarks(given(narrow, False)) == []


def test_columns_of_other_units_are_not_alike():
    rows = RNG.normal(size=(300, 5)).astype(np.float32) * np.array([1e6, 1, 1, 1e-3, 1], np.float32)
    rows[:, 4] = 1e9  # a constant column says nothing of the others
    images = ExportImages(rows[:250], rows[250:], real=True, bounded=False)
    assert remarks(images) == []
