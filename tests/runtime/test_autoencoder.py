"""The calls an application makes: shapes, dtypes, ranges, and what is refused."""

import numpy as np
import pytest
from edgeae_runtime import Autoencoder, BundleError, InputError, ProviderError, open_bundle
from edgeae_runtime.arrays import as_images, as_latents


@pytest.fixture(scope="module")
def ae(bundle):
    return Autoencoder.load(bundle, provider="cpu")


def test_outputs_are_the_torch_models(ae, bundle):
    golden = open_bundle(bundle).read_golden()
    # 1e-6: a few float32 roundings of values near one; the bundle's own limits are tested by verify.
    np.testing.assert_allclose(ae.encode(golden.image), golden.latent, atol=1e-6)
    np.testing.assert_allclose(ae.decode(golden.latent), golden.decoded, atol=1e-6)
    np.testing.assert_allclose(ae.reconstruct(golden.image), golden.decoded, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 65])
def test_any_batch(ae, batch):
    images = np.random.default_rng(batch).random((batch, 1, 16, 16), dtype=np.float32)
    latents = ae.encode(images)
    assert latents.shape == (batch, 3)
    assert latents.dtype == np.float32
    decoded = ae.decode(latents)
    assert decoded.shape == images.shape
    assert decoded.dtype == np.float32
    assert decoded.min() >= 0
    assert decoded.max() <= 1
    # Every row is its own: alone or in a batch, the same result.
    np.testing.assert_allclose(ae.encode(images[-1:])[0], latents[-1], atol=1e-6)


def test_single_image_in_every_form(ae, images):
    expected = ae.encode(images)[0]
    for form in (images[0], images[0, 0]):
        latent = ae.encode(form)
        assert latent.shape == (3,)
        np.testing.assert_allclose(latent, expected, atol=1e-6)
    assert ae.decode(expected).shape == (1, 16, 16)
    assert ae.reconstruct(images[0, 0]).shape == (1, 16, 16)


def test_uint8_is_scaled_as_in_training(ae, images):
    scaled = images.astype(np.float32) / 255
    np.testing.assert_array_equal(ae.encode(images), ae.encode(scaled))


def test_float64_is_accepted(ae, images):
    np.testing.assert_allclose(ae.encode(images / 255.0), ae.encode(images), atol=1e-6)


def test_contiguous_float32_is_not_copied(ae, images):
    scaled = images.astype(np.float32) / 255
    batch, _ = as_images(scaled, ae.manifest.parts["encoder"].input)
    assert np.shares_memory(batch, scaled)
    latents = np.zeros((4, 3), np.float32)
    assert np.shares_memory(as_latents(latents, ae.manifest.parts["decoder"].input)[0], latents)


def test_non_contiguous_input_gives_the_same(ae, images):
    scaled = images.astype(np.float32) / 255
    flipped = np.ascontiguousarray(scaled[..., ::-1])
    np.testing.assert_array_equal(ae.encode(scaled[..., ::-1]), ae.encode(flipped))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((1, 1, 15, 16), np.float32), ["[1, 1, 15, 16]", "[n, 1, 16, 16]"]),
        (np.zeros((1, 3, 16, 16), np.float32), ["[1, 3, 16, 16]"]),
        (np.zeros((16,), np.float32), ["[16]"]),
        (np.zeros((0, 1, 16, 16), np.float32), ["empty batch"]),
        (np.full((1, 1, 16, 16), np.nan, np.float32), ["nan"]),
        (np.full((1, 1, 16, 16), 255.0, np.float32), ["255", "Divide", "uint8"]),
        (np.full((1, 1, 16, 16), -0.5, np.float32), ["-0.5"]),
        (np.zeros((1, 1, 16, 16), np.int64), ["int64", "uint8"]),
        (np.zeros((1, 1, 16, 16), np.complex64), ["complex64"]),
        ("a path", ["expected"]),
        ([[1, 2], [3]], ["expected"]),
        (None, ["NoneType"]),
    ],
)
def test_bad_images_are_refused(ae, images, words):
    with pytest.raises(InputError) as caught:
        ae.encode(images)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 1.0, np.nextafter(np.float32(1), 2), -1e-45, -1e-7])
def test_one_odd_pixel_within_rounding_is_taken(ae, value):
    odd = np.full((2, 1, 16, 16), 0.5, np.float32)
    odd[1, 0, 7, 7] = value
    np.testing.assert_array_equal(as_images(odd, ae.manifest.parts["encoder"].input)[0], odd)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, 1.00001, -0.00001, 2, -1, 1e38, -1e38])
