"""Mutate bundles at random: a typed error each time, or the right answer; never a crash, a hang or a wrong answer.

    python tests/runtime/fuzz.py [--cases 10000] [--seed 0]

Three kinds in turn: bytes flipped in a file (the hash tells), the manifest's document changed, and bytes flipped in a
graph whose new hash the forger recorded too. The last kind must only never crash or hang: what a signed-for file
computes is the signer's. Cases run in worker processes, so that a crash is seen, attributed and counted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from edgeae_runtime import Autoencoder, EdgeAEError, open_bundle
from edgeae_runtime.verify import verify

BUNDLES = Path(__file__).parent / "bundles"
KINDS = ("bytes", "manifest", "forged")
HANG = 1000
"""Times what an untouched bundle's case takes on this machine, now: a case that takes longer hangs."""
MEMORY_BYTES = 8 << 30
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    1 << 31,
    1 << 70,
    1e308,
    "",
    "x",
    "../x",
    "a" * 5000,
    [],
    {},
    [[]],
    [1, 2],
    {"a": 1},
]


def mutate_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat or insert."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data)) if data else 0
        action = rng.randrange(5)
        if action <= 1 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif action == 2 and data:
            data[place] = rng.randrange(256)
        elif action == 3:
            del data[place : place + rng.randrange(1, 64)]
        else:
            data[place:place] = rng.randbytes(rng.randrange(1, 16))
    return bytes(data)


def mutate_document(document: object, rng: random.Random) -> object:
    """Change one value somewhere in a JSON document."""
    if isinstance(document, dict) and document and rng.random() < 0.85:
        key = rng.choice(list(document))
        if rng.random() < 0.1:
            return {name: value for name, value in document.items() if name != key}
        return {**document, key: mutate_document(document[key], rng)}
    if isinstance(document, list) and document and rng.random() < 0.7:
        index = rng.randrange(len(document))
        return [mutate_document(value, rng) if i == index else value for i, value in enumerate(document)]
    return rng.choice(VALUES)


def prepare(folder: Path, case: int, seed: int) -> str:
    """Write the mutated bundle of a case; returns its kind."""
    rng = random.Random(seed * 1_000_003 + case)
    kind = KINDS[case % len(KINDS)]
    shutil.copytree(BUNDLES / rng.choice(("float32", "int8")), folder)
    manifest = folder / "manifest.json"
    if kind == "bytes":
        path = folder / rng.choice(("encoder.onnx", "decoder.onnx", "golden.npz", "manifest.json"))
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))
    elif kind == "manifest":
        document = json.loads(manifest.read_text())
        for _ in range(rng.choice((1, 1, 3))):
            document = mutate_document(document, rng)
        manifest.write_text(json.dumps(document))
    else:
        part = rng.choice(("encoder", "decoder"))
        path = folder / f"{part}.onnx"
        raw = mutate_bytes(path.read_bytes(), rng)
        path.write_bytes(raw)
        document = json.loads(manifest.read_text())
        document["parts"][part].update(bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
        manifest.write_text(json.dumps(document))
    return kind


def run_case(case: int, seed: int) -> str:
    """`refused`, `right`, or what went wrong."""
    with tempfile.TemporaryDirectory(prefix="edgeae-fuzz-") as parent:
        folder = Path(parent) / "bundle"
        kind = prepare(folder, case, seed)
        try:
            autoencoder = Autoencoder.load(folder)
            golden = open_bundle(folder).read_golden()
            encoded, decoded = autoencoder.encode(golden.image), autoencoder.decode(golden.latent)
            verify(folder)
        except EdgeAEError:
            return "refused"
        if kind == "forged":
            return "ran"
        right = np.allclose(encoded, golden.latent, atol=0.5) and np.allclose(decoded, golden.decoded, atol=0.25)
        return "right" if right else f"WRONG ANSWER ({kind})"


def sound_seconds() -> float:
    """What loading, running and verifying the bundles takes as they are, both in turn."""
    start = time.monotonic()
    for folder in BUNDLES.iterdir():
        Autoencoder.load(folder)
        verify(folder)
    return time.monotonic() - start


def worker(first: int, step: int, cases: int, seed: int, results: multiprocessing.Queue) -> None:
    """Run every `step`-th case; says which one before it runs, so that a crash has a name."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for case in range(first, cases, step):
        results.put(("begin", case, ""))
        try:
            outcome = run_case(case, seed)
        except BaseException as error:
            outcome = f"UNTYPED {type(error).__name__}: {str(error)[:200]}"
        results.put(("end", case, outcome))
    results.put(("done", first, ""))


def fuzz(cases: int, seed: int) -> dict[str, int]:
    """Run the cases in one worker at a time; returns how many had each outcome."""
    context = multiprocessing.get_context("spawn")
    patience = HANG * sound_seconds()
    outcomes: dict[str, int] = {}

    def count(case: int, outcome: str) -> None:
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if outcome.split()[0] in ("WRONG", "UNTYPED", "CRASH", "HANG"):
            print(f"case {case} (seed {seed}): {outcome}", flush=True)

    first = 0
    while first < cases:
        results = context.Queue()
        process = context.Process(target=worker, args=(first, 1, cases, seed, results))
        process.start()
        running, since = first, time.monotonic()
        while True:
            try:
                word, case, outcome = results.get(timeout=1)
            except Exception:
                if process.is_alive() and time.monotonic() - since < patience:
                    continue
                count(running, "HANG" if process.is_alive() else f"CRASH ({process.exitcode})")
                process.kill()
                first = running + 1
                break
            if word == "done":
                first = cases
                break
            running, since = case, time.monotonic()
            if word == "end":
                count(case, outcome)
                running = case + 1
        process.join(10)
    return outcomes


def main() -> None:
    """Fuzz, and fail if anything but a refusal or the right answer was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes = fuzz(options.cases, options.seed)
    print(json.dumps(outcomes, indent=2))
    sys.exit(any(outcome not in ("refused", "right", "ran") for outcome in outcomes))


if __name__ == "__main__":
    main()
