"""Running a torch module on numpy arrays."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from edgeae_export.arrays import Float32Array, Run


def torch_runner(module: nn.Module, dtype: torch.dtype = torch.float32, batch: int = 256) -> Run:
    """A numpy-to-numpy function that runs a module in inference mode, in batches, to its first output."""
    run = torch_outputs(module, dtype, batch)
    return lambda inputs: run(inputs)[0]


def torch_outputs(
    module: nn.Module, dtype: torch.dtype = torch.float32, batch: int = 256
) -> Callable[[Float32Array], tuple[Float32Array, ...]]:
    """As `torch_runner`, to every output of a module that returns one tensor or a tuple of them."""
    module = copy.deepcopy(module).to(dtype).eval()

    def run(inputs: Float32Array) -> tuple[Float32Array, ...]:
        with torch.inference_mode():
            outputs = [module(chunk.to(dtype)) for chunk in torch.split(torch.from_numpy(inputs), batch)]
        rows = [each if isinstance(each, tuple) else (each,) for each in outputs]
        return tuple(np.concatenate([part.numpy() for part in parts]) for parts in zip(*rows, strict=True))

    return run
