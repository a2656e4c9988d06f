"""Training: a plain loop over a seeded order of the images, the same on one process and on many.

Every process takes its share of each global batch, and sums are divided by the global count, so that gradients equal
those of a single process, also in an uneven last batch. The order of an epoch follows from the seed and the epoch
alone: resuming needs no state of a random generator.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from edgeae_runtime.bundle.preprocessing import Preprocessing
from edgeae_runtime.errors import EdgeAEError, InputError
from torch import Tensor

from edgeae.checkpoint import (
    Checkpoint,
    EpochRecord,
    build_model,
    has_checkpoint,
    load_optimizer,
)
from edgeae.checkpoint_writer import check_writable, finish_checkpoint, save_checkpoint
from edgeae.data import ImageSet, entropy_floor, padding, prepare
from edgeae.model import RECONSTRUCTION_WEIGHT, Autoencoder, AutoencoderConfig
from edgeae.training.precision import autocast, choose_precision
from edgeae.training.processes import Processes
from edgeae.training.resume import named_state, previous_run, restore_state
from edgeae.training_config import TrainingConfig

__all__ = ["TrainingConfig", "TrainingDivergedError", "TrainingProgress", "learning_rate", "train"]

_VALIDATION_BATCH = 512
_PENALTY = 1e-3  # per squared logit beyond the bound; the cross-entropy of the default run stays as it is
_REPORTS_PER_EPOCH = 100  # each costs a wait for the device, and between processes a small message


class TrainingDivergedError(EdgeAEError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run stands."""

    epoch: int
    """The running epoch, from 1."""
    epochs: int
    """Epochs in all."""
    step: int
    """Steps done in this epoch."""
    steps: int
    """Steps per epoch."""
    loss: float
    """Mean binary cross-entropy per pixel so far in this epoch, in nats."""
    kl: float
    """Mean KL divergence per image so far in this epoch, in nats; 0 for a plain autoencoder."""
    seconds_left: float
    """Expected until the end of the run."""
    validation_loss: float | None = None
    """Given with the event that ends an epoch."""


