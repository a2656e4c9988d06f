"""What torch's exporter and ONNX Runtime say when they fail, freed of their boilerplate: the cause, on one line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgeae_runtime.errors import gist

_LONGEST = 300
"""Characters of somebody else's message that are kept."""
_UNSUPPORTED = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
_USER_CODE = re.compile(r'The following call raised this error:\s+File "[^"]*", line (\d+), in (\w+)\n\s*(.+)')
_RUNTIME = re.compile(r"while running (\w+) node\. Name:'([^']*)' Status Message: (.*)", re.DOTALL)
_SOURCE = re.compile(r"^\S*?/\S+:\d+ [^\n]*?\) ")  # the place in ONNX Runtime's own source
_ADVICE = re.compile(
    r"\n(?:\s|\x1b\[[0-9;]*m)*(?:Caused by:|For more|For extended|consider using|\(Refer to|If you suspect)"
)


def why_not_traced(error: BaseException) -> str:
    """Why torch could not trace a module, and what to change, from the error and all its causes."""
    chain = list(_causes(error))
    for each in chain:
        if match := _UNSUPPORTED.search(str(each)):
            return (
                f"it calls {match[1]}, which torch's exporter cannot write as ONNX. Replace that operator in the "
                "model by others: an adaptive pooling, for one, by a pooling with a kernel of fixed size."
            )
    deepest = chain[-1]
    if type(deepest).__name__.startswith("GuardOnDataDependent"):
        code = _USER_CODE.search(str(deepest))
        where = f"in {code[2]}, line {code[1]}: {code[3].strip()}" if code else one_line(deepest)
        return (
            f"what it does depends on a value of its input ({where}). Expected the same steps for every input: write "
            "the branch with torch.where, or leave it out."
        )
    return (
        f"{type(deepest).__name__}: {one_line(deepest)}. Expected a module without control flow that depends on "
        "values, and without a fixed batch size."
    )


def why_not_run(error: BaseException) -> str:
    """What ONNX Runtime says about a graph that it cannot run, with the operator and its node."""
    text = str(error)
    if match := _RUNTIME.search(text):
        return f"{match[1]} ({match[2]}): {gist(_SOURCE.sub('', match[3]), _LONGEST)}"
    return gist(re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text), _LONGEST)


def one_line(error: BaseException) -> str:
    """The first paragraph of an error's message."""
    return gist(_ADVICE.split(str(error).strip().split("\n\n")[0])[0], _LONGEST)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it came from, and so on."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
