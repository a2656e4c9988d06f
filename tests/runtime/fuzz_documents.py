"""Mutate the documents that the command line reads: one paragraph each time, never a crash, a hang or a traceback.

    python tests/runtime/fuzz_documents.py [--cases 10000] [--seed 0]

Three kinds in turn: a benchmark for `compare`, a manifest for `inspect` (where `edgeae` is installed), and a signature
for `verify --key` (where its extra is). Values and bytes are changed; some documents become FIFOs, links or folders.
Cases run in worker processes with bounded memory, so that a crash is seen, attributed and counted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from edgeae_runtime.bundle.manifest import MANIFEST_FILE
from edgeae_runtime.command.cli import main as runtime_main
from edgeae_runtime.terminal import MAX_PARAGRAPH
from fuzz import BUNDLES, VALUES, mutate_bytes
from fuzz_workers import watch

HANG_SECONDS = 2.0
MEMORY_BYTES = 512 << 20
TOOK: list[float] = []
PATIENCE = 30.0  # until a case that hangs is killed: a busy machine is slow
BEYOND = [
    10**400,
    -(10**25),
    1e-320,
    float("nan"),
    float("inf"),
    1 << 63,
    "\x1b[2J",
    "[/x]",
    "\ud800",
    "\0",
    [[1], [2, 3]],
]
ROW = {
    "variant": "bundle", "part": "decoder", "batch": 1, "threads": 1, "median_us": 100.0,
    "round_medians_us": [97.0, 100.0, 103.0],
}  # fmt: skip


def mutate(document: object, rng: random.Random) -> object:
    """Change one value somewhere, or nest it very deeply."""
    if isinstance(document, dict) and document and rng.random() < 0.85:
        key = rng.choice(list(document))
        if rng.random() < 0.1:
            return {name: value for name, value in document.items() if name != key}
        if rng.random() < 0.05:
            return document | {rng.choice(["\x1b]0;x\x07", "[/]", "k" * 100_000, ""]): document[key]}
        return {**document, key: mutate(document[key], rng)}
    if isinstance(document, list) and document and rng.random() < 0.75:
        if rng.random() < 0.1 and len(json.dumps(document)) < 2_000:  # once is enough: the size is a product
            return document * rng.choice((2, 100, 5_000))
        index = rng.randrange(len(document))
        return [mutate(value, rng) if i == index else value for i, value in enumerate(document)]
    return rng.choice([*VALUES, *BEYOND])


def mutated(document: object, rng: random.Random) -> bytes:
    """The document's bytes, changed by value, by byte, or out of all measure."""
    if rng.random() < 0.03:
        return rng.choice([b"", b"\xff" * 100, b"[" * 200_000, b'{"a":' * 100_000, b"1" * 1_000_000, b" " * (17 << 20)])
    for _ in range(rng.choice((1, 1, 1, 3, 8))):
        document = mutate(document, rng)
    raw = json.dumps(document).encode()
    return mutate_bytes(raw, rng) if rng.random() < 0.2 else raw


def place(path: Path, raw: bytes, rng: random.Random) -> None:
    """Write a document, or put something there that is no file."""
    path.unlink(missing_ok=True)
    chance = rng.random()
    if chance < 0.01:
        os.mkfifo(path)
    elif chance < 0.02:
        path.mkdir()
    elif chance < 0.03:
        path.symlink_to(rng.choice(["/dev/zero", path, "nowhere"]))
    else:
        path.write_bytes(raw)


@contextlib.contextmanager
def measured() -> Iterator[None]:
    """At most `MEMORY_BYTES` more than now, and its CPU time noted: of what is under test, not of making its input."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))
    start = time.process_time()
    try:
        yield
    finally:
        TOOK.append(time.process_time() - start)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def told_by(command: object) -> str:
    """Run a command line; its outcome, after what it told was looked at."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), measured():
        status = command()
    error = err.getvalue()
    if "a fault of edgeae's" in error or "Traceback" in error:
        return f"UNTYPED {error[:300]}"
    if "takes more memory" in error:
        return f"MEMORY {error[:300]}"
    if len(error) > MAX_PARAGRAPH + 20 or error.count("\n") > 1 or not error.strip("\n").isprintable():
        return f"UNREADABLE {error[:300]!a}"
    if any(not line.isprintable() for line in out.getvalue().split("\n")):
        return f"UNREADABLE {out.getvalue()[:300]!a}"
    if status not in (0, 1, 2):
        return f"UNTYPED status {status}"
    return "refused" if status else "ran"


