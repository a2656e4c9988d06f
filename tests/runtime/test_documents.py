"""Benchmark documents from anywhere: bounded, from a regular file, checked value by value."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from edgeae_runtime import InputError
from edgeae_runtime.command.cli import main
from edgeae_runtime.files.documents import finite, write_json
from edgeae_runtime.files.regular import read_regular
from edgeae_runtime.measure.comparison import compare_files, read_report

ROW = {
    "variant": "bundle", "part": "decoder", "batch": 1, "threads": 1,
    "median_us": 100.0, "round_medians_us": [97.0, 100.0, 103.0],
}  # fmt: skip


def document(**changes):
    return {"schema": "edgeae-bench", "schema_version": 2, "rows": [ROW | changes]}


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


BAD = {
    "nested": "[" * 60_000,
    "nested object": '{"a":' * 60_000,
    "nested rows": '{"schema": "edgeae-bench", "rows": [' + "[" * 60_000,
    "nothing": "",
    "null": None,
    "a list": [],
    "another schema": {"schema": "edgeae-verify", "rows": []},
    "a schema that cannot be a key": {"schema": [], "rows": []},
    "no rows": {"schema": "edgeae-bench"},
    "rows as text": {"schema": "edgeae-bench", "rows": "abc"},
    "a row as text": {"schema": "edgeae-bench", "rows": ["abc"]},
    "pair_noise as a list": document() | {"pair_noise": [1]},
    "pair_noise as text": document() | {"pair_noise": {"decoder, batch 1, 1 thread": "x"}},
    "pair_noise below nothing": document() | {"pair_noise": {"decoder, batch 1, 1 thread": -1}},
    "a median as text": document(median_us="100"),
    "a median that is true": document(median_us=True),
    "a median of nothing": document(median_us=0),
    "a median below nothing": document(median_us=-1),
    "Infinity": '{"schema": "edgeae-bench", "rows": [' + json.dumps(ROW | {"median_us": float("inf")}) + "]}",
    "NaN": '{"schema": "edgeae-bench", "rows": [' + json.dumps(ROW | {"median_us": float("nan")}) + "]}",
    "1e999": json.dumps(document()).replace("100.0", "1e999"),
    "10^400": json.dumps(document()).replace("100.0", "1" + "0" * 400),
    "10^5000": json.dumps(document()).replace("100.0", "1" + "0" * 5000),
    "1e-320": json.dumps(document()).replace("100.0", "1e-320"),
    "ragged": document(round_medians_us=[1.0, [2.0]]),
    "medians as text": document(round_medians_us="123"),
    "no medians": document(round_medians_us=[]),
    "medians below nothing": document(round_medians_us=[-1.0, 1.0]),
    "too many medians": document(round_medians_us=[1.0] * 2_000),
    "true medians": document(round_medians_us=[True]),
    "a batch as text": document(batch="1"),
    "a batch that is true": document(batch=True),
    "a huge batch": document(batch=10**400),
    "a part that is a list": document(part=[]),
    "a variant that is an object": document(variant={}),
    "too many rows": {"schema": "edgeae-bench", "rows": [ROW] * 10_001},
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_what_is_no_benchmark_is_one_paragraph(value, tmp_path, capsys):
    good, bad = write(tmp_path / "good", document()), write(tmp_path / "bad", value)
    for order in ((good, bad), (bad, good)):
        assert main(["compare", *map(str, order)]) == 2
        told = capsys.readouterr()
        assert told.err.startswith("error: ")
        assert "is not a benchmark's" in told.err
        assert told.err.count("\n") == 1
        assert len(told.err) < 1600
        assert told.out == ""


def test_extremes_that_are_numbers_are_compared(tmp_path, capsys):
    tiny, huge = (write(tmp_path / name, document(median_us=value, round_medians_us=[value])) for name, value in (
        ("tiny", 1e-6), ("huge", 1e15),
    ))  # fmt: skip
    assert main(["compare", str(tiny), str(huge)]) == 0
    assert "x slower" in capsys.readouterr().out
    assert main(["compare", str(huge), str(tiny)]) == 0
    assert "x faster" in capsys.readouterr().out


def test_a_strangers_names_are_escaped_and_cut(tmp_path, capsys):
    hostile = document(variant="\x1b[2J\u202e\ud800" + "v" * 100_000, part="\x07" * 100_000)
    path = str(write(tmp_path / "hostile", json.dumps(hostile)))
    assert main(["compare", path, path]) == 0
    told = capsys.readouterr().out
    assert len(told) < 400
    assert told.strip().isprintable()
    assert main(["compare", path, str(write(tmp_path / "good", document()))]) == 2
    assert len(capsys.readouterr().err) < 800


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs are POSIX's")
def test_only_regular_files_are_read(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    good = write(tmp_path / "good", document())
    (tmp_path / "link").symlink_to(good)
    assert read_report(tmp_path / "link")["rows"]
    outcome = []

    def read(path):
        with pytest.raises(InputError) as caught:
            read_report(path)
        outcome.append(str(caught.value))

    for path in (fifo, "/dev/zero", "/dev/full", tmp_path, tmp_path / "none", "a\0b"):
        reader = threading.Thread(target=read, args=(path,), daemon=True)
        reader.start()
        reader.join(30)
        assert not reader.is_alive(), path
    assert len(outcome) == 6
    with pytest.raises(InputError, match="larger than 10 bytes"):
        read_regular(good, 10, "a small file")


def test_a_byte_order_mark_is_no_damage(tmp_path):
    path = tmp_path / "windows.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(document()).encode())
    assert compare_files(path, path)[0]["real"] is False


def test_what_is_not_a_number_is_written_as_null(tmp_path):
    nan = float("nan")
    write_json(tmp_path / "x.json", {"rows": [{"peak_memory_mib": nan, "times": (1.0, -nan, float("inf"))}]})
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "rows": [{"peak_memory_mib": None, "times": [1.0, None, None]}]
    }
    assert finite({"a": True, "b": 3, "c": "NaN"}) == {"a": True, "b": 3, "c": "NaN"}


def test_mutated_documents_are_one_paragraph():
    script = Path(__file__).parent / "fuzz_documents.py"
    command = [sys.executable, str(script), "--cases", "450", "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
