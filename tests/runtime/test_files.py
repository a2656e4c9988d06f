"""Writing through what is no plain file, over what is one, and beside what a killed writer left."""

import errno
import io
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from edgeae_runtime.files.writing import remove_leftovers, temporary_folder, write_atomically
from edgeae_runtime.pictures.images import write_output

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
CONTENT = b"0123456789" * 100


def put(file):
    file.write(CONTENT)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@posix
def test_a_link_is_followed_and_stays_also_through_several(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real.json").write_bytes(b"old")
    (tmp_path / "middle").symlink_to("far/real.json")
    (tmp_path / "link").symlink_to(tmp_path / "middle")
    write_atomically(tmp_path / "link", put)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "middle").is_symlink()
    assert (tmp_path / "far" / "real.json").read_bytes() == CONTENT
    assert names(tmp_path / "far") == ["real.json"]


@posix
def test_a_link_to_nothing_makes_what_it_names_and_a_circle_is_an_error(tmp_path):
    (tmp_path / "link").symlink_to("later/real.json")
    write_atomically(tmp_path / "link", put)
    assert (tmp_path / "later" / "real.json").read_bytes() == CONTENT
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write_atomically(tmp_path / "a", put)


@posix
@pytest.mark.parametrize("through_link", [False, True])
def test_a_fifo_is_written_to(tmp_path, through_link):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    path = tmp_path / "link" if through_link else fifo
    if through_link:
        path.symlink_to(fifo)
    read = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    write_output_npy = np.arange(500, dtype=np.float32)[:, None]
    write_atomically(path, lambda file: np.save(file, write_output_npy))
    reader.join()
    assert np.array_equal(np.load(io.BytesIO(read[0])), write_output_npy)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@posix
def test_a_device_is_written_to(tmp_path):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.open("wb").close()
    except OSError:
        pytest.skip("no devices may be made here")
    write_atomically(device, put)
    assert stat.S_ISCHR(device.stat().st_mode)
    with pytest.raises(OSError, match="No space left") as error:
        write_atomically("/dev/full", put)
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == "/dev/full"
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


WRITER = """
import sys
from edgeae_runtime.files.writing import write_atomically
print("before")
write_atomically(sys.argv[1], lambda file: file.write(b"bytes"))
print("after")
"""


@posix
@pytest.mark.parametrize("path", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_standard_output_takes_the_bytes_in_order(tmp_path, path, kind):
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc")
    if path == "link":
        path = str(tmp_path / "link")
        Path(path).symlink_to("/dev/stdout")
    command = [sys.executable, "-c", WRITER, path]
    if kind == "pipe":
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    else:
        with (tmp_path / "out").open("wb") as file:
            subprocess.run(command, check=True, stdout=file)
        output = (tmp_path / "out").read_bytes()
    assert output == b"before\nbytesafter\n"


@posix
def test_a_reader_that_has_gone_is_a_broken_pipe():
    code = (
        "import os, sys\n"
        "from edgeae_runtime.files.writing import write_atomically\n"
        "r, w = os.pipe(); os.dup2(w, 1); os.close(r); os.close(w)\n"
        "try: write_atomically('-', lambda file: file.write(b'x'))\n"
        "except BrokenPipeError: os._exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7


@posix
def test_modes_are_kept_and_a_new_file_has_that_of_the_umask(tmp_path):
    file = tmp_path / "private"
    for mode in (0o600, 0o640, 0o755):
        file.write_bytes(b"old")
        file.chmod(mode)
        write_atomically(file, put)
        assert stat.S_IMODE(file.stat().st_mode) == mode
    previous = os.umask(0o027)
    try:
        write_atomically(tmp_path / "new", put)
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_is_kept(tmp_path):
    file = tmp_path / "theirs"
    file.write_bytes(b"old")
    os.chown(file, 1234, 2345)
    file.chmod(0o640)
    write_atomically(file, put)
    status = file.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 2345, 0o640)


def test_the_longest_names_and_missing_folders(tmp_path):
    path = tmp_path / "a" / "b" / ("x" * 251 + ".npy")
    write_output(path, np.zeros((1, 2), np.float32), images=False)
    write_output(path, np.ones((1, 2), np.float32), images=False)
    assert np.load(path).sum() == 2
    assert names(path.parent) == [path.name]


def test_a_folder_is_refused_and_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", put)
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_alone_and_names_the_place(tmp_path, failure):
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def fail(handle):
        handle.write(b"half")
        raise failure

    with pytest.raises(type(failure)) as error:
        write_atomically(file, fail)
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]
    assert isinstance(failure, KeyboardInterrupt) or error.value.filename == str(file)


