"""Run an autoencoder bundle with numpy and ONNX Runtime, and prove that it computes what the torch model did."""

from edgeae_runtime.sessions import telemetry as telemetry  # first: before anything imports ONNX Runtime

# isort: split
from edgeae_runtime.autoencoder import Autoencoder
from edgeae_runtime.bundle.golden import Golden
from edgeae_runtime.bundle.manifest import Manifest
from edgeae_runtime.bundle.reader import Bundle, open_bundle
from edgeae_runtime.errors import (
    BundleError,
    EdgeAEError,
    InputError,
    IntegrityError,
    ParityError,
    ProviderError,
    TimeLimitError,
)
from edgeae_runtime.parity import Check
from edgeae_runtime.sessions.providers import available_providers
from edgeae_runtime.verification import verify

__all__ = [
    "Autoencoder",
    "Bundle",
    "BundleError",
    "Check",
    "EdgeAEError",
    "Golden",
    "InputError",
    "IntegrityError",
    "Manifest",
    "ParityError",
    "ProviderError",
    "TimeLimitError",
    "available_providers",
    "open_bundle",
    "verify",
]
