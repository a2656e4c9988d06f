"""Mutate bundles at random: a typed error each time, or the right answer; never a crash, a hang or a wrong answer.

    python tests/runtime/fuzz.py [--cases 10000] [--seed 0] [--bundles FOLDER]

Six kinds in turn: bytes flipped in a file (the hash tells); the manifest's document changed; and with the new hash
recorded as a forger would: bytes flipped in a graph, a field of the graph's protobuf changed (`fuzz_fields.py`), the
archive of golden vectors changed, and the record of what was tuned. What a signed-for file computes is the signer's:
the forged kinds must only never crash, hang, eat memory, or raise what is not an `EdgeAEError`. Cases run in a worker
process, so that a crash is seen, attributed and counted.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
from edgeae_runtime import Autoencoder, EdgeAEError, open_bundle
from edgeae_runtime.replay import verify_here
from fuzz_fields import mutate_fields
from fuzz_workers import watch

BUNDLES = Path(__file__).parent / "bundles"
KINDS = ("bytes", "manifest", "forged bytes", "fields", "golden", "tuning")
FORGED = KINDS[2:]
PATIENCE = 30
"""Times --seconds after which a worker that says nothing is ended."""
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
    10**400,
    1e308,
    1e39,
    "",
    "x",
    "../x",
    "\x1b[2J",
    "\udcff",
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


def mutate_golden(raw: bytes, rng: random.Random) -> bytes:
    """An archive with one member's header or data changed, or members left out, doubled or renamed."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    index = rng.randrange(len(members))
    name, content = members[index]
    action = rng.randrange(7)
    if action == 0:
        members[index] = name, mutate_bytes(content[:128], rng) + content[128:]
    elif action == 1:
        shape = tuple(rng.choice((-1, 0, 1, 2, 3, 64, 65, 10**6, 10**12, 2.5)) for _ in range(rng.randrange(5)))
        header = {"descr": rng.choice(("<f4", ">f4", "<f8", "|O", "<U9", "|V3")), "fortran_order": rng.random() < 0.3}
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, header | {"shape": shape})
        members[index] = name, buffer.getvalue() + content[128 : rng.randrange(129, len(content) + 1)]
    elif action == 2:
        del members[index]
    elif action == 3:
        members.append((rng.choice((name, name[:-4], "other.npy", "../x.npy")), content))
    elif action == 4:
        members[index] = name, b"\0" * 50_000_000
    elif action == 5:
        numbers = np.frombuffer(content[128:], np.float32).copy()
        numbers[rng.randrange(len(numbers))] = rng.choice((np.nan, np.inf, -1, 1e30))
        members[index] = name, content[:128] + numbers.tobytes()
    else:
        return mutate_bytes(raw, rng)
    buffer = io.BytesIO()
    compression = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w", compression) as archive:
        for each, data in members:
            archive.writestr(each, data)
    return buffer.getvalue()


def forge(folder: Path, name: str, raw: bytes) -> None:
    """Replace a file and record its new hash."""
    (folder / name).write_bytes(raw)
    document = json.loads((folder / "manifest.json").read_text())
    parts = document["parts"].values()
    for record in (*parts, document["golden"], *(form for part in parts for form in part.get("variants", ()))):
        if record["file"] == name:
            record.update(bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    (folder / "manifest.json").write_text(json.dumps(document))


def tuning(folder: Path, rng: random.Random) -> bytes:
    """A record of forms and threads as `tune` writes it, changed."""
    from edgeae_runtime.bundle.tuning import Choice, tuning_document

    bundle = open_bundle(folder)
    choices = {name: Choice(rng.choice(part.forms)) for name, part in bundle.manifest.parts.items()}
    document: object = tuning_document(bundle, "cpu", choices)
    raw = json.dumps(mutate_document(document, rng)).encode(errors="replace")
    special = (b"[" * 60_000, b"1e999", b'{"parts": {"encoder": Infinity}}', b"\xff\xfe", mutate_bytes(raw, rng), raw)
    return rng.choice(special)


def prepare(folder: Path, case: int, seed: int, bundles: Path = BUNDLES) -> str:
    """Write the mutated bundle of a case; returns its kind."""
    rng = random.Random(seed * 1_000_003 + case)
    kind = KINDS[case % len(KINDS)]
    shutil.copytree(rng.choice(sorted(path for path in bundles.iterdir() if path.is_dir())), folder)
    manifest = folder / "manifest.json"
    graphs = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx"))
    part = rng.choice(graphs)
    graph = (folder / part).read_bytes()
    if kind == "bytes":
        path = folder / rng.choice((*graphs, "golden.npz", "manifest.json"))
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))
    elif kind == "manifest":
        document = json.loads(manifest.read_text())
        for _ in range(rng.choice((1, 1, 3))):
            document = mutate_document(document, rng)
        manifest.write_text(json.dumps(document))
    elif kind == "forged bytes":
        forge(folder, part, mutate_bytes(graph, rng))
    elif kind == "fields":
        forge(folder, part, mutate_fields(graph, rng))
    elif kind == "golden":
        forge(folder, "golden.npz", mutate_golden((folder / "golden.npz").read_bytes(), rng))
    else:
        (folder / "tuning.json").write_bytes(tuning(folder, rng))
    return kind