def compare_case(folder: Path, rng: random.Random) -> str:
    """`compare` of a sound benchmark with a damaged one, or of two damaged ones."""
    rows = [ROW | {"part": part, "batch": batch} for part in ("encoder", "decoder") for batch in (1, 64)]
    sound = {
        "schema": "edgeae-bench",
        "schema_version": 2,
        "rows": rows,
        "pair_noise": {"decoder, batch 1, 1 thread": 0.01},
    }
    for name in ("old.json", "new.json"):
        place(
            folder / name,
            mutated(sound, rng) if name == "new.json" or rng.random() < 0.3 else json.dumps(sound).encode(),
            rng,
        )
    return told_by(lambda: runtime_main(["compare", str(folder / "old.json"), str(folder / "new.json")]))


def inspect_case(folder: Path, rng: random.Random) -> str:
    """`edgeae inspect` of a damaged manifest."""
    try:
        from edgeae.command import tables
    except ImportError:
        return "not installed"
    from edgeae_runtime import open_bundle
    from edgeae_runtime.command.exits import exit_status

    example = BUNDLES.parent.parent.parent / "examples" / "bundle" / MANIFEST_FILE
    source = rng.choice([example, BUNDLES / "float32" / MANIFEST_FILE, BUNDLES / "int8" / MANIFEST_FILE])
    place(folder / MANIFEST_FILE, mutated(json.loads(source.read_text()), rng), rng)
    return told_by(lambda: exit_status(lambda: tables.show_manifest(open_bundle(folder).manifest) or 0))


def signature_case(folder: Path, rng: random.Random) -> str:
    """`verify --key` with a damaged signature: it must never be accepted."""
    try:
        import model_signing.signing as signing
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        return "not installed"
    from edgeae_runtime.bundle.signing import SIGNATURE_FILE, check_signature, what_is_signed
    from edgeae_runtime.errors import SignatureError

    bundle, private, public = folder / "bundle", folder / "private.pem", folder / "publisher.pub"
    shutil.copytree(BUNDLES / "float32", bundle)
    key = ec.derive_private_key(rng.getrandbits(200) + 1, ec.SECP256R1())
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    config = signing.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(what_is_signed())
    config.sign(bundle, bundle / SIGNATURE_FILE)
    raw = (bundle / SIGNATURE_FILE).read_bytes()
    victim = bundle / rng.choice(["README.md", "encoder.onnx", MANIFEST_FILE])
    victim.write_bytes(mutate_bytes(victim.read_bytes(), rng) + b"!")
    place(bundle / SIGNATURE_FILE, mutated(json.loads(raw), rng) if rng.random() < 0.8 else mutate_bytes(raw, rng), rng)
    try:
        with measured():
            check_signature(bundle, public)
    except SignatureError:
        return "refused"
    return "WRONG: a changed bundle was accepted"


KINDS = (compare_case, inspect_case, signature_case)


def run_case(case: int, seed: int) -> str:
    """What became of a case, or what went wrong."""
    rng = random.Random(seed * 1_000_003 + case)
    with tempfile.TemporaryDirectory(prefix="edgeae-fuzz-") as parent:
        TOOK.clear()
        outcome = KINDS[case % len(KINDS)](Path(parent), rng)
    return f"SLOW {sum(TOOK):.1f} s of CPU" if sum(TOOK) > HANG_SECONDS else outcome


def worker(first: int, cases: int, seed: int, results: multiprocessing.Queue) -> None:
    """Run cases, each named before it runs, so that a crash has a name."""
    for module in (
        "edgeae.command.tables",
        "model_signing.signing",
        "model_signing.verifying",
    ):  # which take memory to import
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    for case in range(first, cases):
        results.put(("begin", case, ""))
        try:
            outcome = run_case(case, seed)
        except BaseException as error:
            outcome = f"UNTYPED {type(error).__name__}: {str(error)[:300]}"
        results.put(("end", case, outcome))
    results.put(("done", cases, ""))


def fuzz(cases: int, seed: int) -> dict[str, int]:
    """Run the cases in one worker at a time; returns how many had each outcome."""
    outcomes: dict[str, int] = {}

    def count(case: int, outcome: str) -> None:
        word = outcome if outcome in ("ran", "refused", "not installed") else outcome.split()[0]
        outcomes[word] = outcomes.get(word, 0) + 1
        if word.isupper():
            print(f"case {case} (seed {seed}): {outcome}", flush=True)

    watch(worker, (seed,), cases, PATIENCE, count)
    return outcomes


def main() -> None:
    """Fuzz, and fail if anything but a refusal or a right end was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes = fuzz(options.cases, options.seed)
    print(json.dumps(outcomes, indent=2))
    sys.exit(any(outcome.isupper() for outcome in outcomes))


if __name__ == "__main__":
    main()
