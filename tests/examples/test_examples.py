"""Every example runs as its docstring says: real processes, real sockets, real files."""

import io
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from edgeae_runtime import Autoencoder, verify
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
BUNDLE = EXAMPLES / "bundle"
MAX_BUNDLE_BYTES = 400_000
SAME = 1e-6  # another batch size, another order of sums


def command(name, *arguments):
    return [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process):
    for _ in range(300):
        assert process.poll() is None, "the server ended"
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail("the server did not answer")


@pytest.fixture
def serve():
    """Start a server on a free port; stopped after the test."""
    running = []

    def start(name):
        port = free_port()
        process = subprocess.Popen(command(name, BUNDLE, "--port", port))
        running.append(process)
        wait_for(port, process)
        return port

    yield start
    for process in running:
        process.terminate()
        process.wait(20)


def post(port, call, array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{call}", data=buffer.getvalue(), timeout=30) as answer:
        return np.load(io.BytesIO(answer.read()))


def test_the_bundle_is_small_and_verifies():
    assert sum(path.stat().st_size for path in BUNDLE.iterdir()) <= MAX_BUNDLE_BYTES
    assert all(check.passed for check in verify(BUNDLE))


def test_web_service_answers_concurrent_requests(serve):
    port, autoencoder = serve("web_service"), Autoencoder.load(BUNDLE)
    latents = np.random.default_rng(0).standard_normal((40, 1, 2)).astype(np.float32)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda latent: post(port, "decode", latent), latents))
    for latent, image in zip(latents, answers, strict=True):
        np.testing.assert_allclose(image, autoencoder.decode(latent), atol=SAME)
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(port, "decode", np.zeros((1, 3), np.float32))
    assert refused.value.code == 400
    assert "expected [n, 2]" in refused.value.read().decode()


def test_socket_decoder_answers_each_latent(serve):
    port, autoencoder = serve("socket_decoder"), Autoencoder.load(BUNDLE)
    latents = np.random.default_rng(1).standard_normal((5, 2)).astype("<f4")
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        stream = connection.makefile("rwb")
        for latent in latents:
            stream.write(latent.tobytes())
            stream.flush()
            pixels = np.frombuffer(stream.read(32 * 32), np.uint8).reshape(1, 32, 32)
            np.testing.assert_allclose(pixels / 255, autoencoder.decode(latent), atol=0.51 / 255)
        stream.write(np.array([np.nan, 0], "<f4").tobytes())
        stream.flush()
        assert stream.read(1) == b""  # it hangs up


def test_camera_loop_finds_the_unusual_frames():
    done = subprocess.run(command("camera_loop", BUNDLE, "--frames", 120), capture_output=True, text=True, check=True)
    unusual = [int(line.split()[1].rstrip(":")) for line in done.stdout.splitlines() if "unusual" in line]
    assert unusual == [49, 99]
    assert "frames per second" in done.stdout


def test_a_folder_is_encoded_by_workers(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (300, 32, 32), dtype=np.uint8)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "in" / ("deep" if index % 2 else "") / f"{index:04}.png")
    arguments = (BUNDLE, tmp_path / "in", tmp_path / "out.npz", "--workers", 2)
    done = subprocess.run(command("encode_folder", *arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # On a busy machine the first worker may be done with all parts before the second has started.
    assert re.search("300 pictures by [12] of 2 workers", done.stdout), done.stdout
    result = np.load(tmp_path / "out.npz")
    expected = Autoencoder.load(BUNDLE).encode(images[:, None])
    for name, latent in zip(result["names"], result["latents"], strict=True):
        np.testing.assert_allclose(latent, expected[int(name[:4])], atol=1e-4)


def test_the_two_lines_of_the_readme(tmp_path):
    text = (ROOT / "README.md").read_text()
    line = next(
        line for line in text.splitlines() if line.startswith("edgeae-runtime sample 16 --bundle examples/bundle")
    )
    arguments = line.split("#")[0].split()[1:]
    arguments[arguments.index("--out") + 1] = str(tmp_path / "new.png")
    subprocess.run([sys.executable, "-m", "edgeae_runtime", *arguments], check=True, cwd=ROOT)
    assert Image.open(tmp_path / "new.png").size == (4 * 34 - 2, 4 * 34 - 2)