def run_case(case: int, seed: int, bundles: Path) -> str:
    """`refused`, `right`, or what went wrong."""
    with tempfile.TemporaryDirectory(prefix="edgeae-fuzz-") as parent:
        folder = Path(parent) / "bundle"
        kind = prepare(folder, case, seed, bundles)
        try:
            autoencoder = Autoencoder.load(folder)
            golden = open_bundle(folder).read_golden()
            encoded, decoded = autoencoder.encode(golden.image), autoencoder.decode(golden.latent)
            verify_here(str(folder), "cpu", 1, None)
        except EdgeAEError as error:
            return "refused" if len(str(error)) < 4000 else f"LONG message of {len(str(error))} characters ({kind})"
        if kind in FORGED and kind != "tuning":
            return "ran"
        right = np.allclose(encoded, golden.latent, atol=0.5) and np.allclose(decoded, golden.decoded, atol=0.25)
        return "right" if right else f"WRONG ANSWER ({kind})"


def worker(
    first: int, cases: int, seed: int, bundles: Path, limits: tuple[float, float], results: multiprocessing.Queue
) -> None:
    """Run the cases; says which one before it runs, so that a crash has a name.

    Stops after a case that took too much memory, because the most that a process ever had is all that is told.
    """
    seconds, megabytes = limits
    hard = 2 * int(megabytes * (1 << 20)) + (2 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    for case in range(first, cases):
        results.put(("begin", case, ""))
        start = time.process_time()
        try:
            outcome = run_case(case, seed, bundles)
        except BaseException as error:
            outcome = f"UNTYPED {type(error).__name__}: {str(error)[:200]}"
        took, held = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if took > seconds:
            outcome = f"SLOW {took:.1f} s ({outcome})"
        if held > megabytes:
            outcome = f"LARGE {held:.0f} MB ({outcome})"
        results.put(("end", case, outcome))
        if held > megabytes:
            break
    results.put(("done", case + 1, ""))


def fuzz(cases: int, seed: int, bundles: Path, limits: tuple[float, float]) -> dict[str, int]:
    """Run the cases in one worker at a time; returns how many had each outcome."""
    outcomes: dict[str, int] = {}

    def count(case: int, outcome: str) -> None:
        word = outcome if outcome in ("refused", "right", "ran") else outcome.split()[0]
        outcomes[word] = outcomes.get(word, 0) + 1
        if word == outcome:
            return
        print(f"case {case} (seed {seed}, {KINDS[case % len(KINDS)]}): {outcome}", flush=True)

    watch(worker, (seed, bundles, limits), cases, PATIENCE * limits[0], count)
    return outcomes


def main() -> None:
    """Fuzz, and fail if anything but a refusal or the right answer was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundles", type=Path, default=BUNDLES, help="a folder of bundles to start from")
    parser.add_argument("--seconds", type=float, default=2, help="of CPU time that a case may take")
    parser.add_argument("--megabytes", type=float, default=512, help="that the process may ever hold")
    options = parser.parse_args()
    outcomes = fuzz(options.cases, options.seed, options.bundles, (options.seconds, options.megabytes))
    print(json.dumps(outcomes, indent=2))
    sys.exit(any(outcome not in ("refused", "right", "ran") for outcome in outcomes))


if __name__ == "__main__":
    main()
