"""Exact graph rewrites: one file each, each a function from a model to a model and its decisions."""

from edgeae_export.rewrites.affine_folding import fold_affine
from edgeae_export.rewrites.batchnorm import fold_batchnorm
from edgeae_export.rewrites.below_shuffle import move_below_shuffle
from edgeae_export.rewrites.channels_last import to_channels_last
from edgeae_export.rewrites.col2im import split_col2im
from edgeae_export.rewrites.decision import Decision
from edgeae_export.rewrites.few_inputs import pad_inputs
from edgeae_export.rewrites.matmul_bias import join_bias
from edgeae_export.rewrites.one_position import to_gemm
from edgeae_export.rewrites.phase_split import split_phases
from edgeae_export.rewrites.resize_phases import resize_to_phases
from edgeae_export.rewrites.sibling_gemms import merge_heads
from edgeae_export.rewrites.subpixel import to_subpixel
from edgeae_export.rewrites.wide_outputs import widen_outputs

__all__ = [
    "Decision",
    "fold_affine",
    "fold_batchnorm",
    "join_bias",
    "merge_heads",
    "move_below_shuffle",
    "pad_inputs",
    "resize_to_phases",
    "split_col2im",
    "split_phases",
    "to_channels_last",
    "to_gemm",
    "to_subpixel",
    "widen_outputs",
]
