"""What cannot be exported is told before anything is traced, with the layer's name."""

import numpy as np
import pytest
import torch
from edgeae_export import OwnModel, export
from edgeae_export.modules.soundness import refuse_broken_outputs, refuse_broken_weights
from edgeae_runtime import InputError, verify
from torch import nn


def refused(model, out, words, **options):
    stages = []
    with pytest.raises(InputError, match=words):
        export(model, out, on_progress=stages.append, **options)
    assert not any("trace" in stage for stage in stages)
    assert not out.exists()


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_broken_weights_are_named(model, images, tmp_path, value, word):
    with torch.no_grad():
        model.decoder[2].weight[2, 3, 1, 1] = value
    words = rf"weights hold {word}: decoder\.2\.weight of Sequential, in 1 of 576 numbers"
    refused(model, tmp_path / "bundle", words, quantize="int8", calibration=images)
    refused((model.encoder, model.decoder), tmp_path / "bundle", words, calibration=images)


def test_lazy_weights_are_no_concern_here():
    refuse_broken_weights(nn.Sequential(nn.LazyLinear(3)), None, "a name")


class Masked(nn.Module):
    """Attention over rows with -inf above the diagonal, which is as it should be."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("mask", torch.full((16, 16), -torch.inf).triu(1))
        self.query, self.out = nn.Linear(16, 16), nn.Linear(256, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 256), nn.Sigmoid(), nn.Unflatten(1, (1, 16, 16)))

    def encode(self, x):
        rows = x[:, 0]
        weights = torch.softmax(self.query(rows) @ rows.transpose(1, 2) + self.mask, -1)
        return self.out((weights @ rows).flatten(1))

    def decode(self, z):
        return self.decoder(z)


def test_an_infinite_mask_is_exported(images, tmp_path):
    export(Masked().eval(), tmp_path / "bundle", calibration=images)
    assert all(check.passed for check in verify(tmp_path / "bundle"))


class Logarithm(nn.Module):
    """-inf for black pixels."""

    def forward(self, x):
        return torch.log(x - 0.05)


def test_a_model_that_is_not_finite_on_real_images_is_told_with_the_layer(model, images, tmp_path):
    model.encoder = nn.Sequential(nn.Identity(), Logarithm(), *model.encoder).eval()
    refused(model, tmp_path / "bundle", r"The encoder itself, in torch, .*1 \(Logarithm\)", calibration=images)


def test_where_no_layer_is_to_blame_that_is_said():
    class Between(nn.Module):
        def forward(self, x):
            return x / (x - x)

    x = np.ones((2, 3), np.float32)
    with pytest.raises(InputError, match="between the layers"):
        refuse_broken_outputs("encoder", Between(), x, [np.full_like(x, np.nan)])


def test_statistics_of_the_batch_are_refused_with_their_layer(model, images, tmp_path):
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(8, track_running_stats=False) for _ in range(2)]
    layers = list(model.encoder)
    model.encoder = nn.Sequential(layers[0], norms[0], *layers[1:3], norms[1], *layers[3:]).eval()
    words = r"depends on the images beside it.* 1 \(BatchNorm2d\) keeps no running statistics.*as 2 such layers do"
    refused(model, tmp_path / "bundle", words, calibration=images)


def test_any_other_dependence_on_neighbours_is_refused(model, images, tmp_path):
    class Centred(nn.Module):
        def forward(self, x):
            return x - x.mean(0, keepdim=True)

    model.encoder = nn.Sequential(*model.encoder, Centred()).eval()
    refused(model, tmp_path / "bundle", "depends on the images beside it.*axis 0", calibration=images)


def test_statistics_of_one_image_are_fine(model, images, tmp_path):
    layers = list(model.encoder)
    model.encoder = nn.Sequential(layers[0], nn.InstanceNorm2d(8), *layers[1:]).eval()
    export(model, tmp_path / "bundle", calibration=images)
    assert all(check.passed for check in verify(tmp_path / "bundle"))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_weights_are_looked_at_behind_a_wrapper(model, images, tmp_path, wrap):
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = model.encoder, model.decoder

        def forward(self, x):
            return self.decoder(self.encoder(x))

    whole = Whole().eval()
    export(wrap(whole), tmp_path / "bundle", calibration=images)
    export(
        wrap(whole),
        tmp_path / "named",
        calibration=images,
        own_model=OwnModel(encoder=wrap(whole.encoder), decoder=whole.decoder),
    )
    with torch.no_grad():
        whole.decoder[2].weight[1, 2, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"hold NaN: decoder.2.weight of Whole, in 1 of"):
        export(wrap(whole), tmp_path / "broken", calibration=images)
