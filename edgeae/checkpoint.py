"""Checkpoints: a folder with a trained autoencoder and how it came about, checked before it is used.

`checkpoint.json` names two safetensors files, the model's weights and the optimiser's state, with their SHA-256.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from edgeae_runtime.errors import InputError
from safetensors import SafetensorError
from torch import Tensor

from edgeae.documents import (
    Document,
    damaged,
    entry,
    file_record,
    number,
    read_document,
    read_vouched,
    typed,
)
from edgeae.model import Autoencoder, AutoencoderConfig, Decoder, Encoder
from edgeae.training_config import TrainingConfig

FORMAT_VERSION = 1
CHECKPOINT_FILE = "checkpoint.json"
Tensors = dict[str, Tensor]
RECONSTRUCTION_WEIGHT = 500.0
"""What a variational autoencoder's cross-entropy per pixel counts against its KL divergence: the book's weight."""
_LATER_FIELDS = {"kind": "ae", "beta": 1.0, "kl_warmup": 0.0}  # a checkpoint from before they existed lacks them


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch brought; losses are means per pixel."""

    epoch: int
    """From 1."""
    train_loss: float
    """Binary cross-entropy in nats over the epoch, while the weights were changing."""
    validation_loss: float
    """Binary cross-entropy in nats on the test images, in float32, after the epoch."""
    validation_mse: float
    """Mean squared error on the test images, pixels in [0, 1], after the epoch."""
    learning_rate: float
    """Of the epoch's first step."""
    seconds: float
    """Of training, without the validation."""
    train_kl: float = 0.0
    """KL divergence from the prior in nats per image over the epoch; 0 for a plain autoencoder."""
    validation_kl: float = 0.0
    """The same on the test images, after the epoch."""

    @property
    def train_total(self) -> float:
        """The book's loss over the epoch: 500 times the cross-entropy per pixel, plus the KL divergence."""
        return RECONSTRUCTION_WEIGHT * self.train_loss + self.train_kl

    @property
    def validation_total(self) -> float:
        """The same on the test images."""
        return RECONSTRUCTION_WEIGHT * self.validation_loss + self.validation_kl


@dataclass(frozen=True)
class Checkpoint:
    """A trained autoencoder and how it came about."""

    path: Path
    """The folder."""
    model: Autoencoder
    """In eval mode, float32, on the CPU."""
    training: TrainingConfig
    """The settings asked for."""
    precision: str
    """What `auto` became: `float32` or `bfloat16`."""
    data_name: str
    """What `edgeae.data.load_images` takes to find the images again."""
    data_source: str
    """Where they came from, in words."""
    data_fingerprint: str
    """`ImageSet.fingerprint` of the images."""
    preprocessing: Mapping[str, object]
    """How a picture became an image: `source_size` [height, width], or `resize` (`size`, `fit`, `channels`), then `pad`
    [top, bottom, left, right], then `scale` from 8-bit pixels to [0, 1]."""
    history: tuple[EpochRecord, ...]
    """One record per finished epoch, the last one last."""
    entropy_floor: float
    """The binary cross-entropy of perfect reconstruction of the test images, in nats per pixel."""

    @property
    def encoder(self) -> Encoder:
        """float32 [batch, channels, height, width] in [0, 1] -> [batch, latent_dim], or mean and log-variance."""
        return self.model.encoder

    @property
    def decoder(self) -> Decoder:
        """float32 [batch, latent_dim] -> [batch, channels, height, width] in [0, 1]."""
        return self.model.decoder

    @property
    def config(self) -> AutoencoderConfig:
        """The shape of the model."""
        return self.model.config

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.config.image_shape

    @property
    def latent_dim(self) -> int:
        """Numbers in a latent."""
        return self.config.latent_dim

    @property
    def prior(self) -> str | None:
        """`"normal"` for a variational autoencoder: its latents are drawn from N(0, 1)."""
        return "normal" if self.config.kind == "vae" else None

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.training.seed

    @property
    def epochs_done(self) -> int:
        """Finished epochs."""
        return self.history[-1].epoch


