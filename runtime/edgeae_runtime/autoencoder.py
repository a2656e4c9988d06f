"""The autoencoder an application embeds: numpy in, numpy out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeae_runtime.arrays import Float32Array, as_images, as_latents
from edgeae_runtime.bundle import Bundle, open_bundle
from edgeae_runtime.errors import BundleError, InputError, ProviderError
from edgeae_runtime.manifest import PARTS, Manifest, Part
from edgeae_runtime.providers import candidates, create_session

Images = NDArray[np.float32] | NDArray[np.uint8]
_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


class Autoencoder:
    """The encoder and decoder of one bundle, ready to run.

    >>> ae = Autoencoder.load("bundle", provider="cpu")  # doctest: +SKIP
    >>> latents = ae.encode(images)                      # doctest: +SKIP
    """

    def __init__(self, bundle: Bundle, sessions: dict[str, ort.InferenceSession], providers: dict[str, str]) -> None:
        self.manifest: Manifest = bundle.manifest
        self.path: Path = bundle.path
        self.providers: dict[str, str] = providers
        """Per loaded part, the provider that runs it."""
        self._sessions = sessions

    @classmethod
    def load(
        cls,
        path: str | Path,
        provider: str = "cpu",
        *,
        parts: Sequence[str] | None = None,
        threads: int = 1,
        spinning: bool = False,
    ) -> Autoencoder:
        """Load a bundle; every byte is checked against the manifest before ONNX Runtime sees it.

        Args:
            path: the bundle's folder.
            provider: `"cpu"`, `"cuda"` or `"directml"`, each strict; or `"auto"`: the first that can start.
            parts: `("decoder",)` loads only the decoder and reads only its file; by default all there are.
            threads: threads per call. One is fastest for single images on models of this size.
            spinning: whether idle threads burn CPU time to answer sooner; meant for benchmarks.

        Raises:
            BundleError, IntegrityError: the bundle cannot be read or was changed.
            ProviderError: the provider is unknown or cannot run here.
        """
        return cls.from_bundle(open_bundle(path), provider, parts=parts, threads=threads, spinning=spinning)

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        provider: str = "cpu",
        *,
        parts: Sequence[str] | None = None,
        threads: int = 1,
        spinning: bool = False,
    ) -> Autoencoder:
        """As `load`, for a bundle that is already open."""
        wanted = [name for name in PARTS if name in bundle.manifest.parts] if parts is None else list(parts)
        names = candidates(provider)
        sessions: dict[str, ort.InferenceSession] = {}
        providers: dict[str, str] = {}
        for part in wanted:
            if part not in bundle.manifest.parts:
                raise _missing(part, bundle.manifest)
            model = bundle.read_part(part)
            sessions[part], providers[part] = _first_session(model, names, threads=threads, spinning=spinning)
            _check_signature(sessions[part], part, bundle.manifest.parts[part])
        return cls(bundle, sessions, providers)

    def encode(self, images: object) -> Float32Array:
        """Latents of images.

        Args:
            images: uint8 0..255 or floating point 0..1; [n, channels, height, width], [channels, height, width],
                or [height, width] where there is one channel.

        Returns:
            float32 [n, latent_dim]; [latent_dim] for a single image.

        Raises:
            InputError: a wrong shape, dtype or range, NaN, or an empty batch.
        """
        session, part = self._part("encoder")
        batch, single = as_images(images, part.input)
        latents: Float32Array = session.run((part.output.name,), {part.input.name: batch})[0]
        return latents[0] if single else latents

    def decode(self, latents: object) -> Images:
        """Images of latents.

        Args:
            latents: finite floating point, [n, latent_dim] or [latent_dim].

        Returns:
            float32 in [0, 1], or uint8 0..255 if the bundle was exported with `pixels="uint8"`;
            [n, channels, height, width], or [channels, height, width] for a single latent.

        Raises:
            InputError: a wrong shape or dtype, NaN or infinity, or an empty batch.
        """
        session, part = self._part("decoder")
        batch, single = as_latents(latents, part.input)
        images: Images = session.run((part.output.name,), {part.input.name: batch})[0]
        return images[0] if single else images

    def reconstruct(self, images: object) -> Images:
        """What the decoder makes of the encoder's latents: `decode(encode(images))`."""
        return self.decode(self.encode(images))

    def sample_latents(self, count: int, seed: int | None = None) -> Float32Array:
        """Latents to generate from: uniform over the box where 98 % of real images lie, per coordinate.

        A plain autoencoder has no prior; the box is what *Generative Deep Learning* (chapter 3) samples from.

        Args:
            count: how many, from 1.
            seed: of numpy's PCG64; the same seed gives the same latents on every machine and provider.

        Returns:
            float32 [count, latent_dim].

        Raises:
            InputError: `count` is not positive.
            BundleError: the bundle was exported without real images, so no range was observed.
        """
        if count < 1:
            raise InputError(f"Got a count of {count}, expected a whole number from 1.")
        latent = self.manifest.latent
        if latent.low is None or latent.high is None:
            raise BundleError(
                "This bundle records no observed latent range, because it was exported without real images. "
                "Export it again with calibration images, or decode latents of your own."
            )
        generator = np.random.default_rng(seed)
        box = generator.uniform(latent.low, latent.high, size=(count, latent.dim))
        return box.astype(np.float32)

    def sample(self, count: int, seed: int | None = None) -> Images:
        """New images, `decode(sample_latents(count, seed))`: [count, channels, height, width]."""
        return self.decode(self.sample_latents(count, seed))

    def interpolate(self, a: object, b: object, steps: int = 9) -> Images:
        """Images along the straight line from `a` to `b` in the latent space, both ends included.

        Args:
            a: one image, as `encode` takes it, or one latent [latent_dim].
            b: the same.
            steps: how many images, from 2.

        Returns:
            [steps, channels, height, width], as `decode` gives them.

        Raises:
            InputError: `a` or `b` is neither one image nor one latent, or `steps` is below 2.
        """
        if steps < 2:
            raise InputError(f"Got {steps} steps, expected a whole number from 2: both ends are included.")
        start, end = self._one_latent(a), self._one_latent(b)
        weights = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
        return self.decode((1 - weights) * start + weights * end)

    def _one_latent(self, value: object) -> Float32Array:
        array = np.asarray(value)
        if array.ndim == 1:
            latents, _ = as_latents(array, self._part("decoder")[1].input)
            return latents
        if array.ndim == 4 and len(array) != 1:
            raise InputError(f"Got {len(array)} images for one end of an interpolation, expected one image or latent.")
        return np.atleast_2d(self.encode(array))

    def _part(self, name: str) -> tuple[ort.InferenceSession, Part]:
        try:
            return self._sessions[name], self.manifest.parts[name]
        except KeyError:
            raise _missing(name, self.manifest) from None