def train(
    data: ImageSet,
    out: Path | str,
    model: AutoencoderConfig | None = None,
    training: TrainingConfig | None = None,
    *,
    resume: bool = False,
    overwrite: bool = True,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> Checkpoint:
    """Train an autoencoder; every finished epoch is written as a checkpoint.

    Runs in one process, or in all those that `accelerate launch` or `torchrun` started; then only the main one
    writes and reports. The same seed on the same machine gives the same weights, and a resumed run those of a run that
    was never stopped.

    Args:
        data: the images.
        out: the checkpoint's folder. A checkpoint that is there stays valid until the first epoch is done.
        model: the shape of the autoencoder; `AutoencoderConfig()` by default.
        training: the settings; `TrainingConfig()` by default.
        resume: go on after the last finished epoch of `out`, if there is one; `epochs` may be raised.
        overwrite: whether a checkpoint at `out` may be replaced by a new run.
        on_progress: told about progress some hundred times per epoch.

    Returns:
        The checkpoint of the last epoch.

    Raises:
        InputError: the data do not fit the model, `out` cannot be written, or `resume` finds another run there.
        TrainingDivergedError: the loss became NaN or infinite; the last good checkpoint stays.
    """
    out, model, training = Path(out), model or AutoencoderConfig(), training or TrainingConfig()
    previous = previous_run(out, data, model, training) if resume else None
    if not resume and not overwrite and has_checkpoint(out):
        raise InputError(f"{out} holds a checkpoint already. Resume it, overwrite it, or choose another folder.")
    images = _Images.of(data, model)
    processes = Processes(training.device)
    processes.require_agreement(previous.epochs_done if previous else 0)
    if previous is not None and previous.epochs_done == training.epochs:
        if processes.is_main:
            finish_checkpoint(previous)
        return previous
    if processes.is_main:
        check_writable(out)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        return _Trainer(data, images, out, model, training, processes, previous).run(
            on_progress or (lambda event: None)
        )


def learning_rate(step: int, steps: int, initial: float) -> float:
    """Adam's step size: `initial` for the first half of a run, then linearly down to zero.

    Args:
        step: steps done, from 0.
        steps: steps in the whole run.
        initial: the rate to start with.
    """
    return initial * min(1.0, 2 * (1 - step / steps))


def logit_penalty(logits: Tensor, bound: float) -> Tensor:
    """Sum of the squared excess of the logits over `bound`, on either side, times a small weight.

    sigmoid(10) is within 0.00005 of one: beyond it a logit only stretches the ranges that int8 has to cover. Not part
    of the reported losses.
    """
    if bound == 0:
        return logits.new_zeros(())
    return _PENALTY * F.relu(logits.abs() - bound).square().sum()


@dataclass(frozen=True)
class _Images:
    """The data as the model takes them: uint8 [n, channels, height, width]."""

    train: Tensor
    test: Tensor
    preprocessing: Preprocessing
    entropy_floor: float

    @classmethod
    def of(cls, data: ImageSet, config: AutoencoderConfig) -> _Images:
        channels, height, width = data.train_images.shape[1:]
        if channels != config.channels:
            raise InputError(
                f"Got images of {channels} channels for a model of {config.channels}, expected the same. "
                f"Give the model channels={channels}."
            )
        test = prepare(data.test_images, config.image_size)
        return cls(
            train=torch.from_numpy(prepare(data.train_images, config.image_size)),
            test=torch.from_numpy(test),
            preprocessing=replace(
                data.preprocessing,
                source_size=None if data.preprocessing.fit else (height, width),
                pad=padding(height, width, config.image_size),
            ),
            entropy_floor=entropy_floor(test),
        )


class _Trainer:
    """One run: the model, its optimiser and where they stand."""

    def __init__(
        self,
        data: ImageSet,
        images: _Images,
        out: Path,
        config: AutoencoderConfig,
        training: TrainingConfig,
        processes: Processes,
        previous: Checkpoint | None,
    ) -> None:
        self.data, self.images, self.out, self.training, self.processes = data, images, out, training, processes
        self.memory_format = torch.channels_last if training.channels_last else torch.contiguous_format
        self.train_images, self.test_images = (part.to(processes.device) for part in (images.train, images.test))
        self.autoencoder = previous.model if previous else _new_model(config, training.seed)
        self.autoencoder.to(processes.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        adam = torch.optim.Adam(self.autoencoder.parameters(), lr=training.learning_rate)
        if previous is not None:
            restore_state(adam, self.autoencoder, load_optimizer(out))
        self.history = list(previous.history) if previous else []
        self.precision = previous.precision if previous else self._choose_precision()
        self.adam, self.steps = adam, math.ceil(len(images.train) / training.batch_size)
        self.network, self.optimizer = processes.prepare(self.autoencoder, adam)

    def run(self, tell: Callable[[TrainingProgress], None]) -> Checkpoint:
        """Train the epochs that are left; write and report from the main process."""
        if not self.processes.is_main:
            tell = lambda event: None  # noqa: E731
        start, first = time.monotonic(), len(self.history)
        for epoch in range(first + 1, self.training.epochs + 1):
            epoch_start = time.monotonic()
            progress = TrainingProgress(epoch, self.training.epochs, 0, self.steps, math.nan, math.nan, math.nan)
            for step, loss, kl in self._train_epoch(epoch):
                done = (epoch - 1 - first) * self.steps + step
                left = (self.training.epochs - epoch + 1) * self.steps - step
                seconds_left = (time.monotonic() - start) / done * left
                progress = dataclasses.replace(progress, step=step, loss=loss, kl=kl, seconds_left=seconds_left)
                self._require_finite(loss + kl, epoch, step)
                tell(progress)
            seconds = time.monotonic() - epoch_start
            validation_loss, mse, kl = self._validate()
            self._require_finite(validation_loss + kl, epoch, self.steps)
            rate = self._learning_rate(epoch, 0)
            self.history.append(EpochRecord(epoch, progress.loss, validation_loss, mse, rate, seconds, progress.kl, kl))
            checkpoint = self._checkpoint()
            if self.processes.is_main:
                save_checkpoint(checkpoint, named_state(self.adam, self.autoencoder))
            tell(dataclasses.replace(progress, validation_loss=validation_loss))
        self.processes.wait()
        return checkpoint

    def _train_epoch(self, epoch: int) -> Iterator[tuple[int, float, float]]:
        """Yield, now and then and after the last step, the steps done, the mean loss and the mean KL so far."""
        self.network.train()
        totals = torch.zeros(2, dtype=self.processes.sum_dtype, device=self.processes.device)
        seen, pixels_per_image = 0, self.images.train[0].numel()
        report_every = max(1, self.steps // _REPORTS_PER_EPOCH)
        order = _epoch_order(len(self.train_images), self.training.seed, epoch)
        for step, batch in enumerate(torch.split(order, self.training.batch_size), start=1):
            pixels = self._pixels(self.train_images[self.processes.share(batch).to(self.processes.device)])
            noise = self._noise(epoch, step, len(batch))
            with autocast(self.processes.device, self.precision):
                logits, divergence = self.network(pixels, noise)
            loss_sum = F.binary_cross_entropy_with_logits(logits.float(), pixels, reduction="sum")
            penalty = logit_penalty(logits.float(), self.training.logit_bound)
            kl_sum = divergence.float().sum()
            weight = self._kl_weight(epoch, step) * pixels_per_image / RECONSTRUCTION_WEIGHT
            # Processes average their gradients; times their number, that is the sum over the global batch.
            loss = (loss_sum + penalty + weight * kl_sum) * (self.processes.count / (len(batch) * pixels_per_image))
            for group in self.adam.param_groups:
                group["lr"] = self._learning_rate(epoch, step - 1)
            self.optimizer.zero_grad()
            self.processes.backward(loss)
            self.optimizer.step()
            totals += torch.stack([loss_sum.detach(), kl_sum.detach()])
            seen += len(batch)
            if step % report_every == 0 or step == self.steps:
                loss_so_far, kl_so_far = (self.processes.sum(part) for part in totals)
                yield step, loss_so_far / (seen * pixels_per_image), kl_so_far / seen

    @torch.inference_mode()
    def _validate(self) -> tuple[float, float, float]:
        """On the test images, in float32, from the mean latents: cross-entropy and squared error per pixel, and KL."""
        self.autoencoder.eval()
        sums = torch.zeros(3, dtype=self.processes.sum_dtype, device=self.processes.device)
        for batch in torch.split(self.processes.share(self.test_images), _VALIDATION_BATCH):
            pixels = self._pixels(batch)
            logits, divergence = self.autoencoder(pixels)
            sums[0] += F.binary_cross_entropy_with_logits(logits, pixels, reduction="sum")
            sums[1] += F.mse_loss(logits.sigmoid(), pixels, reduction="sum")
            sums[2] += divergence.sum()
        cross_entropy, squared_error, kl = (self.processes.sum(part) for part in sums)
        pixels_in_all = self.test_images.numel()
        return cross_entropy / pixels_in_all, squared_error / pixels_in_all, kl / len(self.test_images)

    def _noise(self, epoch: int, step: int, count: int) -> Tensor | None:
        """This process's share of the noise of a global batch: it follows from the seed and the place alone."""
        if self.autoencoder.config.kind != "vae":
            return None
        (mixed,) = np.random.SeedSequence((self.training.seed, epoch, step)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
        noise = torch.randn(count, self.autoencoder.config.latent_dim, generator=generator)
        return self.processes.share(noise).to(self.processes.device)

    def _kl_weight(self, epoch: int, step: int) -> float:
        """The weight of the KL term at a step, counted from 1."""
        warmup, done = self.training.kl_warmup, epoch - 1 + step / self.steps
        return self.training.beta * (min(1.0, done / warmup) if warmup else 1.0)

    def _pixels(self, images: Tensor) -> Tensor:
        """uint8 images to float32 in [0, 1]."""
        return images.to(torch.float32).div_(255).contiguous(memory_format=self.memory_format)

    def _learning_rate(self, epoch: int, step: int) -> float:
        done = (epoch - 1) * self.steps + step
        return learning_rate(done, self.training.epochs * self.steps, self.training.learning_rate)

    def _choose_precision(self) -> str:
        """All processes must agree: one that cannot run bfloat16 well decides for all."""
        batch = self._pixels(self.train_images[: min(self.training.batch_size, 128)])
        chosen = choose_precision(self.training.precision, self.autoencoder, batch)
        return "bfloat16" if self.processes.all_agree(chosen == "bfloat16") else "float32"

    def _require_finite(self, loss: float, epoch: int, step: int) -> None:
        if math.isfinite(loss):
            return
        kept = f"The checkpoint of epoch {epoch - 1} is kept. " if epoch > 1 else ""
        raise TrainingDivergedError(
            f"The loss became {loss} in epoch {epoch}, by step {step} of {self.steps}. {kept}"
            f"Train with a learning rate below {self.training.learning_rate:g}, or in float32."
        )

    def _checkpoint(self) -> Checkpoint:
        tensors = {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self.autoencoder.state_dict().items()
        }
        return Checkpoint(
            path=self.out,
            model=build_model(self.autoencoder.config, tensors, self.out),
            training=self.training,
            precision=self.precision,
            data_name=self.data.name,
            data_source=self.data.source,
            data_fingerprint=self.data.fingerprint,
            preprocessing=self.images.preprocessing,
            history=tuple(self.history),
            entropy_floor=self.images.entropy_floor,
        )


def _new_model(config: AutoencoderConfig, seed: int) -> Autoencoder:
    """A model with seeded weights; the caller's random generator is as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the caller's GPUs
        return Autoencoder(config)


def _epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the images in an epoch: int64 [count]."""
    (mixed,) = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return torch.randperm(count, generator=torch.Generator().manual_seed(int(mixed >> np.uint64(1))))
