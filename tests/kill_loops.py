"""Kill train, export, picture preparation and tune at random moments, and look at what is left.

    python tests/kill_loops.py --moments 200 --seed 0 [--json FILE] [--only train ...]

Each moment is one child, forked from a parent that has everything imported, hit by SIGKILL, SIGINT or a full disk
(a small tmpfs that another file fills up, where one may be mounted; else a limit on the size of files). Afterwards the
old state or the new one must be there whole; after a following clean run nothing else may be.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

KINDS = ("SIGKILL", "SIGINT", "full disk")
EXAMPLE = Path(__file__).parents[1] / "examples" / "bundle"
DISK_BYTES = 64 << 20


class Train:
    """A run over an old checkpoint, or its resumption."""

    def __init__(self, folder: Path) -> None:
        from edgeae import AutoencoderConfig, TrainingConfig, load_images

        self.out = folder / "checkpoint"
        images = load_images("sample")
        few = {"train_images": 128, "train_labels": 128, "test_images": 32, "test_labels": 32}
        import dataclasses

        self.data = dataclasses.replace(images, **{name: getattr(images, name)[:n] for name, n in few.items()})
        self.model = AutoencoderConfig(widths=(4, 8))
        self.training = TrainingConfig(epochs=2, batch_size=32, precision="float32", device="cpu")

    def work(self) -> None:
        from edgeae import train

        train(self.data, self.out, self.model, self.training)

    def state(self) -> str:
        """The weights' own record: a checkpoint that loads is whole."""
        from edgeae import load_checkpoint
        from edgeae.checkpoint import load_optimizer

        checkpoint = load_checkpoint(self.out)
        load_optimizer(self.out)
        return f"epoch {checkpoint.epochs_done}"

    allowed = ("epoch 1", "epoch 2")

    def entries(self) -> int:
        return 4


class Export:
    """`write_bundle` as `export --overwrite` calls it, with what an export of before made."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "bundle"
        one = {path.name: path.read_bytes() for path in EXAMPLE.iterdir() if path.suffix in (".onnx", ".npz", ".json")}
        one.pop("tuning.json", None)
        buffer, document = io.BytesIO(), json.loads(one["manifest.json"])
        np.savez(buffer, **np.load(EXAMPLE / "golden.npz"))
        golden = buffer.getvalue()
        document["golden"] |= {"sha256": hashlib.sha256(golden).hexdigest(), "bytes": len(golden)}
        self.bundles = [one, {**one, "golden.npz": golden, "manifest.json": json.dumps(document).encode()}]

    def work(self) -> None:
        from edgeae_export.bundle.swap import replace_folder
        from edgeae_export.bundle.writer import check_target

        check_target(self.out, overwrite=True)
        replace_folder(self.out, self.bundles[os.getpid() % 2])

    def state(self) -> str:
        found = {path.name: path.read_bytes() for path in self.out.iterdir()}
        return "whole" if found in self.bundles else f"a mix of {sorted(found)}"

    allowed = ("whole",)

    def entries(self) -> int:
        return len(self.bundles[0])


class Pictures:
    """Picture preparation into edgeae's cache."""

    def __init__(self, folder: Path) -> None:
        from PIL import Image

        self.pictures, self.out = Path(tempfile.mkdtemp(prefix="edgeae-kill-pictures-")), folder / "cache"
        rng = np.random.default_rng(0)
        for index in range(60):
            Image.fromarray((rng.random((48, 48, 3)) * 255).astype(np.uint8)).save(self.pictures / f"{index}.png")
        self.expected = ""

    def load(self) -> str:
        from edgeae.data import PictureOptions, load_images

        os.environ["EDGEAE_CACHE"] = str(self.out)
        return load_images(str(self.pictures), pictures=PictureOptions(size=32, channels=3, fit="crop")).fingerprint

    def reset(self) -> None:
        """Forget what was prepared, but not what a killed preparation left."""
        for done in (self.out / "pictures").glob("*/set.json"):
            if not done.parent.name.startswith("."):
                shutil.rmtree(done.parent)

    def work(self) -> None:
        self.load()

    def state(self) -> str:
        """What a next run reads from the cache, or makes again, is what the pictures are."""
        fingerprint = self.load()
        return "right" if fingerprint == self.expected else "wrong"

    allowed = ("right",)

    def entries(self) -> int:
        return -1