def _missing(part: str, manifest: Manifest) -> InputError:
    if part in manifest.parts:
        return InputError(f"The {part} was not loaded. Load the bundle with parts=('{part}', …), or with all parts.")
    return InputError(
        f"The {part} is not in this bundle, which holds: {', '.join(manifest.parts)}. "
        f"Export a bundle with the {part}, or use the part it has."
    )


def _first_session(
    model: bytes, names: Sequence[str], *, threads: int, spinning: bool
) -> tuple[ort.InferenceSession, str]:
    """The first provider that starts; the last one's refusal is the caller's."""
    for name in names[:-1]:
        try:
            return create_session(model, name, threads=threads, spinning=spinning), name
        except ProviderError:
            continue
    return create_session(model, names[-1], threads=threads, spinning=spinning), names[-1]


def _check_signature(session: ort.InferenceSession, name: str, part: Part) -> None:
    """The graph's inputs and outputs must be those of the manifest: else every later message would mislead."""
    nodes = (session.get_inputs(), session.get_outputs())
    found = [[f"{_DTYPES.get(node.type, node.type)} {node.name}" for node in group] for group in nodes]
    promised = [[f"{spec.dtype} {spec.name}" for spec in specs] for specs in (part.inputs, part.outputs)]
    if found != promised:
        raise BundleError(
            f"The {name}'s graph has inputs and outputs {found}, its manifest promises {promised}. "
            "The bundle is inconsistent: export it again."
        )
