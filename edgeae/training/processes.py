"""The processes of a run, through accelerate: one by default, or those that a launcher started.

Started by `accelerate launch` or `torchrun`, every process runs the same program; nothing is started otherwise.
"""

from __future__ import annotations

import os

import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn


class Processes:
    """This process among those of the run."""

    def __init__(self, device: str = "auto") -> None:
        """Join the run.

        Args:
            device: `auto`, `cpu`, `cuda` or `mps`.

        Raises:
            InputError: the device is not there.
        """
        from accelerate import Accelerator  # takes a second to import, and loading a checkpoint needs none of it

        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not available.get(device, True):
            raise InputError(f"Got device {device!r}, but torch finds none here. Use `auto` or `cpu`.")
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        # accelerate keeps one state per interpreter: alone, the choice of a device stays out of it.
        self._accelerator = Accelerator(cpu=launched and device == "cpu", device_placement=False, mixed_precision="no")
        alone = self._accelerator.num_processes == 1
        self.device: torch.device = torch.device(device) if alone and device != "auto" else self._accelerator.device
        self.count: int = self._accelerator.num_processes
        self.is_main: bool = self._accelerator.is_main_process
        self.sum_dtype = torch.float32 if self.device.type == "mps" else torch.float64
        """For sums over many images."""

    def share(self, items: Tensor) -> Tensor:
        """This process's part of the items along the first axis; the parts differ by one item at most."""
        return items[self._accelerator.process_index :: self.count]

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Model and optimiser whose gradients are averaged over the processes; the weights become the main one's."""
        network, wrapped = self._accelerator.prepare(model, optimizer)
        return network, wrapped

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        self._accelerator.backward(loss)

    def sum(self, value: Tensor) -> float:
        """The sum of a scalar over all processes."""
        return float(value.item() if self.count == 1 else self._accelerator.reduce(value, reduction="sum").item())

    def all_agree(self, answer: bool) -> bool:
        """Whether the answer is yes in every process."""
        return self.sum(torch.tensor(float(answer), device=self.device)) == self.count

    def require_agreement(self, epochs_done: int) -> None:
        """All processes must go on from the same epoch.

        Raises:
            InputError: they do not: some see another checkpoint, or none.
        """
        if self.sum(torch.tensor(float(epochs_done), device=self.device)) != self.count * epochs_done:
            raise InputError(
                "The processes of this run see different checkpoints, expected the same. To resume on several "
                "machines, give a folder that all of them share."
            )

    def wait(self) -> None:
        """Wait until every process is here."""
        self._accelerator.wait_for_everyone()
