"""The cache of prepared pictures: whole or made again, whatever was done to it; and nothing is left by who died."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from edgeae_runtime import InputError
from PIL import Image

from edgeae import PictureOptions, TrainingConfig, load_checkpoint, load_images, train
from edgeae.checkpoint_images import checkpoint_images
from edgeae.data import picture_cache, places, vision
from edgeae.data.idx import encode_idx
from edgeae.data.load import user_path
from edgeae.model import AutoencoderConfig

OPTIONS = PictureOptions(size=8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pictures"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    for index in range(12):
        (root / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8).astype(np.uint8)
        Image.fromarray(pixels).save(root / "ab"[index % 2] / f"{index}.png")
    return root


def load(folder, told=None):
    return load_images(str(folder), pictures=OPTIONS, on_progress=(told if told is not None else []).append)


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def edit(**changes):
    return lambda entry: (entry / "set.json").write_text(
        json.dumps(json.loads((entry / "set.json").read_text()) | changes)
    )


DAMAGES = {
    "cut-document": lambda entry: cut(entry / "set.json"),
    "no-document": lambda entry: (entry / "set.json").unlink(),
    "empty-document": lambda entry: (entry / "set.json").write_text(""),
    "deep-document": lambda entry: (entry / "set.json").write_text("[" * 100_000),
    "list": lambda entry: (entry / "set.json").write_text("[]"),
    "labels": edit(labels={"train": [0, 99], "test": [0]}),
    "huge-label": edit(labels={"train": [10**30], "test": [0]}),
    "float-labels": edit(labels={"train": [0.5] * 11, "test": [0]}),
    "names": edit(class_names=[1, 2]),
    "sizes": edit(bytes={}),
    "other-rules": edit(rules=1),
    "other-shape": edit(shape=[1, 8, 8]),
    "cut-array": lambda entry: cut(entry / "train.npy"),
    "long-array": lambda entry: (entry / "test.npy").open("ab").write(b"x"),
    "no-array": lambda entry: (entry / "test.npy").unlink(),
    "empty-array": lambda entry: (entry / "train.npy").write_bytes(b""),
    "other-dtype": lambda entry: np.save(entry / "train.npy", np.zeros((11, 3, 8, 8), np.float32)),
    "other-array": lambda entry: np.save(entry / "train.npy", np.zeros((5, 3, 8, 8), np.uint8)),
    "fifo": lambda entry: ((entry / "set.json").unlink(), os.mkfifo(entry / "set.json")),
    "fifo-array": lambda entry: ((entry / "train.npy").unlink(), os.mkfifo(entry / "train.npy")),
    "file": lambda entry: (entry.rename(entry.parent.parent / "away"), entry.write_text("x")),
    "link": lambda entry: (
        entry.rename(entry.parent.parent / "away"),
        entry.symlink_to(entry.parent.parent / "away"),
    ),
    "dangling": lambda entry: (entry.rename(entry.parent.parent / "away"), entry.symlink_to("nowhere")),
}


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs and links")
@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_wrong_it_is_made_again_once(folder, cache, damage, monkeypatch):
    first = load(folder).fingerprint
    (entry,) = cache.iterdir()
    DAMAGES[damage](entry)
    told: list[str] = []
    assert load(folder, told).fingerprint == first
    assert any("damaged: preparing them again" in line for line in told)
    assert [path.name for path in cache.iterdir()] == [entry.name]
    assert not entry.is_symlink()
    monkeypatch.setattr(picture_cache, "load_picture", None)
    assert load(folder).fingerprint == first


def test_its_size_and_how_to_clear_it_are_told(folder, cache):
    for _ in range(2):
        told: list[str] = []
        load(folder, told)
        assert any("MB in" in line and str(cache) in line and "delete that folder" in line for line in told)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_everything_is_on_the_disk_before_the_rename(folder, monkeypatch):
    synced, rename = [], Path.rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    at_rename: list[set[str]] = []

    def renamed(self, target):
        at_rename.append({path.name for path in synced})
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    load(folder)
    assert {"train.npy", "test.npy", "set.json"} <= at_rename[0]
    assert synced[-1].name == "pictures", "and the folder that holds the new name"


@pytest.mark.parametrize("written", [0, 5, 100])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(folder, cache, monkeypatch, written):
    """Written, never through a mapping: there a full disk ends the process by a signal."""
    done = []
    opened = Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            done.append(data)
            if len(done) > written:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    def open_full(self, mode="r", *arguments, **options):
        file = opened(self, mode, *arguments, **options)
        return Full(file) if mode == "wb" else file

    monkeypatch.setattr(Path, "open", open_full)
    if written == 100:
        load(folder)
        return
    with pytest.raises(OSError, match=r"No space left on device, while preparing pictures.*EDGEAE_CACHE") as caught:
        load(folder)
    assert caught.value.errno == errno.ENOSPC
    assert list(cache.iterdir()) == []


CHILD = """
import sys, time
from pathlib import Path
from edgeae import PictureOptions, load_images
from edgeae.data import picture_cache
load = picture_cache.load_picture
def slow(*arguments):
    print("one", flush=True)
    time.sleep(float(sys.argv[2]))
    return load(*arguments)
