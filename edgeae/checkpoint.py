"""Checkpoints: a folder that holds a trained autoencoder, valid at every moment, whenever its writer is killed.

`checkpoint.json` names the two tensor files with their SHA-256 and is replaced, in one step, only when both are
completely written. The files' names carry the epoch and a piece of their digest, so that a later run never overwrites
a file that the present document still names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import safetensors.torch
import torch
from edgeae_runtime.errors import InputError
from edgeae_runtime.images import write_atomically
from safetensors import SafetensorError
from torch import Tensor

from edgeae.documents import (
    Document,
    FileRecord,
    damaged,
    entry,
    file_record,
    number,
    read_document,
    read_vouched,
    record_of,
    typed,
)
from edgeae.model import Autoencoder, AutoencoderConfig, Decoder, Encoder
from edgeae.training_config import TrainingConfig

FORMAT_VERSION = 1
CHECKPOINT_FILE = "checkpoint.json"
METRICS_FILE = "metrics.json"
Tensors = dict[str, Tensor]

_OWN_FILE = re.compile(r"(model|optimizer)-\d+-[0-9a-f]{8}\.safetensors")
_LEFT_OVER = re.compile(r"\.(model|optimizer|checkpoint|metrics)\b.*\.partial")


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
    """How a picture became an image: `source_size` [height, width], `resize` (none), `pad` [top, bottom, left, right],
    `scale` from 8-bit pixels to [0, 1]."""
    history: tuple[EpochRecord, ...]
    """One record per finished epoch, the last one last."""
    entropy_floor: float
    """The binary cross-entropy of perfect reconstruction of the test images, in nats per pixel."""

    @property
    def encoder(self) -> Encoder:
        """float32 [batch, channels, height, width] in [0, 1] -> [batch, latent_dim]."""
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
    def seed(self) -> int:
        """The run's seed."""
        return self.training.seed

    @property
    def epochs_done(self) -> int:
        """Finished epochs."""
        return self.history[-1].epoch


def save_checkpoint(checkpoint: Checkpoint, optimizer: Tensors) -> None:
    """Write a checkpoint to its `path`; the one that was there stays valid until the new one is.

    Args:
        checkpoint: what to write.
        optimizer: the optimiser's state by name, on the CPU.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    folder, epoch = checkpoint.path, checkpoint.epochs_done
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            "model": _write_tensors(folder, f"model-{epoch:04d}", checkpoint.model.state_dict()),
            "optimizer": _write_tensors(folder, f"optimizer-{epoch:04d}", optimizer),
        }
        _write_json(folder / CHECKPOINT_FILE, _document(checkpoint, files))
        _write_json(folder / METRICS_FILE, _metrics(checkpoint))
        _remove_old(folder, {record.file for record in files.values()})
    except OSError as error:
        raise unwritable(folder, error) from error


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


def check_writable(folder: Path) -> None:
    """Make the folder and write a file in it: better now than after an epoch.

    Raises:
        InputError: it cannot be made or written.
    """
    probe = folder / ".write-test"
    try:
        write_atomically(probe, lambda file: file.write(b"edgeae"))
        probe.unlink()
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> InputError:
    """The error for a folder that does not take a checkpoint."""
    return InputError(
        f"Cannot write the checkpoint to {folder} ({error.strerror or error}). "
        "Free space there, or choose another folder."
    )


def _document(checkpoint: Checkpoint, files: Mapping[str, FileRecord]) -> Document:
    return {
        "format_version": FORMAT_VERSION,
        "config": asdict(checkpoint.config),
        "files": {name: asdict(record) for name, record in files.items()},
        "data": {
            "name": checkpoint.data_name,
            "source": checkpoint.data_source,
            "fingerprint": checkpoint.data_fingerprint,
        },
        "preprocessing": dict(checkpoint.preprocessing),
        "training": asdict(checkpoint.training),
        "precision": checkpoint.precision,
        "history": [asdict(record) for record in checkpoint.history],
        "entropy_floor": checkpoint.entropy_floor,
        "versions": {"edgeae": version("edgeae"), "torch": str(torch.__version__)},
    }


def _metrics(checkpoint: Checkpoint) -> Document:
    return {
        "schema": "edgeae-training",
        "schema_version": 1,
        "data": {"name": checkpoint.data_name, "source": checkpoint.data_source},
        "precision": checkpoint.precision,
        "entropy_floor": checkpoint.entropy_floor,
        "history": [asdict(record) for record in checkpoint.history],
    }


def _write_json(path: Path, document: Document) -> None:
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _write_tensors(folder: Path, stem: str, tensors: Tensors) -> FileRecord:
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    record = record_of(f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.safetensors", content)
    write_atomically(folder / record.file, lambda file: file.write(content))
    return record


def _remove_old(folder: Path, keep: set[str]) -> None:
    for file in folder.iterdir():
        old = _OWN_FILE.fullmatch(file.name) and file.name not in keep
        if old or _LEFT_OVER.fullmatch(file.name):
            file.unlink(missing_ok=True)


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
    if document.keys() != names:
        raise damaged(where, f"gives the settings {sorted(document)}, expected {sorted(names)}")
    if "widths" in names:
        return {**document, "widths": tuple(entry(document, "widths", list, where))}
    return document


def _preprocessing(document: Document, where: Path) -> Document:
    for key, count in (("source_size", 2), ("pad", 4)):
        sizes = entry(document, key, list, where)
        if len(sizes) != count or any(typed(size, int, key, where) < 0 for size in sizes):
            raise damaged(where, f"has {sizes!r} for {key!r}, expected {count} whole numbers from 0")
    number(document, "scale", where)
    return document


def _history(records: list[object], where: Path) -> tuple[EpochRecord, ...]:
    history = []
    for index, record in enumerate(records):
        values = typed(record, dict, "an epoch", where)
        floats = {
            field.name: number(values, field.name, where)
            for field in dataclasses.fields(EpochRecord)
            if field.name != "epoch"
        }
        if entry(values, "epoch", int, where) != index + 1:
            raise damaged(where, f"has epoch {values['epoch']} as number {index + 1} of its history")
        history.append(EpochRecord(epoch=index + 1, **floats))
    if not history:
        raise damaged(where, "has no finished epoch")
    return tuple(history)
