"""A bundle takes another's place, and neither is ever lost: interrupts, kills, mount points, links, other's folders."""

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from edgeae_export.bundle import swap
from edgeae_export.bundle.writer import check_target
from edgeae_runtime import verify
from edgeae_runtime.errors import InputError
from edgeae_runtime.files.writing import temporary_folder

EXAMPLE = Path(__file__).parents[2] / "examples" / "bundle"
OURS = ["README.md", "decoder.onnx", "encoder.onnx", "golden.npz", "manifest.json"]
root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root mounts")
linux = pytest.mark.skipif(sys.platform != "linux", reason="exchanges names on Linux")


def files(store=None):
    """A bundle's files; `store` writes the golden vectors anew, which makes another bundle that verifies."""
    raw = {path.name: path.read_bytes() for path in EXAMPLE.iterdir() if path.name in OURS}
    if store is not None:
        document, buffer = json.loads(raw["manifest.json"]), io.BytesIO()
        store(buffer, **np.load(EXAMPLE / "golden.npz"))
        golden = buffer.getvalue()
        document["golden"] |= {"sha256": hashlib.sha256(golden).hexdigest(), "bytes": len(golden)}
        raw |= {"golden.npz": golden, "manifest.json": json.dumps(document).encode(), "README.md": b"new"}
    return raw


OLD, NEW = files(), files(np.savez)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def state(folder):
    """Which bundle a folder holds, whole and with nothing else."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return "old" if found == OLD else "new" if found == NEW else sorted(found)


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "here" / "bundle"
    folder.mkdir(parents=True)
    for name, raw in OLD.items():
        (folder / name).write_bytes(raw)
    return folder


def no_exchange(monkeypatch):
    monkeypatch.setattr(swap, "_exchange", lambda one, other: False)


@pytest.mark.parametrize("exchange", [True, False])
def test_the_new_bundle_is_there_and_nothing_else(target, monkeypatch, exchange):
    if not exchange:
        no_exchange(monkeypatch)
    (target / "tuning.json").write_text("{}")
    (target / "model.sig").write_text("of the old bundle")
    target.chmod(0o750)
    check_target(target, overwrite=True)
    swap.replace_folder(target, NEW)
    assert state(target) == "new"
    assert names(target.parent) == ["bundle"]
    assert target.stat().st_mode & 0o777 == 0o750
    assert all(check.passed for check in verify(target))


@linux
def test_on_linux_no_moment_is_without_a_bundle(target, monkeypatch):
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("not in one step"))
    swap.replace_folder(target, NEW)
    assert state(target) == "new"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError(errno.EIO, "I/O error")])
@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("exchange", [True, False])
def test_an_exception_at_any_rename_leaves_one_of_them(target, monkeypatch, error, step, exchange):
    calls, rename = [], Path.rename
    real = swap._exchange

    def exchanged(one, other):
        if len(calls) == step:
            calls.append("failed")
            raise error
        calls.append("exchange")
        return real(one, other) if exchange else False

    def renamed(path, to):
        if len(calls) == step:
            calls.append("failed")
            raise error
        calls.append("rename")
        return rename(path, to)

    monkeypatch.setattr(swap, "_exchange", exchanged)
    monkeypatch.setattr(Path, "rename", renamed)
    try:
        swap.replace_folder(target, NEW)
    except BaseException as raised:
        assert raised is error  # noqa: PT017
        assert state(target) == "old"
    else:
        assert state(target) == "new"
        assert "failed" not in calls
    assert names(target.parent) == ["bundle"]


def killed_at(step, target, how, new=NEW):
    """In a child: replace the folder, and die by SIGKILL before so many further steps on the disk."""
    left = [step]

    def counted(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("rename", "replace", "unlink", "mkdir"):
        setattr(Path, name, counted(getattr(Path, name)))
    for name in ("link", "fsync", "rmdir", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    swap._exchange = lambda one, other: False
    if how == "inside":
        os.chdir(target)
    swap.replace_folder(target, new)


@linux
@pytest.mark.parametrize("how", ["beside", "inside"])
def test_a_kill_at_every_step_without_the_exchange_is_mended_by_the_next_export(target, how):
    """Also inside a folder that stays; until then no mix of the two verifies."""
    before, seen, status = {**OLD, "tuning.json": b"{}"}, set(), 1
    for step in range(200):
        shutil.rmtree(target)
        target.mkdir()
        for name, raw in before.items():
            (target / name).write_bytes(raw)
        child = os.fork()
        if child == 0:
            try:
                killed_at(step, target, how)
                os._exit(0)
            finally:
                os._exit(3)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        whole = target.exists() and swap.is_whole(target)
        if whole:
            found = {name: (target / name).read_bytes() for name in OURS if name != "README.md"}
            assert found in [{name: bundle[name] for name in found} for bundle in (OLD, NEW)]
        swap.put_back(target)
        found = {path.name: path.read_bytes() for path in target.iterdir()}
        assert found in (before, NEW), (step, sorted(found))
        seen.add((whole, found == NEW))
        assert names(target.parent) == ["bundle"]
        if status == 0:
            break
    assert status == 0
    assert step > 15
    assert seen >= {(True, False), (True, True), (False, True)}, seen


WITH_FORMS = Path(__file__).parents[1] / "runtime" / "bundles" / "variants"


def with_forms(change):
    """A bundle with variants; `change` takes a variant's content and gives another, under another name."""
    raw = {path.relative_to(WITH_FORMS).as_posix(): path.read_bytes() for path in WITH_FORMS.rglob("*.*")}
    if change:
        document = json.loads(raw["manifest.json"])
        kept, renamed = document["parts"]["decoder"]["variants"][:2]
        del document["parts"]["decoder"]["variants"][2:]
        raw = {n: c for n, c in raw.items() if "variants/decoder" not in n or n in (kept["file"], renamed["file"])}
        raw[kept["file"]] += b"\0\0"
        kept.update(bytes=len(raw[kept["file"]]), sha256=hashlib.sha256(raw[kept["file"]]).hexdigest())
        raw["variants/other.onnx"] = raw.pop(renamed["file"])
        renamed["file"] = "variants/other.onnx"
        raw["manifest.json"] = json.dumps(document).encode()
    return dict(sorted(raw.items(), key=lambda item: item[0] == "manifest.json"))


