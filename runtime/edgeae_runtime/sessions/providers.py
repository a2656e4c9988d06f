"""Execution providers: from a short name to a session that really runs on it, or a clear refusal."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence

import onnxruntime as ort

from edgeae_runtime.errors import BundleError, ProviderError, gist
from edgeae_runtime.sessions.cuda_libraries import missing_library
from edgeae_runtime.sessions.forks import SESSIONS

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
}
AUTO_ORDER = ("cuda", "directml", "cpu")
"""What `"auto"` tries, in order: a GPU first, for it serves large batches best; the CPU always runs."""

_ONE_NODE = (  # the ONNX graph y = Relu(x), opset 18: an operator that every provider has
    b'\x08\x08:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01g'
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x12"
)

_OPTIONS = {"cuda": {"use_tf32": "0"}}
"""TF32, which CUDA takes for float32 where nobody says otherwise, keeps 10 bits: no float32 bundle would verify."""
INSTALL = {name: f"pip install 'edgeae-runtime[{name}]'" for name in PROVIDERS}


def available_providers() -> tuple[str, ...]:
    """Short names of the providers that the installed flavour of ONNX Runtime was built with."""
    built_in = ort.get_available_providers()
    return tuple(name for name, full_name in PROVIDERS.items() if full_name in built_in)


def candidates(provider: str) -> tuple[str, ...]:
    """The providers to try for a name: itself, or for `"auto"` those available, in `AUTO_ORDER`.

    Raises:
        ProviderError: the name is unknown, or the installed flavour was built without it.
    """
    available = available_providers()
    if provider == "auto":
        return tuple(name for name in AUTO_ORDER if name in available)
    if provider not in PROVIDERS:
        raise ProviderError(
            f"There is no provider named {provider!r}. Known here: {', '.join(PROVIDERS)}, and auto; "
            f"available on this machine: {', '.join(available)}."
        )
    if provider not in available:
        raise ProviderError(
            f"The provider {provider!r} is not in the installed ONNX Runtime {ort.__version__}, which offers "
            f"{', '.join(available)}. Install its flavour in an environment of its own: {INSTALL[provider]}."
        )
    return (provider,)


def create_session(
    model: bytes, provider: str, *, threads: int, spinning: bool, graph_optimization: bool = True
) -> ort.InferenceSession:
    """A session for `model` on one provider, never silently on another.

    Args:
        model: a whole ONNX file; no path is given, so ONNX Runtime can open no other file.
        provider: a short name from `PROVIDERS`.
        threads: intra-op threads, from 1.
        spinning: whether idle worker threads burn CPU time to answer sooner; right for benchmarks only.
        graph_optimization: whether ONNX Runtime may rewrite the graph for this machine.

    Raises:
        ProviderError: the provider is there but cannot start.
        BundleError: ONNX Runtime does not accept the graph.
    """
    from edgeae_runtime.machine import check_threads

    check_threads(threads)
    if provider == "cuda" and (reason := missing_library()):
        raise _cannot_start(provider, reason)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what matters is raised; a library does not write to its user's terminal
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # the form that was checked, not one sniffed
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if not graph_optimization:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if provider == "directml":
        options.enable_mem_pattern = False  # DirectML supports neither memory patterns nor parallel execution
    try:
        # Without ONNX Runtime's own fallback, which prints, and starts something else than was asked for.
        with SESSIONS:
            session = ort.InferenceSession(model, options, providers=_with_fallback(provider), enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises many types that share no base class
        if provider != "cpu":
            # A graph that the CPU accepts is sound: then it is the provider that failed.
            create_session(model, "cpu", threads=threads, spinning=spinning, graph_optimization=False)
            raise _cannot_start(provider, f"ONNX Runtime says: {_gist(error)}") from error
        raise BundleError(
            f"ONNX Runtime {ort.__version__} does not accept the graph: {_gist(error)} "
            "Update ONNX Runtime, or export the bundle again with this version."
        ) from error
    if PROVIDERS[provider] not in session.get_providers():
        raise _cannot_start(provider, "no device, no driver, or a library missing")
    assigned = assigned_nodes(session)
    if assigned and provider not in assigned:
        raise _cannot_start(provider, f"ONNX Runtime gave it none of the graph's {sum(assigned.values())} nodes")
    return session


def assigned_nodes(session: ort.InferenceSession) -> dict[str, int]:
    """How many nodes of the graph each provider runs, by ONNX Runtime's own record.

    Empty where it keeps none, before version 1.24.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    short = {full_name: name for name, full_name in PROVIDERS.items()}
    counts: collections.Counter[str] = collections.Counter()
    for subgraph in session.get_provider_graph_assignment_info():
        counts[short.get(subgraph.ep_name, subgraph.ep_name)] += len(subgraph.get_nodes())
    return dict(counts)


def start_problem(provider: str) -> str:
    """Why a provider that is installed cannot run a graph of one node here; `""` if it can."""
    try:
        create_session(_ONE_NODE, provider, threads=1, spinning=False)
    except ProviderError as error:
        return str(error)
    return ""


def _gist(error: Exception) -> str:
    """What ONNX Runtime says without the C++ signatures that a failure of CUDA comes wrapped in."""
    found = re.search(r"\bCU\w+ failure \d+: [^;]+", str(error))
    return gist(found.group() if found else error, 400)


def _cannot_start(provider: str, reason: str) -> ProviderError:
    return ProviderError(
        f"The provider {provider!r} is installed but cannot start on this machine ({reason}). "
        f"Mend that, or ask for provider 'cpu' or 'auto'; available: {', '.join(available_providers())}."
    )


def _with_fallback(provider: str) -> Sequence[str | tuple[str, dict[str, str]]]:
    """ONNX Runtime places operators that a provider lacks on the CPU; the CPU is always last."""
    if provider == "cpu":
        return (PROVIDERS["cpu"],)
    return ((PROVIDERS[provider], _OPTIONS.get(provider, {})), PROVIDERS["cpu"])
