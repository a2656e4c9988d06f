"""Going on with a run: what must be the same, and the optimiser's state."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from edgeae_runtime.errors import InputError

from edgeae.checkpoint import Checkpoint, Tensors, has_checkpoint, load_checkpoint
from edgeae.data import ImageSet
from edgeae.image_size import size_in_words
from edgeae.model import Autoencoder, AutoencoderConfig
from edgeae.training_config import TrainingConfig


def named_state(optimizer: torch.optim.Adam, model: Autoencoder) -> Tensors:
    """Adam's state per parameter as `<parameter>.<key>`, on the CPU."""
    return {
        f"{name}.{key}": value.detach().cpu()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def restore_state(optimizer: torch.optim.Adam, model: Autoencoder, tensors: Tensors) -> None:
    """Give Adam its state back, with the parameters' memory layout: another one would round differently.

    Raises:
        InputError: names or shapes are not those of the model's parameters.
    """
    shapes = {
        f"{name}.{key}": (torch.Size() if key == "step" else parameter.shape)
        for name, parameter in model.named_parameters()
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
        raise InputError("The optimiser's state does not fit the model. The checkpoint is damaged: train again.")
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {
            "step": tensors[f"{name}.step"],
            "exp_avg": torch.empty_like(parameter).copy_(tensors[f"{name}.exp_avg"]).detach(),
            "exp_avg_sq": torch.empty_like(parameter).copy_(tensors[f"{name}.exp_avg_sq"]).detach(),
        }


def previous_run(out: Path, data: ImageSet, model: AutoencoderConfig, training: TrainingConfig) -> Checkpoint | None:
    """The checkpoint to go on from, or None if there is none.

    With more epochs than before, the learning rate follows the longer run's schedule from there on.

    Raises:
        InputError: it is of a run with other settings, another model or other images, or has more epochs already.
    """
    if not has_checkpoint(out):
        return None
    previous = load_checkpoint(out)
    before, now = (  # epochs and device may differ
        dataclasses.asdict(dataclasses.replace(settings, epochs=1, device="auto"))
        for settings in (previous.training, training)
    )
    before |= _settings(previous.config) | {"images": previous.data_fingerprint}
    now |= _settings(model) | {"images": data.fingerprint}
    differing = [name for name in now if now[name] != before[name]]
    if differing:
        name = differing[0]
        raise InputError(
            f"{out} was trained with {name} = {before[name]}, but now {name} = {now[name]} was given; only epochs may "
            "be raised. Resume with the same settings, or train into another folder."
        )
    if training.epochs < previous.epochs_done:
        raise InputError(
            f"{out} has {previous.epochs_done} epochs already, but {training.epochs} were asked for. "
            "Give as many or more, or train into another folder."
        )
    return previous


def _settings(config: AutoencoderConfig) -> dict[str, object]:
    """A model's shape, with its size as it is typed."""
    return dataclasses.asdict(config) | {"image_size": size_in_words(config.image_size)}