def fill(folder, content):
    for name, raw in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)


def content_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FORMS_OLD, FORMS_NEW = with_forms(False), with_forms(True)
WITHOUT = {name: raw for name, raw in FORMS_OLD.items() if "/" not in name}


@linux
@pytest.mark.slow
@pytest.mark.parametrize("how", ["beside", "inside"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(FORMS_OLD, FORMS_NEW), (FORMS_OLD, NEW), (OLD, FORMS_NEW), (WITHOUT, FORMS_NEW)],
    ids=["both with variants", "from variants", "to variants", "from a copy without its variants"],
)
def test_a_kill_at_every_step_leaves_one_of_two_bundles_with_variants(target, how, before, after):
    for step in range(200):
        shutil.rmtree(target)
        fill(target, before)
        child = os.fork()
        if child == 0:
            try:
                killed_at(step, target, how, after)
                os._exit(0)
            finally:
                os._exit(3)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        swap.put_back(target)
        assert content_of(target) in (before, after), step
        assert names(target.parent) == ["bundle"]
        if status == 0:
            break
    assert content_of(target) == after


def test_what_is_not_a_variant_among_variants_is_left_alone(target):
    shutil.rmtree(target)
    fill(target, FORMS_OLD)
    check_target(target, overwrite=True)
    (target / "variants" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"variants/notes\.txt"):
        check_target(target, overwrite=True)
    swap.replace_folder(target, FORMS_NEW)
    assert content_of(target) == FORMS_NEW


def fail_at(monkeypatch, step, error):
    """Let the call of `Path.replace` after `step` others raise."""
    calls, replace = [], Path.replace

    def replaced(path, to):
        calls.append(path)
        if len(calls) == step + 1:
            raise error
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", replaced)


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_variants_in_the_working_folder_come_back_after_any_exception(target, monkeypatch, error, step):
    shutil.rmtree(target)
    fill(target, FORMS_OLD)
    monkeypatch.chdir(target)
    fail_at(monkeypatch, step, error)
    with pytest.raises(type(error)):
        swap.replace_folder(Path(), FORMS_NEW)
    assert content_of(target) == FORMS_OLD


def test_the_only_whole_bundle_is_put_back_and_not_deleted(target):
    """As an export of today, and as one of before, left it when it was killed between two renames."""
    for nested in (False, True):
        hidden = target.parent / ".bundle.partial-abc"
        if nested:
            hidden.mkdir()
        target.rename(hidden / "bundle" if nested else hidden)
        os.utime(hidden, (0, 0))
        (target.parent / ".bundle.partial-half").mkdir()
        (target.parent / ".bundle.partial-half" / "manifest.json").write_bytes(OLD["manifest.json"])
        with pytest.raises(InputError, match="--overwrite"):
            check_target(target, overwrite=False)
        assert state(target) == "old"
        assert names(target.parent) == ["bundle"]