class Tune:
    """The tuning of a bundle, with measurements that take no time."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "tuned"
        shutil.copytree(EXAMPLE, self.out, ignore=shutil.ignore_patterns("tuning.json"))
        self.files = len(list(self.out.iterdir()))

    def work(self) -> None:
        import numpy as np
        from edgeae_runtime.measure import tune as tuning
        from edgeae_runtime.measure.timing import Latency

        quick = Latency(np.full(7, float(os.getpid())), np.full(7, float(os.getpid())))
        tuning.interleave = lambda calls: dict.fromkeys(calls, quick)
        tuning.tune(self.out)

    def state(self) -> str:
        from edgeae_runtime.bundle.reader import open_bundle
        from edgeae_runtime.bundle.tuning import read_tuning

        if set(read_tuning(open_bundle(self.out), "cpu")) != {"encoder", "decoder"}:
            raise ValueError("tuning.json is neither the old one nor the new one")
        return "whole"

    allowed = ("whole",)

    def entries(self) -> int:
        return self.files + 1


WORK = {"train": Train, "export": Export, "pictures": Pictures, "tune": Tune}


def forked(action: Callable[[], object], answer: bool = False) -> tuple[int, Callable[[], tuple[int, str]]]:
    """Run an action in a child; `wait` gives its exit status and, as text, what it returned or raised."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            told = str(action())
            status = 0
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        if answer:
            os.write(writing, told.encode()[:4000])
        os._exit(status)
    os.close(writing)

    def wait() -> tuple[int, str]:
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read().decode() if answer else ""
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), told

    return child, wait


def moments(name: str, count: int, seed: int, mounted: Path | None, folder: Path) -> list[dict]:
    """`count` moments of each kind; a row per kind."""
    rng, work = random.Random(f"{seed} {name}"), WORK[name](folder)
    status, told = forked(work.work, answer=True)[1]()
    if status:
        raise SystemExit(f"{name} fails undisturbed: {told}")
    if isinstance(work, Pictures):
        work.reset()
        work.expected = forked(work.load, answer=True)[1]()[1]
        work.reset()
    begin = time.monotonic()
    forked(work.work)[1]()
    seconds = time.monotonic() - begin
    written = 4096 if name == "tune" else 1.5 * sum(path.stat().st_size for path in work.out.rglob("*"))
    rows = []
    for kind in KINDS:
        seen, bad = Counter(), []
        for moment in range(count):
            limit, filler = None, folder / "filler"
            if isinstance(work, Pictures):
                work.reset()
            if kind == "full disk":
                left = int(rng.uniform(0, written))
                if mounted:
                    free = shutil.disk_usage(folder).free
                    filler.write_bytes(bytes(max(0, free - left)))
                else:
                    limit = left

            def disturbed(limit: int | None = limit) -> None:
                if limit is not None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                work.work()

            child, wait = forked(disturbed)
            if kind != "full disk":
                time.sleep(rng.uniform(0, 1.05 * seconds))
                os.kill(child, getattr(signal, kind))
            ended = wait()[0]
            seen["finished" if ended == 0 else "stopped"] += 1
            filler.unlink(missing_ok=True)
            status, told = forked(work.state, answer=True)[1]()
            if status or told not in work.allowed:
                bad.append(f"moment {moment}: {told}")
                status = forked(work.work)[1]()[0]
        status, told = forked(work.work, answer=True)[1]()
        left_over = sorted(
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if "partial" in path.name or ".edgeae-" in path.name
        )
        count_now = len(list(work.out.iterdir())) if work.out.is_dir() else -1
        if work.entries() >= 0 and count_now != work.entries():
            left_over.append(f"{count_now} entries, expected {work.entries()}")
        rows.append({
            "work": name, "kind": kind, "moments": count, "stopped": seen["stopped"], "finished": seen["finished"],
            "not_whole": len(bad), "first": bad[:3], "clean_run": status == 0, "left_over": left_over,
            "disk": ("tmpfs" if mounted else "RLIMIT_FSIZE") if kind == "full disk" else "",
        })  # fmt: skip
    return rows


def main() -> int:
    """Run the loops, print a table, write JSON; 1 where anything was lost or left."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=WORK, default=list(WORK))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import edgeae_runtime.measure.tune  # noqa: F401
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell is born deaf to it
    folder = Path(tempfile.mkdtemp(prefix="edgeae-kill-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    mounted = (
        sys.platform == "linux" and os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode
    )
    rows: list[dict] = []
    try:
        for name in options.only:
            place = folder / name
            place.mkdir()
            rows += moments(name, options.moments, options.seed, folder if mounted else None, place)
            shutil.rmtree(place)
            for row in rows[-len(KINDS) :]:
                print(
                    f"{row['work']:9} {row['kind']:10} {row['moments']:4} moments: {row['stopped']:4} stopped, "
                    f"{row['not_whole']} not whole {row['first']}, left over {row['left_over']}",
                    flush=True,
                )
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps({"seed": options.seed, "rows": rows}, indent=2) + "\n")
    return int(any(row["not_whole"] or row["left_over"] or not row["clean_run"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