@posix
def test_numpy_says_why_the_disk_did_not_take_an_array(tmp_path):
    """Past a plain file's buffer numpy writes by itself, and tells only how many items it wrote."""
    code = (
        "import resource, sys, numpy as np\n"
        "from edgeae_runtime.pictures.images import write_output\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: write_output(sys.argv[1], np.zeros((100, 10_000), np.float32), images=False)\n"
        "except OSError as error: print(error.errno, error.filename)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.npy"], stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == [str(errno.EFBIG), str(tmp_path / "x.npy")]
    assert names(tmp_path) == []


SLEEPER = """
import sys, time
from pathlib import Path
from edgeae_runtime.files.writing import temporary_folder, write_atomically
def wait(file):
    print("writing", flush=True)
    time.sleep(60)
if sys.argv[2] == "file":
    write_atomically(sys.argv[1] + "/file", wait)
else:
    with temporary_folder(Path(sys.argv[1])) as folder:
        (folder / "half").write_bytes(b"x")
        wait(None)
"""


@posix
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path, kind):
    writers = []
    for _ in range(2):
        command = [sys.executable, "-c", SLEEPER, str(tmp_path), kind]
        writers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert writers[-1].stdout.readline() == "writing\n"
    (tmp_path / ".edgeae-mine.txt").write_bytes(b"no temporary file")
    living, dying = writers
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    assert len(names(tmp_path)) == 3
    write_atomically(tmp_path / "other", put)
    assert len(names(tmp_path)) == 3  # the living one's, mine, and other
    assert sum(name.endswith(".partial") for name in names(tmp_path)) == 1
    living.kill()
    living.wait()
    with temporary_folder(tmp_path):
        pass
    assert names(tmp_path) == [".edgeae-mine.txt", "other"]


@posix
def test_many_writers_and_sweepers_lose_nothing(tmp_path):
    """A sweeper may come between a temporary file's creation and its lock."""
    failures, until = [], time.monotonic() + 1.5

    def work(index):
        try:
            while time.monotonic() < until:
                write_atomically(tmp_path / str(index), put)
                assert (tmp_path / str(index)).read_bytes() == CONTENT
                remove_leftovers(tmp_path)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert names(tmp_path) == ["0", "1", "2", "3"]


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root mounts")
def test_a_file_that_is_mounted_by_itself_is_written(tmp_path):
    file, source = tmp_path / "file", tmp_path / "source"
    for each in (file, source):
        each.write_bytes(b"old")
    if subprocess.run(["mount", "--bind", source, file], capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        write_atomically(file, put)
    finally:
        subprocess.run(["umount", file], check=True)
    assert source.read_bytes() == CONTENT
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["file", "source"]


@posix
def test_tune_does_not_follow_a_link_that_came_with_the_bundle(broken, tmp_path, monkeypatch):
    """`--json` follows the user's own links; a bundle's `tuning.json` is a stranger's."""
    from edgeae_runtime.measure import tune as tuning
    from edgeae_runtime.measure.timing import Latency

    (tmp_path / "precious").write_bytes(b"mine")
    (broken / "tuning.json").symlink_to(tmp_path / "precious")

    quick = Latency(np.ones(7), np.ones(7))
    monkeypatch.setattr(tuning, "interleave", lambda calls: dict.fromkeys(calls, quick))
    tuning.tune(broken)
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert not (broken / "tuning.json").is_symlink()