def has_checkpoint(path: str | Path) -> bool:
    """Whether there is a checkpoint, valid or not, in a folder."""
    return (Path(path) / CHECKPOINT_FILE).is_file()


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint; digests are checked before anything is parsed.

    Args:
        path: its folder.

    Raises:
        InputError: there is none, it is damaged, or it is of another format version.
    """
    document, where = _read_checkpoint_document(Path(path))
    config = AutoencoderConfig(**_fields(AutoencoderConfig, entry(document, "config", dict, where), where))
    tensors = _read_tensors(document, "model", where)
    data = entry(document, "data", dict, where)
    return Checkpoint(
        path=Path(path),
        model=build_model(config, tensors, where),
        training=TrainingConfig(**_fields(TrainingConfig, entry(document, "training", dict, where), where)),
        precision=entry(document, "precision", str, where),
        data_name=entry(data, "name", str, where),
        data_source=entry(data, "source", str, where),
        data_fingerprint=entry(data, "fingerprint", str, where),
        preprocessing=_preprocessing(entry(document, "preprocessing", dict, where), where),
        history=_history(entry(document, "history", list, where), where),
        entropy_floor=number(document, "entropy_floor", where),
    )


def load_optimizer(path: str | Path) -> Tensors:
    """The optimiser's state of a checkpoint, by name.

    Raises:
        InputError: as for `load_checkpoint`.
    """
    document, where = _read_checkpoint_document(Path(path))
    return _read_tensors(document, "optimizer", where)


def build_model(config: AutoencoderConfig, tensors: Tensors, where: Path) -> Autoencoder:
    """A model in eval mode that takes the tensors as its weights, without copying them.

    Args:
        config: its shape.
        tensors: float32 weights by name.
        where: the document to name in errors.

    Raises:
        InputError: names, shapes or dtypes are not those of the config.
    """
    with torch.device("meta"):  # nothing is allocated before the shapes are known to fit
        model = Autoencoder(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise damaged(
            where, f"has weights that do not fit its config: {wrong[0]} is {found.get(wrong[0])}, expected "
            f"{expected.get(wrong[0])}"
        )  # fmt: skip
    if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise damaged(where, "has weights that are not float32")
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _read_checkpoint_document(folder: Path) -> tuple[Document, Path]:
    where = folder / CHECKPOINT_FILE
    if not where.is_file():
        raise InputError(
            f"There is no checkpoint in {folder}: expected a folder with {CHECKPOINT_FILE}. "
            f"Run `edgeae train --out {folder}` first."
        )
    document = read_document(where)
    found = entry(document, "format_version", int, where)
    if found != FORMAT_VERSION:
        remedy = "update edgeae" if found > FORMAT_VERSION else "train again"
        raise InputError(f"{where} has format version {found}, expected {FORMAT_VERSION}. To use it, {remedy}.")
    return document, where


def _read_tensors(document: Document, name: str, where: Path) -> Tensors:
    record = file_record(entry(document, "files", dict, where), name, where)
    content = read_vouched(where, record)
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise damaged(where, f"names {record.file}, which is no safetensors file ({error})") from error


def _fields(kind: type[AutoencoderConfig | TrainingConfig], document: Document, where: Path) -> Document:
    names = {field.name for field in dataclasses.fields(kind)}
    document = {name: value for name, value in _LATER_FIELDS.items() if name in names} | document
    if document.keys() != names:
        raise damaged(where, f"gives the settings {sorted(document)}, expected {sorted(names)}")
    if "widths" in names:
        return {**document, "widths": tuple(entry(document, "widths", list, where))}
    return document


def _preprocessing(document: Document, where: Path) -> Document:
    resize = document.get("resize")
    if resize is not None:
        typed(resize, dict, "'resize'", where)
        entry(resize, "fit", str, where)
        entry(resize, "channels", int, where)
    sources = [("pad", document), ("size", resize) if resize is not None else ("source_size", document)]
    for key, holder in sources:
        sizes, count = entry(holder, key, list, where), 4 if key == "pad" else 2
        if len(sizes) != count or any(typed(size, int, key, where) < 0 for size in sizes):
            raise damaged(where, f"has {sizes!r} for {key!r}, expected {count} whole numbers from 0")
    number(document, "scale", where)
    return document


def _history(records: list[object], where: Path) -> tuple[EpochRecord, ...]:
    history = []
    for index, record in enumerate(records):
        values = typed(record, dict, "an epoch", where)
        floats = {
            field.name: number({"train_kl": 0.0, "validation_kl": 0.0, **values}, field.name, where)
            for field in dataclasses.fields(EpochRecord)
            if field.name != "epoch"
        }
        if entry(values, "epoch", int, where) != index + 1:
            raise damaged(where, f"has epoch {values['epoch']} as number {index + 1} of its history")
        history.append(EpochRecord(epoch=index + 1, **floats))
    if not history:
        raise damaged(where, "has no finished epoch")
    return tuple(history)
