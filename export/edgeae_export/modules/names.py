"""What the name of an output, a variable or a layer says it holds: a mean, or one of the forms of a spread.

A log-variance, the logarithm of a deviation, a deviation and a variance differ by factors and exponentials only, and
nothing in their numbers tells them apart for sure. So a name that says which one it is wins over every guess.
"""

from __future__ import annotations

import re

MEAN = "mean"
UNCLEAR = "unclear"
"""A spread, but no telling which: a precision, a number before its softplus, a square or the second of two layers."""
SPREADS = ("log_variance", "log_std", "std", "variance")
"""The forms of a spread, as `--outputs` has them."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SPREAD = re.compile(
    r"(?P<before>.*?)(?P<log>log|ln)?"
    r"(?P<what>variance|var|covariance|cov|sigma|stddev|stdev|std|sd|deviation|dev|scale)(?P<square>sq|squared|square)?s?"
)
_WHOLE = ("scale", "sd", "cov", "dev")
"""Short or common endings (upscale, device): only where nothing but a logarithm stands before them."""
_MEAN = re.compile(r"(fc|z|to|q|h|x|l|lin|linear|dense|conv|head|enc|out|latent|post)?(mean|means|mu|mus|loc)")
_LOG_DEVIATION = ("logs", "logstds")
"""`logs` is the logarithm of a deviation in Glow, VITS and what followed them."""
_BEHIND = ("sq", "squared", "square", "dev")
_OTHER = frozenset(
    ["precision", "prec", "logprecision", "logprec", "rho", "cholesky", "chol", "tril", "kappa", "dispersion"]
)
"""Spreads of other kinds."""
_CHANGED = frozenset(["raw", "pre", "inv", "inverse", "unconstrained", "softplus", "half", "neg", "unnormalized"])
"""Beside a spread: what stands here is not yet, or no longer, that spread."""


def meanings(name: str) -> frozenset[str]:
    """What a name says, of `mean`, the forms of `SPREADS`, and `unclear`; empty where it says nothing.

    Words are told apart by underscores, dots, digits and capitals: `fc_logsigma`, `fcLogVar`, `z_log_var`.
    """
    words = _merged([word.lower() for word in _WORD.findall(name)])
    found = {MEAN for word in words if _MEAN.fullmatch(word)}
    forms = {form for index, word in enumerate(words) if (form := _form(word, words[index + 1 : index + 2]))}
    if len(forms) > 1 or (forms and _CHANGED & set(words)):
        forms = {UNCLEAR}
    return frozenset(found | forms)


def spread_of(found: frozenset[str]) -> str | None:
    """The form of spread among meanings, or `unclear`, or None for no spread."""
    return next((form for form in found if form != MEAN), None)


def _merged(words: list[str]) -> list[str]:
    merged: list[str] = []
    for word in words:
        before = merged[-1] if merged else ""
        logarithm = before in ("log", "ln") and not word.isdigit()
        if logarithm or (before.endswith(("sigma", "std")) and word in _BEHIND):  # log_sigma_squared, std_dev
            merged[-1] = before + word
        else:
            merged.append(word)
    return merged


def _form(word: str, following: list[str]) -> str | None:
    if word in _OTHER:
        return UNCLEAR
    if word in _LOG_DEVIATION:
        return "log_std"
    match = _SPREAD.fullmatch(word)
    if match is None or (match["what"] in _WHOLE and match["before"]):
        return None
    if match["what"] == "scale" and following == ["factor"]:
        return None
    variance = match["what"].startswith(("var", "cov"))
    if not variance and following == ["2"]:
        return UNCLEAR  # sigma2 is a square in a paper, and the second layer in a module
    if variance or match["square"]:
        return "log_variance" if match["log"] else "variance"
    return "log_std" if match["log"] else "std"
