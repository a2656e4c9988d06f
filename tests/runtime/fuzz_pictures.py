"""Mutate pictures and arrays at random: read, or refused by a typed error; never a crash, a hang or a full memory.

    python tests/runtime/fuzz_pictures.py [--cases 10000] [--seed 0]

Pictures of every format that pillow writes, under the names of those that are read, and .npy and .npz files; their
bytes are flipped, cut, repeated and replaced by numbers at the edge, mostly near the start, where the headers are.
Cases run in a worker process, so that a crash is seen and attributed; time and memory are taken of each.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import random
import resource
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from edgeae_runtime import EdgeAEError
from edgeae_runtime.files.array_files import read_array
from edgeae_runtime.files.axes import fits_any
from edgeae_runtime.pictures.loading import PICTURE_SUFFIXES, load_picture, survey
from PIL import Image

HANG_SECONDS = 2.0
"""Longest time of a case, on the processor: the machine may be busy."""
KILL_SECONDS = 60.0
MEMORY_BYTES = 512 << 20
"""Most that a case may add to what the worker took before its first."""
BATCH = 500
EDGES = (0, 1, 0x7F, 0x80, 0xFF)
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
"""Those that are meant: another one that is read is a fault, whatever the file is called."""
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F")
FITS = (None, "crop", "pad", "stretch")


def seeds() -> dict[str, bytes]:
    """Small pictures of every format and mode that pillow writes, and arrays."""
    Image.init()
    base = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    found: dict[str, bytes] = {}
    for name in sorted(Image.SAVE):
        for mode in MODES:
            for options in ({}, {"exif": exif}) if name in ("PNG", "JPEG", "WEBP", "TIFF") else ({},):
                raw = io.BytesIO()
                try:
                    picture = base.convert("I") if mode == "I;16" else base
                    picture.convert(mode).save(raw, name, **options)
                except Exception:  # most formats have few modes, and some need a program
                    continue
                found[f"{name}-{mode}{'-exif' if options else ''}"] = raw.getvalue()
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"):
        raw = io.BytesIO()
        try:
            base.save(raw, "TIFF", compression=compression)
        except Exception:  # not in every libtiff
            continue
        found[f"TIFF-{compression}"] = raw.getvalue()
    for name in ("TIFF", "PNG", "WEBP"):
        raw = io.BytesIO()
        base.save(raw, name, save_all=True, append_images=[base.rotate(90)])
        found[f"{name}-pages"] = raw.getvalue()
    for name, save in (("npy", np.save), ("npz", np.savez), ("npz-packed", np.savez_compressed)):
        for kind in ("u1", "f4", "U3"):
            raw = io.BytesIO()
            save(raw, np.zeros((4, 1, 8, 8), kind))
            found[f"{name}-{kind}"] = raw.getvalue()
    return found


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """Flip, replace, cut, repeat; numbers of two, four and eight bytes at the edge."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 3, 6, 20))):
        if not data:
            break
        place = rng.randrange(min(len(data), 400)) if rng.random() < 0.7 else rng.randrange(len(data))
        kind = rng.randrange(7)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place] = rng.choice(EDGES)
        elif kind == 2:
            data[place] = rng.randrange(256)
        elif kind == 3:
            size = rng.choice((2, 4, 8))
            number = rng.choice(
                (0, 1, (1 << (8 * size - 1)) - 1, (1 << (8 * size)) - 1, rng.randrange(1 << 20) % 65536)
            )
            data[place : place + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 4 and rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        elif kind == 5:
            end = place + rng.randrange(64)
            data[place:place] = data[place:end]
        elif kind == 6:
            digits = [index for index in range(min(len(data), 400)) if 48 <= data[index] <= 57]
            if digits:  # of a header in text, as .npy has
                place = rng.choice(digits)
                data[place : place + 1] = str(rng.choice((0, -1, 9, 10**9, 10**30))).encode()
    if raw[:4] == b"\x89PNG" and rng.random() < 0.7:
        data = checksummed(data)
    return bytes(data)


def checksummed(data: bytearray) -> bytearray:
    """A PNG with the checksums of its chunks made right: else nothing behind them would be tried."""
    import zlib

    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if place + 12 + length > len(data):
            break
        struct.pack_into(">I", data, place + 8 + length, zlib.crc32(data[place + 4 : place + 8 + length]))
        place += 12 + length
    return data


def case(name: str, raw: bytes, folder: Path, rng: random.Random) -> None:
    """Read one file in the way that its kind is read.

    Raises:
        EdgeAEError: it was refused.
    """
    if name.startswith("np"):
        path = folder / f"x{rng.choice(('.npy', '.npz'))}"
        path.write_bytes(raw)
        np.asarray(read_array(path, fits_any())).sum()
        return
    path = folder / f"x{rng.choice(PICTURE_SUFFIXES)}"
    path.write_bytes(raw)
    survey([path])
    image = load_picture(path, (rng.choice((1, 3)), 16, 16), rng.choice(FITS))
    if name.split("-")[0] not in (*FORMATS, "MPO"):  # MPO is a JPEG with others behind it
        raise AssertionError("another format was read")
    if image.dtype != np.uint8 or image.ndim != 3:
        raise AssertionError(f"read as {image.dtype} {image.shape}")


def work(pipe: Connection, seed: int, first: int, last: int, folder: str) -> None:
    """Run some cases; tell the number of each before it and its end after it."""
    warnings.simplefilter("ignore")
    files = sorted(seeds().items())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    for number in range(first, last):
        rng = random.Random(f"{seed}-{number}")
        name, raw = rng.choice(files)
        raw = mutate(raw, rng)
        pipe.send((number, name))
        start = time.process_time()
        try:
            case(name, raw, Path(folder), rng)
            end = "read"
        except EdgeAEError as error:
            end = "refused" if "\n" not in str(error) else "untyped: a message of several lines"
        except BaseException as error:  # what the fuzzer looks for
            end = f"untyped: {type(error).__name__}: {str(error)[:80]}"
        seconds = time.process_time() - start
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
        if memory > MEMORY_BYTES:
            end = f"memory: {memory >> 20} MiB"
            pipe.send((end, seconds, memory))
            break  # a peak never goes down: another worker goes on
        pipe.send(("hang" if seconds > HANG_SECONDS else end, seconds, memory))
    pipe.close()


def fuzz(cases: int, seed: int) -> tuple[Counter[str], list[str], float, int]:
    """Counts by how cases ended, what is a fault, the slowest case's seconds and the largest peak in bytes."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    slowest, largest, number = 0.0, 0, 0
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        while number < cases:
            here, there = context.Pipe(duplex=False)
            last = min(number + BATCH, cases)
            worker = context.Process(target=work, args=(there, seed, number, last, folder))
            worker.start()
            there.close()
            while number < last:
                name = "its start"
                try:
                    if here.poll(KILL_SECONDS):
                        _, name = here.recv()
                        end, seconds, memory = here.recv() if here.poll(KILL_SECONDS) else ("hang", KILL_SECONDS, 0)
                    else:
                        end, seconds, memory = "hang", KILL_SECONDS, 0
                except EOFError:
                    worker.join()
                    end, seconds, memory = f"crash: status {worker.exitcode}", 0.0, 0
                kind = end.split(":")[0]
                counts[kind] += 1
                slowest, largest = max(slowest, seconds), max(largest, memory)
                number += 1
                if kind not in ("read", "refused"):
                    faults.append(f"seed {seed} case {number - 1}, {name}: {end}")
                    if kind != "untyped":
                        break
            worker.kill()
            worker.join()
    return counts, faults, slowest, largest


def main() -> int:
    """Fuzz, and tell what was found; the status is 1 where something was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts, faults, slowest, largest = fuzz(options.cases, options.seed)
    print(f"{options.cases} cases: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    print(f"slowest {slowest:.2f} s, largest peak over the start's {largest / 2**20:.0f} MiB")
    for fault in faults:
        print(fault)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
