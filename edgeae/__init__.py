"""Train autoencoders and put them on a device."""

from edgeae.checkpoint import Checkpoint, EpochRecord, load_checkpoint
from edgeae.data import ImageSet, load_images
from edgeae.model import Autoencoder, AutoencoderConfig, Decoder, Encoder
from edgeae.training import TrainingConfig, TrainingDivergedError, TrainingProgress, train

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "Checkpoint",
    "Decoder",
    "Encoder",
    "EpochRecord",
    "ImageSet",
    "TrainingConfig",
    "TrainingDivergedError",
    "TrainingProgress",
    "load_checkpoint",
    "load_images",
    "train",
]