def test_what_another_export_is_writing_is_left_alone(target):
    with temporary_folder(target.parent, ".bundle.partial-", "") as folder:
        check_target(target, overwrite=True)
        assert folder.exists()


def test_the_working_folder_stays(target, monkeypatch):
    monkeypatch.chdir(target)
    inode = target.stat().st_ino
    check_target(".", overwrite=True)
    swap.replace_folder(Path(), NEW)
    assert state(Path()) == "new"
    assert target.stat().st_ino == inode
    assert names(target.parent) == ["bundle"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("step", range(6))
def test_the_working_folder_is_old_or_new_after_any_exception(target, monkeypatch, error, step):
    monkeypatch.chdir(target)
    (target / "tuning.json").write_text("{}")
    fail_at(monkeypatch, step, error)
    if step < 5:
        with pytest.raises(type(error)):
            swap.replace_folder(Path(), NEW)
        (target / "tuning.json").unlink()
    else:
        swap.replace_folder(Path(), NEW)
    assert state(target) == ("old" if step < 5 else "new")


def test_a_link_stays(target):
    link = target.parent.parent / "link"
    link.symlink_to("here/bundle")
    check_target(link, overwrite=True)
    swap.replace_folder(link, NEW)
    assert link.is_symlink()
    assert state(target) == "new"
    assert names(link.parent) == ["here", "link"]


@linux
@root
@pytest.mark.parametrize("bind", [True, False])
def test_a_mount_point_gets_the_files(target, tmp_path, bind):
    source = tmp_path / "source"
    shutil.copytree(target, source)
    kind = ["--bind", source] if bind else ["-t", "tmpfs", "none"]
    if subprocess.run(["mount", *kind, target], capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        check_target(target, overwrite=True)
        swap.replace_folder(target, NEW)
        assert state(target) == "new"
        assert names(target.parent) == ["bundle"]
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.fixture
def own_folder():
    """Outside pytest's own folder, which every start of pytest closes to others."""
    with tempfile.TemporaryDirectory(prefix="edgeae-test-") as folder:
        yield Path(folder)


AS_NOBODY = """
import os, sys
from pathlib import Path
from edgeae_export.bundle import writer as bundle
from edgeae_export.bundle import swap
sys.path.insert(0, {tests!r})
import test_swap
os.setgid(65534); os.setuid(65534)
bundle.check_target(sys.argv[1], overwrite=True)
swap.replace_folder(Path(sys.argv[1]), test_swap.NEW)
"""


@linux
@root
@pytest.mark.parametrize(("mode", "done"), [(0o777, True), (0o755, False)])
def test_a_parent_that_is_closed(target, own_folder, mode, done):
    target = target.parent.rename(own_folder / "here") / target.name
    for path in (target, *target.iterdir()):
        path.chmod(path.stat().st_mode | 0o777 if path != target else mode)
    for parent in target.parents:
        if parent.parent != parent and parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o055)
    command = [sys.executable, "-c", AS_NOBODY.format(tests=str(Path(__file__).parent)), str(target)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode == 0) is done, result.stderr
    assert state(target) == ("new" if done else "old")
    assert done or "cannot be written to" in result.stderr


def test_a_web_app_is_no_bundle(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "important.js").write_text("mine")
    (tmp_path / "manifest.json").write_text('{"name": "app", "icons": []}')
    with pytest.raises(InputError, match="is not a bundle"):
        check_target(tmp_path, overwrite=True)
    assert (tmp_path / "src" / "important.js").read_text() == "mine"


@pytest.mark.parametrize("stranger", ["notes.txt", "src/important.js", ".git/config", "encoder.onnx.bak", "a.npz"])
def test_a_bundle_with_something_else_in_it_is_left_alone(target, stranger):
    (target / stranger).parent.mkdir(exist_ok=True)
    (target / stranger).write_text("mine")
    with pytest.raises(InputError, match=stranger.partition("/")[0].replace(".", r"\.")):
        check_target(target, overwrite=True)
    assert (target / stranger).read_text() == "mine"


def test_what_lies_beside_a_bundle_is_known(target):
    for name in ("tuning.json", "model.sig", "other.sig", ".DS_Store"):
        (target / name).write_text("")
    (target / "variants").mkdir()
    check_target(target, overwrite=True)


def test_the_longest_name(tmp_path):
    target = tmp_path / ("b" * 255)
    for new in (OLD, NEW):
        check_target(target, overwrite=True)
        swap.replace_folder(target, new)
    assert state(target) == "new"
    assert names(tmp_path) == [target.name]
