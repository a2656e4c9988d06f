"""Makes the bundles of tests/runtime: `python tests/runtime/make_bundles.py`.

A small model with random weights, scaled so that its images are not flat; `variants` has further forms of its parts.
"""

import shutil
from pathlib import Path

import torch
from edgeae_export import export
from edgeae_runtime.bundle.preprocessing import Preprocessing

from edgeae.data import load_images
from edgeae.model import Autoencoder, AutoencoderConfig

HERE = Path(__file__).parent


class Model:
    """What the exporter needs to know."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = AutoencoderConfig(image_size=16, latent_dim=3, widths=(4, 8))
        autoencoder = Autoencoder(config).eval()
        with torch.no_grad():
            autoencoder.decoder.from_latent.weight *= 4
        self.encoder, self.decoder = autoencoder.encoder, autoencoder.decoder
        self.image_shape, self.latent_dim = (1, 16, 16), 3
        self.preprocessing = Preprocessing((14, 14), (1, 1, 1, 1))


def main() -> None:
    """Write the bundles anew."""
    images = load_images("sample").train_images[:400, :, 6:22, 6:22]
    for name, quantize in (("float32", "none"), ("int8", "int8"), ("variants", "int8")):
        shutil.rmtree(HERE / "bundles" / name, ignore_errors=True)
        options = {"quantize": quantize, "target": "x86-vnni", "variants": name == "variants"}
        export(Model(), HERE / "bundles" / name, calibration=images, **options)


if __name__ == "__main__":
    main()
