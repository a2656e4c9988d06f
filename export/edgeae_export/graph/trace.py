"""From a torch module to an ONNX graph: traced with a dynamic batch, freed of what only its makers need."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxscript.optimizer
import torch
from edgeae_runtime.errors import InputError
from torch import Tensor, nn
from torch.distributions import Distribution

from edgeae_export.arrays import Float32Array
from edgeae_export.graph.lost_constants import lost_constants
from edgeae_export.graph.running import OPSET, check_self_contained, clean, runner
from edgeae_export.graph.trace_errors import why_not_run, why_not_traced
from edgeae_export.modules.parts import Call

RANDOM_OPERATORS = (
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)

ALIKE = 1e-2
"""Of the largest value: rounding is a thousandth of it, a lost operator more."""


def trace(module: nn.Module, example: Tensor, input_name: str, output_names: Sequence[str]) -> onnx.ModelProto:
    """Trace a module with one input.

    Args:
        module: in eval mode, float32, on the CPU.
        example: inputs, [batch, …], at least three, real ones first; two are traced with, and the graph is compared
            with the module on all of them, in several batches.
        input_name: what the graph's input is called.
        output_names: what its outputs are called.

    Returns:
        A single-file model of `OPSET` and `IR_VERSION` whose batch axis is dynamic.

    Raises:
        InputError: torch cannot trace the module, froze its batch axis, or the graph draws random numbers, or ONNX
            Runtime cannot run it.
    """
    program = _program(module, example, input_name, output_names)
    plain = program.model_proto
    with _quiet():
        program.optimize()
    optimized = program.model_proto
    if lost_constants(plain, optimized):
        # torch's own optimiser takes an addition of 1e-15 for one of nothing, and then something divides by zero.
        return _folded(plain, example)
    model = _finished(optimized, example)
    if _alike(model, module, example):
        return model
    try:
        folded = _folded(plain, example)
    except InputError:  # no better, then: the parity check tells how far the optimised graph is off
        return model
    return folded if _alike(folded, module, example) else model


def _folded(model: onnx.ModelProto, example: Tensor) -> onnx.ModelProto:
    """A graph that torch did not optimise, with its constants folded alone, which loses none."""
    with _quiet():
        onnxscript.optimizer.fold_constants(model)
        onnxscript.optimizer.remove_unused_nodes(model)
    return _finished(model, example)


def _program(
    module: nn.Module, example: Tensor, input_name: str, output_names: Sequence[str]
) -> torch.onnx.ONNXProgram:
    """What torch's exporter makes of a module, not yet optimised."""
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                (example[:2],),
                input_names=[input_name],
                output_names=list(output_names),
                dynamic_shapes=({0: batch},),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
                optimize=False,
            )
        except Exception as error:  # torch's exporter and the user's own code raise anything
            raise InputError(f"torch cannot trace {_title(module)} into one graph: {why_not_traced(error)}") from error
    assert program is not None
    return program


def _title(module: nn.Module) -> str:
    """The user's own name for what is traced."""
    call = getattr(module, "inner", None)
    return f"{type(call.owner).__name__}.{call.method}" if isinstance(call, Call) else type(module).__name__


def _finished(model: onnx.ModelProto, example: Tensor) -> onnx.ModelProto:
    """The graph cleaned, checked, and tried."""
    clean(model)
    _name_batch(model)
    _lower_output_padding(model)
    onnx.checker.check_model(model, full_check=True)
    check_self_contained(model)
    _refuse_randomness(model)
    _try_batches(model, example.numpy())
    return model


def _alike(model: onnx.ModelProto, module: nn.Module, example: Tensor) -> bool:
    """Whether the graph does roughly what the module does; the parity check is exact, and comes later."""
    with torch.inference_mode():
        outputs = module(example)
    for index, expected in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)):
        difference = np.abs(runner(model, output=index)(example.numpy()) - expected.numpy()).max()
        if not difference <= ALIKE * max(float(expected.abs().max()), 1e-6):  # NaN is unlike anything
            return False
    return True


def _lower_output_padding(model: onnx.ModelProto) -> None:
    """An output padding as large as the stride, which dilation allows in torch and ONNX Runtime refuses.

    It takes back as much of the padding at the end, so that much less padding does the same.
    """
    for node in model.graph.node:
        if node.op_type != "ConvTranspose":
            continue
        entries = {entry.name: entry for entry in node.attribute}
        if not {"output_padding", "pads"} <= set(entries):
            continue
        extra, pads = entries["output_padding"].ints, entries["pads"].ints
        strides = entries["strides"].ints if "strides" in entries else [1] * len(extra)
        if any(more >= stride for more, stride in zip(extra, strides, strict=True)):
            for axis, more in enumerate(extra):
                taken = min(more, pads[len(extra) + axis])
                pads[len(extra) + axis] -= taken
                extra[axis] -= taken


def _refuse_randomness(model: onnx.ModelProto) -> None:
    """A graph that draws numbers gives other outputs on each call and provider, and no parity can hold."""
    for node in model.graph.node:
        if node.op_type in RANDOM_OPERATORS or (node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]):
            raise InputError(
                f"The graph draws random numbers ({node.op_type}, at {node.name}). Return the mean instead of a "
                "sample, call model.eval(), and take functional dropout out of eval mode "
                "(F.dropout(x, training=self.training)). The runtime samples by itself."
            )


def _try_batches(model: onnx.ModelProto, inputs: Float32Array) -> None:
    """Run other batch sizes than the traced one: a number written into a reshape may hide from the axis's name.

    Raises:
        InputError: the graph fails even at the size that was traced, or at another, or mixes the rows.
    """
    traced = 2
    for count in dict.fromkeys((traced, 1, min(3, len(inputs)), len(inputs))):
        for index in range(len(model.graph.output)):
            try:
                found = len(runner(model, output=index)(inputs[:count]))
            except Exception as error:  # ONNX Runtime raises many types
                if count == traced:
                    raise InputError(
                        f"ONNX Runtime cannot run the graph that torch made of the model: {why_not_run(error)}. "
                        "Expected layers in a form that it knows: change the one it names."
                    ) from error
                raise InputError(
                    f"The graph runs on a batch of {traced}, which it was traced with, and fails on {count}: "
                    f"{why_not_run(error)}. Expected a module that takes any batch: look for a reshape, expand or "
                    "state with the batch size as a number."
                ) from error
            if found != count:
                raise InputError(
                    f"The graph gives {found} outputs for a batch of {count}: the trace froze an axis. Look for a "
                    "reshape with the batch size written as a number."
                )


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
    validating = Distribution._validate_args
    Distribution.set_default_validate_args(False)  # its checks branch on values, which no trace can follow
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
            Distribution.set_default_validate_args(validating)
