"""Writing checkpoints, so that whoever reads one finds it whole, whenever its writer was killed.

The tensor files are written first, then `checkpoint.json`, which names them, is replaced in one step; only then are
the old tensor files removed. Their names carry the epoch and a piece of their digest, so that a later run never
overwrites a file that the present document still names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import safetensors.torch
import torch
from edgeae_runtime.errors import InputError
from edgeae_runtime.files.documents import Document, json_bytes
from edgeae_runtime.files.file_record import FileRecord, record_of
from edgeae_runtime.files.writing import remove_leftovers, temporary_folder, write_atomically

from edgeae.checkpoint import CHECKPOINT_FILE, FORMAT_VERSION, Checkpoint, Tensors, read_document

METRICS_FILE = "metrics.json"

_OWN_FILE = re.compile(r"(model|optimizer)-\d+-[0-9a-f]{8}\.safetensors")
_LEFT_OVER = re.compile(r"\.(model|optimizer|checkpoint|metrics)\b.*\.partial")


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


def finish_checkpoint(checkpoint: Checkpoint) -> None:
    """Do what a writer that was killed just before its end left undone: the metrics, and the files of before.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = checkpoint.path
    named = read_document(folder / CHECKPOINT_FILE).within("files")
    keep = {named.within(name).take("file", str) for name in named.document}
    try:
        remove_leftovers(folder)
        metrics = folder / METRICS_FILE
        if not metrics.is_file() or metrics.read_bytes() != json_bytes(_metrics(checkpoint)):
            _write_json(metrics, _metrics(checkpoint))
        _remove_old(folder, keep)
    except OSError as error:
        raise unwritable(folder, error) from error


def check_writable(folder: Path) -> None:
    """Make the folder and write a file in it: better now than after an epoch.

    Raises:
        InputError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder) as probe:
            (probe / "test").write_bytes(b"edgeae")
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
        "files": {name: record.as_document() for name, record in files.items()},
        "data": {
            "name": checkpoint.data_name,
            "source": checkpoint.data_source,
            "fingerprint": checkpoint.data_fingerprint,
        },
        "preprocessing": checkpoint.preprocessing.as_document(),
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
    content = json_bytes(document)
    write_atomically(path, lambda file: file.write(content))


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
