"""From a torch module to an ONNX graph: traced with a dynamic batch, freed of what only its makers need."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn

from edgeae_export.graph import OPSET, check_self_contained, clean


def trace(module: nn.Module, example: Tensor, input_name: str, output_name: str) -> onnx.ModelProto:
    """Trace a module with one input and one output.

    Args:
        module: in eval mode, float32, on the CPU.
        example: an input of any batch from 2, [batch, …]; its values do not matter.
        input_name: what the graph's input is called.
        output_name: what its output is called.

    Returns:
        A single-file model of `OPSET` and `IR_VERSION` whose batch axis is dynamic.

    Raises:
        InputError: torch cannot trace the module, or froze its batch axis.
    """
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                (example,),
                input_names=[input_name],
                output_names=[output_name],
                dynamic_shapes=({0: batch},),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
            raise InputError(
                f"torch cannot trace {type(module).__name__} into one graph: {_first_lines(error)} Expected a module "
                "without control flow that depends on values, and without a fixed batch size."
            ) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    clean(model)
    _name_batch(model)
    onnx.checker.check_model(model, full_check=True)
    check_self_contained(model)
    return model


def _name_batch(model: onnx.ModelProto) -> None:
    """The batch axis is called `batch`, and must not have become a number.

    Raises:
        InputError: it did.
    """
    for value in (*model.graph.input, *model.graph.output):
        axis = value.type.tensor_type.shape.dim[0]
        if axis.HasField("dim_value"):
            raise InputError(
                f"The trace froze the batch axis of {value.name!r} at {axis.dim_value}. Expected a module whose "
                "forward works for any batch: look for a reshape with the batch size written as a number."
            )
        axis.dim_param = "batch"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter prints and warns about its own inner workings; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
