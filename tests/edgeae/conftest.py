"""A data set and a model small enough to train in a test."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import pytest

from edgeae import AutoencoderConfig, ImageSet, TrainingConfig, load_images, train

TRAIN_SMALL = Path(__file__).parent / "train_small.py"


@pytest.fixture(scope="session")
def train_small():
    """The program `train_small.py`, as a module."""
    spec = importlib.util.spec_from_file_location("train_small", TRAIN_SMALL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small_set(train_small) -> ImageSet:
    """257 training and 101 test images."""
    return train_small.small_set(load_images("sample"))


@pytest.fixture(scope="session")
def small_model() -> AutoencoderConfig:
    """The usual shape with few channels."""
    return AutoencoderConfig(widths=(4, 8))


@pytest.fixture(scope="session")
def small_training() -> TrainingConfig:
    """Two epochs of five steps; the last batch holds one image."""
    return TrainingConfig(epochs=2, batch_size=64, precision="float32", device="cpu")


@pytest.fixture(scope="session")
def trained(tmp_path_factory, small_set, small_model, small_training):
    """A trained checkpoint; read only."""
    return train(small_set, tmp_path_factory.mktemp("trained") / "checkpoint", small_model, small_training)


@pytest.fixture
def checkpoint(tmp_path, trained):
    """The same one in a folder of its own, for tests that change it."""
    shutil.copytree(trained.path, tmp_path / "checkpoint")
    return dataclasses.replace(trained, path=tmp_path / "checkpoint")
