"""Which models the zoo holds, where they come from, and their weights."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from benchmarks.zoo.inputs import Inputs, chairs_samples, digits, patches, toycar_rows
from benchmarks.zoo.models import BurgessVAE, CifarAutoencoder, Taef2, ToyCar

VARIABLE = "EDGEAE_ZOO"
"""The environment variable that names the weights' folder, where it is not the usual one."""
BESIDE = Path(__file__).parents[3] / "shared" / "weights"
"""The usual one, beside the project: the weights are not part of it."""


class ZooMissingError(Exception):
    """The weights are not on this machine."""


@dataclass(frozen=True)
class ZooModel:
    """One trained model."""

    name: str
    build: Callable[[], nn.Module]
    files: dict[str, str]
    """Per weight file, the prefix of its tensors' names in the module."""
    inputs: Callable[[nn.Module], Inputs]
    """Real inputs, or the model's own; see `Inputs.what`."""
    origin: str
    licence: str


ZOO = (
    ZooModel(
        "disentangling-vae, MNIST",
        functools.partial(BurgessVAE, 32),
        {"disentangling_vae_mnist": ""},
        lambda model: digits(),
        "YannDubs/disentangling-vae",
        "MIT",
    ),
    ZooModel(
        "disentangling-vae, chairs",
        functools.partial(BurgessVAE, 64),
        {"disentangling_vae_chairs": ""},
        chairs_samples,
        "YannDubs/disentangling-vae",
        "MIT",
    ),
    ZooModel(
        "taef2",
        Taef2,
        {"taef2_encoder": "encoder.", "taef2_decoder": "decoder."},
        lambda model: patches(64),
        "madebyollin/taesd",
        "MIT",
    ),
    ZooModel(
        "cifar_autoencoder",
        CifarAutoencoder,
        {"cifar_autoencoder": ""},
        lambda model: patches(32),
        "chenjie/PyTorch-CIFAR-10-autoencoder",
        "MIT",
    ),
    ZooModel(
        "MLPerf Tiny ToyCar",
        ToyCar,
        {"toycar": ""},
        lambda model: toycar_rows(folder() / "toycar_rows.npy"),
        "mlcommons/tiny",
        "Apache-2.0",
    ),
)


def folder() -> Path:
    """Where the weights lie.

    Raises:
        ZooMissingError: they are not there.
    """
    found = Path(os.environ.get(VARIABLE) or BESIDE)
    if not (found / "toycar.safetensors").is_file():
        raise ZooMissingError(
            f"The zoo's weights are not in {found}: they are no part of this project. Set {VARIABLE} to their folder."
        )
    return found


def load(entry: ZooModel) -> nn.Module:
    """The trained module in float32 and eval mode; every tensor must fit.

    Raises:
        ZooMissingError: the weights are not there.
    """
    model = entry.build()
    tensors = {
        prefix + name: tensor.float()
        for file, prefix in entry.files.items()
        for name, tensor in safetensors.torch.load_file(folder() / f"{file}.safetensors").items()
    }
    counters = {name: torch.tensor(0) for name in model.state_dict() if name.endswith("num_batches_tracked")}
    model.load_state_dict(counters | tensors)  # the counters only matter to training, and Keras has none
    return model.eval().requires_grad_(False)
