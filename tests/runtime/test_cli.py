"""`edgeae-runtime`: exit statuses, messages, files."""

import json

import numpy as np
import pytest
from edgeae_runtime.command import actions as commands
from edgeae_runtime.command.cli import main
from edgeae_runtime.command.doctor import Finding


@pytest.fixture
def run(call):
    """`edgeae-runtime` in this process."""
    return lambda *arguments: call(main, *arguments)


def test_as_a_process(run_program, bundle, replace_file, int8_bundle, refused):
    done = run_program("edgeae_runtime", "verify", bundle)
    assert (done.returncode, done.stdout.count("✓")) == (0, 3), done.stderr
    broken = replace_file("decoder.onnx", (int8_bundle / "decoder.onnx").read_bytes())
    refused(run_program("edgeae_runtime", "verify", broken), "Parity failed", status=1)
    refused(run_program("edgeae_runtime", "bench", "absent"), "no bundle at")


def test_verify_accepts_a_sound_bundle(bundle, int8_bundle, tmp_path, run):
    for path in (bundle, int8_bundle):
        done = run("verify", path, "--json", tmp_path / "verify.json")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("✓") == 3
        assert "Next: edgeae-runtime bench" in done.stdout
        report = json.loads((tmp_path / "verify.json").read_text())
        assert report["schema"] == "edgeae-verify"
        assert report["passed"] is True


def test_verify_fails_with_1_on_a_failed_check(replace_file, int8_bundle, run, refused):
    done = run("verify", replace_file("decoder.onnx", (int8_bundle / "decoder.onnx").read_bytes()))
    assert done.stdout.count("✗") == 2
    refused(done, "Parity failed", status=1)


def test_one_changed_byte(broken, images, tmp_path, run, refused):
    raw = bytearray((broken / "encoder.onnx").read_bytes())
    raw[100] ^= 1
    (broken / "encoder.onnx").write_bytes(raw)
    refused(run("verify", broken), "not the file that was exported", status=1)  # the check itself failed
    np.save(tmp_path / "images.npy", images)
    done = run("encode", tmp_path / "images.npy", "--bundle", broken, "--out", tmp_path / "z.npy")
    refused(done, "not the file that was exported")  # bad input
    assert not (tmp_path / "z.npy").exists()


def test_bad_bundles(tmp_path, run, refused):
    refused(run("verify", tmp_path / "absent"), "no bundle at", "edgeae export")
    refused(run("verify", tmp_path), "holds no manifest.json")
    (tmp_path / "file").write_text("x")
    refused(run("bench", tmp_path / "file"), "is a file, expected a bundle")


def test_unknown_provider_and_command(bundle, run, refused):
    refused(run("verify", bundle, "--provider", "tpu"), "'tpu'", "cpu, cuda, directml")
    refused(run("verify", bundle, "--provider", "cuda"), "edgeae-runtime[cuda]")
    refused(run("no-such-command"))


def test_files_in_files_out(bundle, images, tmp_path, run):
    np.save(tmp_path / "images.npy", images)
    options = ("--bundle", bundle, "--out")
    assert run("encode", tmp_path / "images.npy", *options, tmp_path / "z.npz").returncode == 0
    assert run("decode", tmp_path / "z.npz", *options, tmp_path / "decoded.npy").returncode == 0
    assert run("reconstruct", tmp_path / "images.npy", *options, tmp_path / "again.npy").returncode == 0
    decoded = np.load(tmp_path / "decoded.npy")
    assert decoded.shape == (5, 1, 16, 16)
    np.testing.assert_allclose(np.load(tmp_path / "again.npy"), decoded, atol=1e-6)
    assert run("sample", 4, "--seed", 3, *options, tmp_path / "a.npy").returncode == 0
    assert run("sample", 4, "--seed", 3, *options, tmp_path / "b.npy").returncode == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    np.save(tmp_path / "one.npy", images[0])
    np.save(tmp_path / "two.npy", images[1:2])
    line = run("interpolate", tmp_path / "one.npy", tmp_path / "two.npy", "--steps", 5, *options, tmp_path / "i.npy")
    assert line.returncode == 0, line.stderr
    assert np.load(tmp_path / "i.npy").shape == (5, 1, 16, 16)


