"""The autoencoder an application embeds: numpy in, numpy out."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeae_runtime.arrays import Float32Array, as_images, as_latents
from edgeae_runtime.bundle import Bundle, open_bundle
from edgeae_runtime.errors import BundleError, InputError, ProviderError
from edgeae_runtime.manifest import PARTS, Manifest
from edgeae_runtime.part import LoadedPart
from edgeae_runtime.providers import candidates, create_session
from edgeae_runtime.tuning import read_tuning

Images = NDArray[np.float32] | NDArray[np.uint8]


class Autoencoder:
    """The encoder and decoder of one bundle, ready to run.

    >>> ae = Autoencoder.load("bundle", provider="cpu")  # doctest: +SKIP
    >>> latents = ae.encode(images)                      # doctest: +SKIP
    """

    def __init__(self, bundle: Bundle, loaded: dict[str, LoadedPart], options: dict[str, Any]) -> None:
        self.manifest: Manifest = bundle.manifest
        self.path: Path = bundle.path
        self.providers: dict[str, str] = {name: part.provider for name, part in loaded.items()}
        """Per loaded part, the provider that runs it."""
        self.nodes: dict[str, dict[str, int]] = {name: part.nodes for name, part in loaded.items()}
        """Per loaded part, how many of the graph's nodes each provider runs, by ONNX Runtime's own record; empty where
        it keeps none, before version 1.24."""
        self.threads: dict[str, int] = options.pop("threads_of")
        """Per loaded part, the threads of a call."""
        self._loaded, self._options, self._process = loaded, options, os.getpid()

    @classmethod
    def load(
        cls,
        path: str | Path,
        provider: str = "cpu",
        *,
        parts: Sequence[str] | None = None,
        threads: int | None = None,
        spinning: bool = False,
    ) -> Autoencoder:
        """Load a bundle; every byte is checked against the manifest before ONNX Runtime sees it.

        Args:
            path: the bundle's folder.
            provider: `"cpu"`, `"cuda"` or `"directml"`, each strict; or `"auto"`: the first of these in the order cuda,
                directml, cpu that can start; it warns once if one that is installed cannot.
            parts: `("decoder",)` loads only the decoder and reads only its file; by default all there are.
            threads: threads per call; by default what `tune` found best for this bundle on this machine, or one,
                which is fastest for single images on models of this size.
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
        threads: int | None = None,
        spinning: bool = False,
    ) -> Autoencoder:
        """As `load`, for a bundle that is already open."""
        wanted = [name for name in PARTS if name in bundle.manifest.parts] if parts is None else list(parts)
        names = candidates(provider)
        tuned = read_tuning(bundle.path) if threads is None else {}
        threads_of = {part: tuned.get(part, 1) if threads is None else threads for part in wanted}
        loaded = {}
        for part in wanted:
            if part not in bundle.manifest.parts:
                raise _missing(part, bundle.manifest)
            model = bundle.read_part(part)
            session, name = _first_session(model, names, threads=threads_of[part], spinning=spinning)
            names = names[names.index(name) :]  # what could not start for one part is not tried for the next
            loaded[part] = LoadedPart(part, bundle.manifest.parts[part], session, name)
        options = {"provider": provider, "parts": parts, "threads": threads, "spinning": spinning}
        return cls(bundle, loaded, options | {"threads_of": threads_of})

    def close(self) -> None:
        """Free the sessions and their memory; a later call raises."""
        self._loaded = {}

    def __enter__(self) -> Autoencoder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickled by path: the other process loads the bundle anew, and checks it anew."""
        return {"path": str(self.path.resolve()), "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(Autoencoder.load(state["path"], **state["options"]).__dict__)

    def warmup(self, batch: int = 1) -> None:
        """Run each loaded part once on zeros, so that the first real call is as fast as the later ones."""
        for name in self._loaded:
            loaded = self._part(name)
            shape = [batch, *(n for n in loaded.spec.input.shape if n is not None)]
            loaded(np.zeros(shape, np.float32))

    def encode(self, images: object, *, out: Float32Array | None = None) -> Float32Array:
        """Latents of images.

        Args:
            images: uint8 0..255 or floating point 0..1; [n, channels, height, width], [channels, height, width],
                or [height, width] where there is one channel. Any number: they are run in chunks of bounded memory.
                A model of signals or rows takes [n, …] floating point of its own shape.
            out: float32, C-contiguous, of the result's shape, to write the latents into.

        Returns:
            float32 [n, *latent shape], as [n, latent_dim]; without the first axis for a single image. Of a variational
            autoencoder, the mean.

        Raises:
            InputError: a wrong shape, dtype or range, NaN, or an empty batch.
        """
        encoder = self._part("encoder")
        batch, single = as_images(images, encoder.spec.input)
        latents: Float32Array = encoder(batch, out)
        return latents[0] if single else latents

    def encode_distribution(self, images: object) -> tuple[Float32Array, Float32Array]:
        """Mean and log-variance of each image's latent: what a variational encoder gives.

        Args:
            images: as for `encode`.

        Returns:
            Two arrays of the shape that `encode` gives. The standard deviation is `exp(log_variance / 2)`.

        Raises:
            InputError: as `encode`, or the autoencoder is not variational.
        """
        encoder = self._part("encoder")
        if len(encoder.spec.outputs) != 2:
            raise InputError(
                "This bundle's encoder gives one latent per image and no distribution: it is not variational. "
                "Use encode, or export a variational autoencoder."
            )
        batch, single = as_images(images, encoder.spec.input)
        mean, log_variance = encoder.distribution(batch)
        return (mean[0], log_variance[0]) if single else (mean, log_variance)

    def encode_sample(self, images: object, seed: int | None = None) -> Float32Array:
        """One latent per image, drawn from its distribution: mean + exp(log_variance / 2) * noise.

        The noise is numpy's PCG64, so that a seed gives the same on every provider.

        Args:
            images: as for `encode`.
            seed: of the noise.

        Returns:
            As `encode`.

        Raises:
            InputError: as `encode_distribution`.
        """
        mean, log_variance = self.encode_distribution(images)
        noise = np.random.default_rng(seed).standard_normal(mean.shape, np.float32)
        drawn: Float32Array = (mean + np.exp(log_variance / 2) * noise).astype(np.float32, copy=False)
        return drawn

    def decode(self, latents: object, *, out: Images | None = None) -> Images:
        """Images of latents.

        Args:
            latents: finite floating point, [n, *latent shape] or one latent; any number, as in `encode`.
            out: an array of the result's shape and dtype, C-contiguous, to write the images into.

        Returns:
            float32 in [0, 1], or uint8 0..255 if the bundle was exported with `pixels="uint8"`;
            [n, channels, height, width], or [channels, height, width] for a single latent.

        Raises:
            InputError: a wrong shape or dtype, NaN or infinity, or an empty batch.
        """
        decoder = self._part("decoder")
        batch, single = as_latents(latents, decoder.spec.input)
        images: Images = decoder(batch, out)
        return images[0] if single else images

    def reconstruct(self, images: object, *, out: Images | None = None) -> Images:
        """What the decoder makes of the encoder's latents: `decode(encode(images))`."""
        return self.decode(self.encode(images), out=out)

    def stream(self, batches: Iterable[object], call: str = "decode") -> Iterator[NDArray[Any]]:
        """Outputs of a long row of batches, the next one computed while the caller uses this one.

        Args:
            batches: inputs, taken from the iterable one ahead: it may be endless.
            call: `"encode"`, `"decode"` or `"reconstruct"`.

        Yields:
            The output of each batch, in order.

        Raises:
            InputError: `call` is none of these, or a batch is refused; those before it were yielded.
        """
        if call not in ("encode", "decode", "reconstruct"):
            raise InputError(f"Got call={call!r}, expected encode, decode or reconstruct.")
        run: Callable[[object], NDArray[Any]] = getattr(self, call)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="edgeae-stream") as worker:
            pending: Future[NDArray[Any]] | None = None
            for batch in batches:
                following = worker.submit(run, batch)
                if pending is not None:
                    yield pending.result()
                pending = following
            if pending is not None:
                yield pending.result()

    def sample_latents(self, count: int, seed: int | None = None) -> Float32Array:
        """Latents to generate from: drawn from the prior N(0, 1) of a variational autoencoder.

        A plain autoencoder has no prior: uniform over the box where 98 % of real images lie, per coordinate, which is
        what *Generative Deep Learning* (chapter 3) samples from.

        Args:
            count: how many, from 1.
            seed: of numpy's PCG64; the same seed gives the same latents on every machine and provider.

        Returns:
            float32 [count, *latent shape].

        Raises:
            InputError: `count` is not positive.
            BundleError: a plain autoencoder was exported without real images, so no range was observed.
        """
        if count < 1:
            raise InputError(f"Got a count of {count}, expected a whole number from 1.")
        latent, generator = self.manifest.latent, np.random.default_rng(seed)
        if latent.prior == "normal":
            return generator.standard_normal((count, *latent.shape), np.float32)
        if latent.low is None or latent.high is None:
            raise BundleError(
                "This bundle records no observed latent range, because it was exported without real images. "
                "Export it again with calibration images, or decode latents of your own."
            )
        box = generator.uniform(latent.low, latent.high, size=(count, latent.dim))
        return box.astype(np.float32).reshape(count, *latent.shape)

    def sample(self, count: int, seed: int | None = None) -> Images:
        """New images, `decode(sample_latents(count, seed))`: [count, channels, height, width]."""
        return self.decode(self.sample_latents(count, seed))

    def interpolate(self, a: object, b: object, steps: int = 9) -> Images:
        """Images along the straight line from `a` to `b` in the latent space, both ends included.

        Args:
            a: one image, as `encode` takes it, or one latent, as `encode` gives it.
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
        weights = np.linspace(0, 1, steps, dtype=np.float32).reshape(-1, *(1 for _ in start.shape[1:]))
        return self.decode((1 - weights) * start + weights * end)

    def _one_latent(self, value: object) -> Float32Array:
        array, shape = np.asarray(value), self.manifest.latent.shape
        image_axes = len(self.manifest.image_shape)
        if array.shape == shape or (array.ndim == len(shape) and array.ndim < image_axes - 1):
            latents, _ = as_latents(array, self._part("decoder").spec.input)
            return latents
        if array.ndim == image_axes + 1 and len(array) != 1:
            raise InputError(f"Got {len(array)} images for one end of an interpolation, expected one image or latent.")
        return self.encode(array).reshape(1, *shape)

    def _reload_after_fork(self) -> None:
        """A fork copies a session without its threads: it can neither run nor be freed, which would wait for them."""
        for part in self._loaded.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))  # never freed in this process
        self.__setstate__(self.__getstate__())

    def _part(self, name: str) -> LoadedPart:
        if os.getpid() != self._process:
            self._reload_after_fork()
        try:
            return self._loaded[name]
        except KeyError:
            if not self._loaded:
                raise InputError("This autoencoder was closed. Load the bundle again.") from None
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
    """The first provider that starts, with a warning for each that did not; the last one's refusal is the caller's."""
    for name in names[:-1]:
        try:
            return create_session(model, name, threads=threads, spinning=spinning), name
        except ProviderError as error:
            # The warnings module shows each text once per process.
            warnings.warn(f"{error} Trying {names[-1]}, because the provider is 'auto'.", RuntimeWarning, stacklevel=4)
    return create_session(model, names[-1], threads=threads, spinning=spinning), names[-1]