picture_cache.load_picture = slow
print(load_images(sys.argv[1], pictures=PictureOptions(size=8)).fingerprint)
"""


def start(folder, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True, env=os.environ
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="locks that end with their process")
def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_stay(folder, cache):
    with start(folder, 60) as dead, start(folder, 60) as living:
        try:
            assert dead.stdout.readline() == living.stdout.readline() == "one\n"
            assert len(list(cache.iterdir())) == 2
            dead.send_signal(signal.SIGKILL)
            dead.wait()
            first = load(folder).fingerprint
            left = [path for path in cache.iterdir() if path.name.startswith(".partial-")]
            assert len(left) == 1, "the living one's"
            assert (left[0] / "all").exists()
        finally:
            living.kill()
            living.wait()
    assert load(folder).fingerprint == first
    assert len(list(cache.iterdir())) == 1


@pytest.mark.slow
def test_processes_that_prepare_the_same_set_at_once(folder, cache):
    running = [start(folder, 0.01) for _ in range(3)]
    ends = [process.communicate(timeout=120)[0].split()[-1] for process in running]
    assert set(ends) == {load(folder).fingerprint}
    assert len(list(cache.iterdir())) == 1


def test_folders_without_a_lock_are_swept_when_they_are_empty_or_old(folder, cache):
    for name, age in ((".partial-old", 7200), (".partial-new", 0), (".partial-empty", 0)):
        (cache / name).mkdir(parents=True)
        if name != ".partial-empty":
            (cache / name / "all.npy").write_bytes(b"x")
        os.utime(cache / name, (time.time() - age,) * 2)
    load(folder)
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == [".partial-new"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_moment_it_is_whole_or_made_again_and_nothing_is_left(folder, cache):
    start = time.perf_counter()
    whole = load(folder).fingerprint
    seconds = time.perf_counter() - start
    rng = np.random.default_rng(0)
    for _ in range(40):
        shutil.rmtree(cache)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                load(folder)
            os._exit(0)
        time.sleep(rng.random() * seconds * 1.1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert load(folder).fingerprint == whole
        assert len(list(cache.iterdir())) == 1


def test_a_picture_of_the_same_size_and_time_is_another_one(folder):
    path = folder / "a" / "0.png"
    Image.new("L", (8, 8), 5).save(path, "BMP")
    before, status = load(folder).fingerprint, path.stat()
    Image.new("L", (8, 8), 9).save(path, "BMP")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert load(folder).fingerprint != before


def test_a_fifo_among_the_pictures_is_one_broken_file(folder):
    os.mkfifo(folder / "a" / "fifo.png")
    told: list[str] = []
    assert len(load(folder, told).train_images) == 11
    assert any(line.startswith("skipped 1 broken pictures of 13: a/fifo.png") for line in told)


def test_training_takes_pictures_by_the_rules_of_the_device(folder):
    rgba = np.zeros((8, 8, 4), np.uint8)
    Image.fromarray(rgba).save(folder / "a" / "clear.png")
    Image.fromarray(np.full((8, 8), 0xFFFF, np.uint16)).save(folder / "a" / "deep.tif")
    (folder / "notes.txt").write_text("left alone")
    told: list[str] = []
    images = load(folder, told)
    white = [image for image in (*images.train_images, *images.test_images) if (image == 255).all()]
    assert len(white) == 2
    for words in ("1 picture with transparency put on white", "1 .txt files"):
        assert any(words in line for line in told)


def test_other_images_than_those_of_the_training_are_told(folder, tmp_path):
    data = load(folder)
    config = AutoencoderConfig(channels=3, widths=(4,), image_size=8)
    train(data, tmp_path / "run", config, TrainingConfig(epochs=1, batch_size=4, precision="float32", device="cpu"))
    checkpoint = load_checkpoint(tmp_path / "run")
    checkpoint_images(checkpoint)
    (folder / "a" / "0.png").unlink()
    with pytest.warns(UserWarning, match="are not those that .* was trained on"):
        checkpoint_images(checkpoint)
    with pytest.raises(InputError, match="images"):
        train(load(folder), tmp_path / "run", config, TrainingConfig(epochs=1, batch_size=4), resume=True)


def test_a_place_without_a_home(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGEAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert places.cache_folder() == tmp_path / "xdg" / "edgeae"
    monkeypatch.setattr(places.tempfile, "gettempdir", lambda: str(tmp_path))
    for nowhere in ("~/.cache/edgeae", "/proc/nothing/.cache/edgeae"):
        monkeypatch.setattr(places.platformdirs, "user_cache_dir", lambda *_, nowhere=nowhere, **__: nowhere)
        with pytest.warns(UserWarning, match=r"There is no home.*EDGEAE_CACHE"):
            place = places.cache_folder()
        assert place.is_dir()
        assert place.parent == tmp_path
        assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o777)
    with pytest.warns(UserWarning, match="There is no home"):
        assert places.cache_folder() != place, "anybody may have put something there"


def test_a_home_of_nobody(monkeypatch):
    assert user_path("~nosuchuser/x") == Path("~nosuchuser/x")
    with pytest.raises(InputError, match="~nosuchuser/x"):
        load_images("~nosuchuser/x")


def test_a_download_that_was_cut_is_taken_again(tmp_path, cache, monkeypatch):
    raw = cache.parent / "torchvision" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = np.zeros((10, 28, 28), np.uint8), np.zeros(10, np.uint8)
    whole = encode_idx(images)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(whole)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(encode_idx(labels))
    cut(raw / "train-images-idx3-ubyte")
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte is cut short.*Delete it"):
        load_images("mnist", download=False)
    asked = []

    class Dataset:
        classes = ("0", "1")
        data, targets = images, labels

        def __init__(self, root, train, download):
            asked.append((raw / "train-images-idx3-ubyte").exists())

    import torchvision

    monkeypatch.setattr(torchvision.datasets, "MNIST", Dataset)
    told: list[str] = []
    monkeypatch.setattr(vision, "as_pixels", lambda array, name: array[:, None])
    assert len(load_images("mnist", on_progress=told.append).train_images) == 10
    assert asked == [False, False], "removed, so that torchvision downloads it"
    assert any("is damaged, and is taken again" in line for line in told)
