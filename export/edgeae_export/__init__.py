"""Export a torch autoencoder as separate, verified ONNX encoder and decoder graphs, packed in a bundle."""

from edgeae_export.pipeline import ExportableAutoencoder, ExportReport, export
from edgeae_export.value_range import ValueRange

__all__ = ["ExportReport", "ExportableAutoencoder", "ValueRange", "export"]