def test_pictures_in_and_out(bundle, images, tmp_path, run):
    image_module = pytest.importorskip("PIL.Image", reason="pictures are the runtime's extra `images`")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, image in enumerate(images):
        image_module.fromarray(image[0]).save(folder / f"{index}.png")
    options = ("--bundle", bundle, "--out")
    done = run("encode", folder, *options, tmp_path / "z.npy")
    assert done.returncode == 0, done.stderr
    np.save(tmp_path / "images.npy", images)
    run("encode", tmp_path / "images.npy", *options, tmp_path / "same.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), np.load(tmp_path / "same.npy"))
    assert run("sample", 9, "--seed", 0, *options, tmp_path / "sheet.png").returncode == 0
    assert image_module.open(tmp_path / "sheet.png").size == (3 * 16 + 4, 3 * 16 + 4)
    # A picture of the size before padding is padded as in training.
    image_module.fromarray(images[0, 0, 1:-1, 1:-1]).save(tmp_path / "small.png")
    assert run("encode", tmp_path / "small.png", *options, tmp_path / "small.npy").returncode == 0
    padded = np.pad(images[:1, :, 1:-1, 1:-1], ((0, 0), (0, 0), (1, 1), (1, 1)))
    np.save(tmp_path / "padded.npy", padded)
    run("encode", tmp_path / "padded.npy", *options, tmp_path / "padded-z.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "small.npy"), np.load(tmp_path / "padded-z.npy"))


def test_bad_inputs(bundle, tmp_path, run, refused):
    options = ("--bundle", bundle, "--out")
    out = tmp_path / "out.npy"
    np.save(tmp_path / "wrong-size.npy", np.zeros((1, 1, 28, 28), np.float32))
    refused(run("encode", tmp_path / "wrong-size.npy", *options, out), "[1, 1, 28, 28]", "[n, 1, 16, 16]")
    np.save(tmp_path / "nan.npy", np.full((1, 1, 16, 16), np.nan, np.float32))
    refused(run("reconstruct", tmp_path / "nan.npy", *options, out), "nan")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(run("encode", empty, *options, out), "no pictures", ".png")
    refused(run("encode", tmp_path / "absent.npy", *options, out), "no file")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY nothing")
    refused(run("decode", tmp_path / "broken.npy", *options, out), "not a readable")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    refused(run("decode", tmp_path / "objects.npy", *options, out), "not a readable")
    refused(run("sample", 0, *options, out), "whole number from 1")
    refused(run("sample", 2, *options, tmp_path / "out.gif"), ".npy or .npz or .png")
    refused(run("bench", bundle, "--batch", "0"), "whole numbers from 1")
    refused(run("bench", bundle, "--batch", "many"), "whole numbers such as")
    assert not out.exists()


def test_a_full_disk_leaves_nothing_half_written(bundle, tmp_path, run_program, refused):
    out = tmp_path / "out.npy"
    out.write_bytes(b"precious")
    done = run_program("edgeae_runtime", "sample", 64, "--bundle", bundle, "--out", out, limit_bytes=4096)
    refused(done, "cannot be used", "Nothing half-written")
    assert out.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [out]


def test_an_unwritable_folder(bundle, tmp_path, run, refused):
    (tmp_path / "file").write_text("x")
    refused(run("sample", 2, "--bundle", bundle, "--out", tmp_path / "file" / "out.npy"), "cannot be used")


def test_bench_writes_its_json(bundle, tmp_path, run):
    done = run("bench", bundle, "--part", "decoder", "--batch", "1,2", "--json", tmp_path / "bench.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["schema"] == "edgeae-bench"
    assert [(row["part"], row["batch"]) for row in report["rows"][::2]] == [("decoder", 1), ("decoder", 2)]
    assert [row["variant"] for row in report["rows"]] == ["bundle", "the same again"] * 2
    assert set(report["pair_noise"]) == {"decoder, batch 1, 1 thread", "decoder, batch 2, 1 thread"}
    for row in report["rows"]:
        assert 0 < row["median_us"] <= row["p99_us"]
        assert 7 <= len(row["round_medians_us"]) <= 21
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["median_us"] * 1e6, rel=0.01)
    assert {start["part"] for start in report["cold_start"]} == {"encoder", "decoder"}
    assert report["machine"]["onnxruntime"]
    assert report["idle_cpu"] < 0.5


def test_bench_compares_with_an_earlier_one_and_soaks(bundle, tmp_path, capsys):
    case = ["bench", str(bundle), "--part", "decoder", "--batch", "1"]
    assert main([*case, "--json", str(tmp_path / "old.json")]) == 0
    assert main([*case, "--soak", "0.5", "--compare", str(tmp_path / "old.json")]) == 0
    told = capsys.readouterr().out
    assert "Since the earlier benchmark:\nbundle: decoder, batch 1, 1 thread" in told
    assert "decoder, batch 1, 1 thread for 0.5 s" in told
    assert "idle: " in told
    assert main([*case, "--compare", str(tmp_path / "none.json")]) == 2
    assert "… " not in capsys.readouterr().out, "refused before a long measurement, not after it"
    assert main([*case, "--soak", "-1"]) == 2


def test_doctor_finds_this_machine_well(capsys):
    status, told = main(["doctor"]), capsys.readouterr().out
    assert status == 0 or "int8 may be wrong with AMX" in told  # an old ONNX Runtime on a new processor
    assert "✓ onnxruntime" in told


def test_doctor_fails_with_a_remedy(capsys, monkeypatch):
    monkeypatch.setattr(commands, "examine", lambda: [Finding("numpy", "1.0", "pip install --upgrade numpy")])
    assert main(["doctor"]) == 1
    assert "pip install --upgrade numpy" in capsys.readouterr().out


@pytest.mark.slow
def test_tune_keeps_what_it_measured(broken, capsys):
    assert main(["tune", str(broken)]) == 0
    assert "from now on" in capsys.readouterr().out
    assert (broken / "tuning.json").exists()


def bench_file(path, median, spread, part="decoder"):
    rounds = [median - spread, median, median + spread]
    row = {"variant": "bundle", "part": part, "batch": 1, "threads": 1, "median_us": median, "round_medians_us": rounds}
    path.write_text(json.dumps({"schema": "edgeae-bench", "schema_version": 1, "rows": [row]}))
    return str(path)


def test_compare_tells_real_changes_from_noise(tmp_path, capsys):
    old = bench_file(tmp_path / "old.json", 100.0, 3.0)
    assert main(["compare", old, bench_file(tmp_path / "new.json", 50.0, 1.0)]) == 0
    assert "2.00x faster" in capsys.readouterr().out
    assert main(["compare", old, bench_file(tmp_path / "slow.json", 150.0, 1.0)]) == 0
    assert "1.50x slower" in capsys.readouterr().out
    assert main(["compare", old, bench_file(tmp_path / "same.json", 97.0, 3.0)]) == 0
    assert "no real change" in capsys.readouterr().out


def test_compare_refuses_what_is_no_benchmark(tmp_path, capsys):
    old = bench_file(tmp_path / "old.json", 100.0, 3.0)
    other = bench_file(tmp_path / "other.json", 100.0, 3.0, part="encoder")
    (tmp_path / "text").write_text("no JSON")
    for new, words in (
        (tmp_path / "text", "is not a benchmark's"),
        (tmp_path / "no", "There is no file"),
        (other, "alike"),
    ):
        assert main(["compare", old, str(new)]) == 2
        assert words in capsys.readouterr().err
