"""Image sets: found, checked, and prepared for the model."""

from edgeae.data.images import ImageSet, entropy_floor, padding, prepare
from edgeae.data.load import DATA_SETS, holds_pictures, load_images
from edgeae.data.picture_cache import PictureOptions

__all__ = [
    "DATA_SETS",
    "ImageSet",
    "PictureOptions",
    "entropy_floor",
    "holds_pictures",
    "load_images",
    "padding",
    "prepare",
]
