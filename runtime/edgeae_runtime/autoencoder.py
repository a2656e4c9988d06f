"""The autoencoder an application embeds: numpy in, numpy out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edgeae_runtime.arguments import names_of_forms, names_of_parts, seconds_or_none, seed_of, whole_number
from edgeae_runtime.arrays import Float32Array, as_array, as_latents, image_batch, latent_batch
from edgeae_runtime.bundle.manifest import PARTS, Manifest
from edgeae_runtime.bundle.parts import TensorSpec
from edgeae_runtime.bundle.reader import Bundle, open_bundle
from edgeae_runtime.bundle.tuning import Choice, read_tuning
from edgeae_runtime.bundle.variants import DEFAULT
from edgeae_runtime.errors import BundleError, InputError, IntegrityError, ProviderError
from edgeae_runtime.part import LoadedPart, in_chunks
from edgeae_runtime.sessions.forks import SESSIONS
from edgeae_runtime.sessions.providers import candidates, create_session
from edgeae_runtime.sessions.time_limit import TimeLimit

if TYPE_CHECKING:
    from pathlib import Path

Images = NDArray[np.float32] | NDArray[np.uint8]
_AsBatch = Callable[[object, TensorSpec], tuple[NDArray[Any], bool]]
MAX_STEPS = 1 << 20
"""Of an interpolation, whose latents are held at once."""


class Autoencoder:
    """The encoder and decoder of one bundle, ready to run.

    >>> ae = Autoencoder.load("bundle", provider="cpu")  # doctest: +SKIP
    >>> latents = ae.encode(images)                      # doctest: +SKIP
    """

    def __init__(
        self, bundle: Bundle, loaded: dict[str, LoadedPart], choices: dict[str, Choice], options: dict[str, Any]
    ) -> None:
        self.manifest: Manifest = bundle.manifest
        self.path: Path = bundle.path
        self.providers: dict[str, str] = {name: part.provider for name, part in loaded.items()}
        """Per loaded part, the provider that runs it."""
        self.nodes: dict[str, dict[str, int]] = {name: part.nodes for name, part in loaded.items()}
        """Per loaded part, how many of the graph's nodes each provider runs, by ONNX Runtime's own record; empty where
        it keeps none, before version 1.24."""
        self.threads: dict[str, int] = {name: choice.threads for name, choice in choices.items()}
        """Per loaded part, the threads of a call."""
        self.variants: dict[str, str] = {name: choice.form for name, choice in choices.items()}
        """Per loaded part, the form that runs: a variant's name, or `default` for the part itself."""
        self._timeout_s: float | None = options["timeout_s"]
        self._loaded, self._options, self._process = loaded, options, os.getpid()
        self._source = {"path": str(bundle.path.resolve()), "root": str(bundle.root), "sha256": bundle.sha256}
        self._closed = False

    @classmethod
    def load(
        cls,
        path: str | Path,
        provider: str = "cpu",
        *,
        parts: str | Sequence[str] | None = None,
        threads: int | None = None,
        spinning: bool = False,
        timeout_s: float | None = None,
        root: str | Path | None = None,
        variants: Mapping[str, str] | None = None,
    ) -> Autoencoder:
        """Load a bundle; every byte is checked against the manifest before ONNX Runtime sees it.

        Args:
            path: the bundle's folder.
            provider: `"cpu"`, `"cuda"` or `"directml"`, each strict; or `"auto"`: the first of these in the order cuda,
                directml, cpu that can start; it warns once if one that is installed cannot.
            parts: `"decoder"` or `("decoder",)` loads only the decoder and reads only its file; by default all there
                are.
            threads: threads per call; by default what `tune` found best for this bundle on this machine, or one,
                which is fastest for single images on models of this size.
            spinning: whether idle threads burn CPU time to answer sooner; meant for benchmarks.
            timeout_s: seconds after which a call is ended, between two nodes of the graph, with TimeLimitError; by
                default none, which costs nothing. Loading is not bounded by it.
            root: where links of the bundle may lead, as in `open_bundle`.
            variants: the form of each part by name, `"default"` for the part itself; of a part that it does not name,
                as by default, what `tune` found best for this bundle on this machine, or the part itself.

        Raises:
            InputError: an argument of another type, or out of range; a form that there is not.
            BundleError, IntegrityError: the bundle cannot be read or was changed.
            ProviderError: the provider is unknown or cannot run here.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise InputError(f"Got a path of type {type(path).__name__}, expected the folder of a bundle.")
        return cls.from_bundle(
            open_bundle(path, root=root),
            provider,
            parts=parts,
            threads=threads,
            spinning=spinning,
            timeout_s=timeout_s,
            variants=variants,
        )

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        provider: str = "cpu",
        *,
        parts: str | Sequence[str] | None = None,
        threads: int | None = None,
        spinning: bool = False,
        timeout_s: float | None = None,
        variants: Mapping[str, str] | None = None,
    ) -> Autoencoder:
        """As `load`, for a bundle that is already open."""
        if not isinstance(provider, str) or not isinstance(spinning, (bool, np.bool_)):
            raise InputError(
                f"Got provider={provider!r} and spinning={spinning!r}, expected a name such as 'cpu', and a bool."
            )
        if threads is not None:
            threads = whole_number(threads, "threads", 1)
        asked = names_of_parts(parts)
        wanted = [name for name in PARTS if name in bundle.manifest.parts] if asked is None else asked
        options: dict[str, Any] = {"provider": provider, "parts": asked, "threads": threads, "spinning": bool(spinning)}
        options["timeout_s"] = seconds_or_none(timeout_s)
        names = candidates(provider)
        for part in wanted:
            if part not in bundle.manifest.parts:
                raise _missing(part, bundle.manifest)
        choices = _choices(bundle, provider, wanted, threads, names_of_forms(variants, bundle.manifest.parts))
        options["variants"] = {part: choice.form for part, choice in choices.items()}  # a copy must be the same
        loaded = {}
        for part, choice in choices.items():
            model = bundle.read_part(part, choice.form)
            session, name = _first_session(model, names, threads=choice.threads, spinning=spinning)
            names = names[names.index(name) :]  # what could not start for one part is not tried for the next
            loaded[part] = LoadedPart(part, bundle.manifest.parts[part].form(choice.form), session, name)
        return cls(bundle, loaded, choices, options)

    def close(self) -> None:
        """Free the sessions and their memory; a later call raises, here, in a forked child, and in a copy."""
        self._loaded, self._closed = {}, True

    def __enter__(self) -> Autoencoder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickled and copied by path: the bundle is loaded anew, checked anew, and must be the same."""
        state = {"source": self._source, "options": self._options}
        return state | {"closed": self.__dict__ | {"_loaded": {}}} if self._closed else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "closed" in state:
            self.__dict__.update(state["closed"])
            return
        source = state["source"]
        bundle = open_bundle(source["path"], root=source["root"])
        if bundle.sha256 != source["sha256"]:
            raise IntegrityError(
                f"The bundle at {source['path']} is another one than when it was loaded: its manifest has changed. A "
                "forked or unpickled autoencoder must be the same; load the new one with Autoencoder.load."
            )
        self.__dict__.update(Autoencoder.from_bundle(bundle, **state["options"]).__dict__)

    def warmup(self, batch: int = 1) -> None:
        """Run each loaded part once on zeros, so that the first real call is as fast as the later ones."""
        batch = whole_number(batch, "as the batch", 1)
        for name in list(self._loaded):
            loaded = self._part(name)
            shape = [min(batch, loaded.chunk), *(n for n in loaded.input.shape if n is not None)]
            with self._limit() as options:
                loaded(np.zeros(shape, loaded.input.dtype), options=options)

    def encode(self, images: object, *, out: Float32Array | None = None) -> Float32Array:
        """Latents of images.

        Args:
            images: uint8 0..255 or floating point 0..1; [n, channels, height, width], [channels, height, width],
                or [height, width] where there is one channel. Any number: they are run in chunks of bounded memory.
                A model of signals or rows takes [n, …] floating point of its own shape. Where the bundle was exported
                with `pixels="uint8"`, uint8 goes to the graph as it is, without a copy if it lies in C order, and
                floating point is rounded to the nearest of the 256 values of a pixel. With `layout="nhwc"`, images are
                [n, height, width, channels]; with the channels first they are turned in a copy.
            out: float32, C-contiguous, of the result's shape, to write the latents into.

        Returns:
            float32 [n, *latent shape], as [n, latent_dim]; without the first axis for a single image. Of a variational
            autoencoder, the mean.

        Raises:
            InputError: a wrong shape, dtype or range, NaN, or an empty batch.
        """
        return self._call(self._part("encoder"), image_batch, images, out)

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
        batch, single = image_batch(images, encoder.input)
        with self._limit() as options:
            mean, log_variance = encoder.distribution(batch, options)
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
        generator = np.random.default_rng(seed_of(seed))
        mean, log_variance = self.encode_distribution(images)
        noise = generator.standard_normal(mean.shape, np.float32)
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
        return self._call(self._part("decoder"), latent_batch, latents, out)

    def reconstruct(self, images: object, *, out: Images | None = None) -> Images:
        """What the decoder makes of the encoder's latents: `decode(encode(images))`."""
        encoder, decoder = self._part("encoder"), self._part("decoder")
        batch, single = image_batch(images, encoder.input)
        rebuilt = decoder.output(len(batch), out, single)

        def run(chunk: NDArray[Any]) -> NDArray[Any]:
            latents = encoder.run(chunk, options)
            try:
                return decoder.run(latents, options)
            except InputError as error:
                raise BundleError(f"The encoder gave latents that its decoder cannot take: {error}") from error

        with self._limit() as options:
            in_chunks(run, batch, rebuilt, min(encoder.chunk, decoder.chunk))
        return rebuilt[0] if single else rebuilt

    def _call(self, part: LoadedPart, as_batch: _AsBatch, inputs: object, out: NDArray[Any] | None) -> NDArray[Any]:
        """Run one part on what a caller gave."""
        batch, single = as_batch(inputs, part.input)
        target = None if out is None else part.output(len(batch), out, single)
        if self._timeout_s is None:
            result = part(batch, target)
        else:
            with self._limit() as options:
                result = part(batch, target, options)
        return result[0] if single else result

    def _limit(self) -> AbstractContextManager[ort.RunOptions | None]:
        """The options of the runs of one call, which end it when its time is over."""
        return nullcontext() if self._timeout_s is None else TimeLimit(self._timeout_s)

    def stream(self, batches: Iterable[object], call: str = "decode") -> Iterator[NDArray[Any]]:
        """Outputs of a long row of batches, the next one computed while the caller uses this one.

        Args:
            batches: inputs, taken from the iterable one ahead: it may be endless. Each is copied as it is taken, so
                that its memory may be filled anew, as a camera does.
            call: `"encode"`, `"decode"` or `"reconstruct"`.

        Yields:
            The output of each batch, in order.

        Raises:
            InputError: `call` is none of these, or a batch is refused. What the iterable or a batch raises comes after
                the outputs of all batches before it.
        """
        from edgeae_runtime.sessions.streams import ahead  # here, because a single call needs no queue

        if not isinstance(call, str) or call not in ("encode", "decode", "reconstruct"):
            raise InputError(f"Got call={call!r}, expected encode, decode or reconstruct.")
        if not isinstance(batches, Iterable):
            raise InputError(f"Got batches of type {type(batches).__name__}, expected an iterable of arrays.")
        return ahead(getattr(self, call), batches)

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
        count = whole_number(count, "as a count", 1)
        latent, generator = self.manifest.latent, np.random.default_rng(seed_of(seed))
        try:
            return self._drawn(count, generator)
        except (MemoryError, ValueError, OverflowError) as error:
            raise InputError(
                f"There is no memory for {count} latents of {list(latent.shape)}: ask for fewer at once."
            ) from error

    def _drawn(self, count: int, generator: np.random.Generator) -> Float32Array:
        latent = self.manifest.latent
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
        steps = whole_number(steps, "steps", 2, MAX_STEPS, why=": both ends are included")
        start, end = self._one_latent(a), self._one_latent(b)
        weights = np.linspace(0, 1, steps, dtype=np.float32).reshape(-1, *(1 for _ in start.shape[1:]))
        return self.decode((1 - weights) * start + weights * end)

    def _one_latent(self, value: object) -> Float32Array:
        array, shape = as_array(value, "one end"), self.manifest.latent.shape
        image_axes = len(self.manifest.image_shape)
        if array.shape == shape or (array.ndim == len(shape) and array.ndim < image_axes - 1):
            return as_latents(array, self._part("decoder").input)[0]
        if array.ndim == image_axes + 1 and len(array) != 1:
            raise InputError(f"Got {len(array)} images for one end of an interpolation, expected one image or latent.")
        return self.encode(array).reshape(1, *shape)

    def _part(self, name: str) -> LoadedPart:
        if os.getpid() != self._process and not self._closed:
            with SESSIONS:
                if os.getpid() != self._process:  # another thread may have loaded it meanwhile
                    self.__setstate__(self.__getstate__())
        try:
            return self._loaded[name]
        except KeyError:
            if self._closed:
                raise InputError("This autoencoder was closed. Load the bundle again.") from None
            raise _missing(name, self.manifest) from None


def _choices(
    bundle: Bundle, provider: str, parts: Sequence[str], threads: int | None, asked: Mapping[str, str]
) -> dict[str, Choice]:
    """The form and the threads of each part: as asked, else as tuned here, else the part itself on one thread."""
    tuned = read_tuning(bundle, provider) if threads is None or not set(parts) <= asked.keys() else {}
    choices = {}
    for part in parts:
        found = tuned.get(part, Choice())
        form, record = found.form, bundle.manifest.parts[part].form(found.form).record
        if part not in asked and form != DEFAULT and not bundle.has(record):
            warnings.warn(
                f"tune chose the form {form} of the {part}, but this copy of the bundle has no {record.file}: the "
                f"{part} runs in its default form. Copy the bundle with its variants, or tune it again.",
                RuntimeWarning,
                stacklevel=4,
            )
            form = DEFAULT
        choices[part] = Choice(asked.get(part, form), found.threads if threads is None else threads)
    return choices


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
