"""Export a torch autoencoder as separate, verified ONNX encoder and decoder graphs, packed in a bundle."""

from edgeae_export.modules.own_model import OwnModel
from edgeae_export.options import Int8
from edgeae_export.pipeline import ExportableAutoencoder, export
from edgeae_export.report import ExportReport
from edgeae_export.value_range import ValueRange

__all__ = ["ExportReport", "ExportableAutoencoder", "Int8", "OwnModel", "ValueRange", "export"]
