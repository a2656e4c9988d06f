"""Whether to run the network in bfloat16: only where the device is built for it and the loss does not suffer."""

from __future__ import annotations

import contextlib
import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_LOSS_CHANGE = 1e-3
"""Relative change of one batch's loss that bfloat16 may bring; its rounding alone brings about 1e-4."""
MIN_GRADIENT_COSINE = 0.99
"""Least cosine between the gradients in bfloat16 and in float32."""


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context for the network's forward pass; weights, loss and optimiser stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def choose_precision(requested: str, model: nn.Module, pixels: Tensor) -> str:
    """What `auto` becomes here.

    Args:
        requested: `float32`, `bfloat16` or `auto`.
        model: takes images to logits and something else; on its device, before training.
        pixels: float32 [batch, channels, height, width] in [0, 1], on the same device: a batch to try.

    Returns:
        `float32` or `bfloat16`.
    """
    if requested != "auto":
        return requested
    good = built_for_bfloat16(pixels.device) and bfloat16_keeps_the_loss(model, pixels)
    return "bfloat16" if good else "float32"


def built_for_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    wanted = ("avx512_bf16", "amx_bf16") if platform.machine().lower() in ("x86_64", "amd64") else ("bf16",)
    return any(capabilities.get(name, False) for name in wanted)


def bfloat16_keeps_the_loss(model: nn.Module, pixels: Tensor) -> bool:
    """Whether one batch has the same loss and nearly the same gradients in both precisions."""
    loss, gradient = _loss_and_gradient(model, pixels, "float32")
    low_loss, low_gradient = _loss_and_gradient(model, pixels, "bfloat16")
    change = (low_loss - loss).abs() / loss
    cosine = F.cosine_similarity(gradient, low_gradient, dim=0)
    return bool(change <= MAX_LOSS_CHANGE and cosine >= MIN_GRADIENT_COSINE)  # NaN fails both


def _loss_and_gradient(model: nn.Module, pixels: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    parameters = list(model.parameters())
    with autocast(pixels.device, precision):
        logits, _ = model(pixels)
    loss = F.binary_cross_entropy_with_logits(logits.float(), pixels)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)  # leaves .grad alone
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
