"""Checkpoints: a folder with a trained autoencoder and how it came about, checked before it is used.

`checkpoint.json` names two safetensors files, the model's weights and the optimiser's state, with their SHA-256.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from edgeae_runtime.bundle.preprocessing import Preprocessing
from edgeae_runtime.errors import InputError, gist, shown
from edgeae_runtime.files.documents import Document, Entries
from edgeae_runtime.files.file_record import FileRecord, record_of
from edgeae_runtime.files.regular import read_regular
from safetensors import SafetensorError
from torch import Tensor

from edgeae.model import RECONSTRUCTION_WEIGHT, Autoencoder, AutoencoderConfig, Decoder, Encoder
from edgeae.training_config import TrainingConfig

FORMAT_VERSION = 1
CHECKPOINT_FILE = "checkpoint.json"
Tensors = dict[str, Tensor]
MAX_DOCUMENT_BYTES = 16 << 20
MAX_FILE_BYTES = 1 << 32
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
    preprocessing: Preprocessing
    """How a picture became an image: padded from `source_size`, or brought to `size` by `fit`."""
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
    where = Path(path) / CHECKPOINT_FILE
    document = read_document(where)
    config = AutoencoderConfig(**_fields(AutoencoderConfig, document.within("config")))
    tensors = _read_tensors(document, "model", where)
    data = document.within("data")
    return Checkpoint(
        path=Path(path),
        model=build_model(config, tensors, where),
        training=TrainingConfig(**_fields(TrainingConfig, document.within("training"))),
        precision=document.take("precision", str),
        data_name=data.take("name", str),
        data_source=data.take("source", str),
        data_fingerprint=data.take("fingerprint", str),
        preprocessing=_preprocessing(document.within("preprocessing"), config),
        history=_history(document),
        entropy_floor=document.number("entropy_floor"),
    )


def load_optimizer(path: str | Path) -> Tensors:
    """The optimiser's state of a checkpoint, by name.

    Raises:
        InputError: as for `load_checkpoint`.
    """
    where = Path(path) / CHECKPOINT_FILE
    return _read_tensors(read_document(where), "optimizer", where)


def read_document(where: Path) -> Entries:
    """A checkpoint's document, of a format version that this edgeae reads.

    Raises:
        InputError: there is none, it cannot be read, is too large, is no JSON object, or is of another version.
    """
    if not where.is_file():
        raise InputError(
            f"There is no checkpoint in {where.parent}: expected a folder with {CHECKPOINT_FILE}. "
            f"Run `edgeae train --out {where.parent}` first."
        )
    raw = read_regular(where, MAX_DOCUMENT_BYTES, "a document that edgeae wrote")
    document = Entries.parse(raw, lambda problem: _damaged(where, problem), None)
    found = document.take("format_version", int)
    if found != FORMAT_VERSION:
        remedy = "update edgeae" if found > FORMAT_VERSION else "train again"
        raise InputError(f"{where} has format version {found}, expected {FORMAT_VERSION}. To use it, {remedy}.")
    return document


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
        raise _damaged(
            where, f"has weights that do not fit its config: {wrong[0]} is {found.get(wrong[0])}, expected "
            f"{expected.get(wrong[0])}"
        )  # fmt: skip
    if any(tensor.dtype != torch.float32 for tensor in tensors.values()):
        raise _damaged(where, "has weights that are not float32")
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _read_tensors(document: Entries, name: str, where: Path) -> Tensors:
    record = FileRecord.of(document.within("files").within(name), MAX_FILE_BYTES)
    content = _read_vouched(where, record)
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise document.error(f"names {record.file}, which is no safetensors file ({gist(error)})") from error


def _read_vouched(where: Path, record: FileRecord) -> bytes:
    """The content of a file beside the document, once it is known to be the recorded one."""
    file = where.parent / record.file
    if file.is_symlink() or not file.is_file():
        raise _damaged(where, f"names {record.file}, which is no file in the folder")
    try:
        size = file.stat().st_size
        if size != record.bytes:
            raise _damaged(where, f"gives {record.file} {record.bytes} bytes, but it has {size}")
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {file} ({error.strerror}). Check its permissions.") from error
    if record_of(record.file, content) != record:
        raise _damaged(where, f"gives {record.file} the SHA-256 {record.sha256}, but its bytes have another")
    return content


def _fields(kind: type[AutoencoderConfig | TrainingConfig], settings: Entries) -> Document:
    names = {field.name for field in dataclasses.fields(kind)}
    document = {name: value for name, value in _LATER_FIELDS.items() if name in names} | settings.document
    if document.keys() != names:
        raise settings.error(f"gives the settings {sorted(document)}, expected {sorted(names)}")
    if "widths" in names:
        return {**document, "widths": tuple(settings.take("widths", list))}
    return document


def _preprocessing(document: Entries, config: AutoencoderConfig) -> Preprocessing:
    found = Preprocessing.of(document)
    resized = found.fit is not None and found.size is not None and found.channels is not None
    if not resized and found.source_size is None:
        raise document.error("has neither 'source_size' nor 'resize' with 'size', 'fit' and 'channels'")
    if not found.makes(config.image_shape):
        raise document.error(f"pads pictures by {list(found.pad)}, which does not make {list(config.image_shape)}")
    return found


def _history(document: Entries) -> tuple[EpochRecord, ...]:
    history = []
    for index, record in enumerate(document.each("history")):
        floats = {
            field.name: record.number(field.name, missing=0.0 if field.name in ("train_kl", "validation_kl") else None)
            for field in dataclasses.fields(EpochRecord)
            if field.name != "epoch"
        }
        if record.take("epoch", int) != index + 1:
            raise record.error(f"has epoch {record.document['epoch']} as number {index + 1} of its history")
        history.append(EpochRecord(epoch=index + 1, **floats))
    if not history:
        raise document.error("has no finished epoch")
    return tuple(history)


def _damaged(where: Path, problem: str) -> InputError:
    return InputError(f"{shown(where)} {problem}. It is damaged or was not made by edgeae: train again.")
