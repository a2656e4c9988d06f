"""From counts to a lower bound of cycles: what the vector units alone must take, by their published throughputs.

A Cortex-A72 has two vector pipes, a Cortex-A76 too. Per cycle, at 128 bits, they begin at most

    instruction                                   A72   A76
    fmla, fmls, fmul (four floats)                 1     2
    smull, umull, smlal, umlal (8 x 8 bits)        1     1     (one of the two pipes multiplies integers)
    sadalp, uadalp                                 1     1     (the other one)
    sdot, udot (4 x 4 products of 8 bits)          -     2
    any other vector instruction                   2     2

Of a pair of smull or smlal and sadalp each goes to a pipe of its own. Source: LLVM's scheduling models of Cortex-A57,
which it also uses for the A72, and of Neoverse N1, the A76's core for servers (AArch64SchedA57.td,
AArch64SchedNeoverseN1.td), which cite Arm's Software Optimization Guides. Loads, waiting and everything scalar are left
out: the real time is longer, and how much longer nothing here can tell.
"""

from __future__ import annotations

from collections.abc import Mapping

FLOAT_PRODUCTS = ("v.fmla", "v.fmls", "v.fmul")
LONG_PRODUCTS = ("v.smull", "v.smull2", "v.umull", "v.umull2", "v.smlal", "v.smlal2", "v.umlal", "v.umlal2")
PAIRWISE_SUMS = ("v.sadalp", "v.uadalp")
DOT_PRODUCTS = ("v.sdot", "v.udot", "v.usdot")
PRODUCTS = (*FLOAT_PRODUCTS, *LONG_PRODUCTS, *DOT_PRODUCTS)
PIPES = 2
_FLOAT_PIPES = {"cortex-a72": 2, "cortex-a76": 1}
"""Pipe-cycles of one product of four floats: on the A72 it takes both pipes."""
_MOVES = ("v.ldr", "v.ldp", "v.str", "v.stp", "v.ldur", "v.stur", "v.ld1", "v.st1", "v.ld1r", "v.ldnp", "v.stnp")
"""Loads and stores have pipes of their own."""


def products(counts: Mapping[str, int]) -> int:
    """Vector multiplications."""
    return sum(counts.get(name, 0) for name in PRODUCTS)


def least_cycles(counts: Mapping[str, int], cpu: str) -> float:
    """Cycles that the vector pipes take at least.

    The largest of three: all their work on both pipes, the integer products on the one that has them, and the pairwise
    sums on the other.
    """
    vector = {name: n for name, n in counts.items() if name.startswith("v.") and name not in _MOVES}
    floats = sum(vector.get(name, 0) for name in FLOAT_PRODUCTS)
    work = sum(vector.values()) + (_FLOAT_PIPES[cpu] - 1) * floats
    integer = sum(vector.get(name, 0) for name in LONG_PRODUCTS)
    sums = sum(vector.get(name, 0) for name in PAIRWISE_SUMS)
    return max(work / PIPES, integer, sums)