def test_one_odd_pixel_outside_is_refused(ae, value):
    odd = np.full((2, 1, 16, 16), 0.5, np.float32)
    odd[1, 0, 7, 7] = value
    for images in (odd, odd[..., ::-1], odd.astype(np.float64)):
        with pytest.raises(InputError, match="from 0 to 1"):
            ae.encode(images)


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        (np.zeros((2, 4), np.float32), ["[2, 4]", "[n, 3]"]),
        (np.zeros((2, 3, 1), np.float32), ["[2, 3, 1]"]),
        (np.zeros((0, 3), np.float32), ["empty batch"]),
        (np.array([[0, np.inf, 0]], np.float32), ["inf", "finite"]),
        (np.array([[0, np.nan, 0]], np.float32), ["nan", "finite"]),
        (np.zeros((2, 3), np.int32), ["int32"]),
    ],
)
def test_bad_latents_are_refused(ae, latents, words):
    with pytest.raises(InputError) as caught:
        ae.decode(latents)
    for word in words:
        assert word in str(caught.value)


def test_large_finite_latents_are_allowed(ae):
    assert np.isfinite(ae.decode(np.full((1, 3), 1e4, np.float32))).all()


def test_sample_is_seeded_and_stays_in_the_observed_range(ae):
    assert ae.sample(8, seed=0).shape == (8, 1, 16, 16)
    np.testing.assert_array_equal(ae.sample(8, seed=1), ae.sample(8, seed=1))
    assert not np.array_equal(ae.sample(8, seed=1), ae.sample(8, seed=2))
    latents = ae.sample_latents(1000, seed=0)
    latent = ae.manifest.latent
    assert (latents >= np.float32(latent.low)).all()
    assert (latents <= np.float32(latent.high)).all()
    # The whole box is used, not one corner of it.
    assert (np.ptp(latents, axis=0) > 0.9 * (np.array(latent.high) - latent.low)).all()
    with pytest.raises(InputError, match="whole number from 1"):
        ae.sample(0)


def test_sampling_without_an_observed_range_is_refused(edit_manifest):
    path = edit_manifest(lambda document: document["latent"].update(low=None, high=None))
    with pytest.raises(BundleError, match="no observed latent range"):
        Autoencoder.load(path).sample(2)


def test_interpolation_begins_and_ends_at_its_ends(ae, images):
    a, b = images[0], images[1]
    steps = ae.interpolate(a, b, steps=9)
    assert steps.shape == (9, 1, 16, 16)
    np.testing.assert_allclose(steps[0], ae.reconstruct(a), atol=1e-6)
    np.testing.assert_allclose(steps[-1], ae.reconstruct(b), atol=1e-6)
    from_latents = ae.interpolate(ae.encode(a), ae.encode(b), steps=9)
    np.testing.assert_allclose(from_latents, steps, atol=1e-6)
    middle = (ae.encode(a) + ae.encode(b)) / 2
    np.testing.assert_allclose(steps[4], ae.decode(middle), atol=1e-5)
    with pytest.raises(InputError, match="from 2"):
        ae.interpolate(a, b, steps=1)
    with pytest.raises(InputError, match="one image or latent"):
        ae.interpolate(images, b)


def test_a_decoder_alone_reads_only_the_decoder(broken):
    (broken / "encoder.onnx").unlink()
    ae = Autoencoder.load(broken, parts=("decoder",))
    assert ae.providers == {"decoder": "cpu"}
    assert ae.decode(np.zeros(3, np.float32)).shape == (1, 16, 16)
    with pytest.raises(InputError, match="encoder was not loaded"):
        ae.encode(np.zeros((1, 1, 16, 16), np.float32))


def test_a_bundle_of_one_half(edit_manifest):
    path = edit_manifest(lambda document: document["parts"].pop("encoder"))
    ae = Autoencoder.load(path)
    assert list(ae.providers) == ["decoder"]
    assert ae.manifest.image_shape == (1, 16, 16)
    with pytest.raises(InputError, match="not in this bundle"):
        ae.encode(np.zeros((1, 1, 16, 16), np.float32))


def test_providers_are_strict(bundle):
    assert Autoencoder.load(bundle, "auto").providers == {"encoder": "cpu", "decoder": "cpu"}
    with pytest.raises(ProviderError, match=r"no provider named 'tpu'.*cpu, cuda, directml"):
        Autoencoder.load(bundle, "tpu")
    with pytest.raises(ProviderError, match=r"cuda.*edgeae-runtime\[cuda\]"):
        Autoencoder.load(bundle, "cuda")


def test_threads_are_checked(bundle):
    with pytest.raises(InputError, match="0 threads"):
        Autoencoder.load(bundle, threads=0)


def test_int8_stays_near_the_torch_model(int8_bundle):
    golden = open_bundle(int8_bundle).read_golden()
    ae = Autoencoder.load(int8_bundle)
    assert {part.precision for part in ae.manifest.parts.values()} == {"int8"}
    difference = np.abs(ae.reconstruct(golden.image) - golden.decoded)
    assert 0 < difference.max() < 0.2
