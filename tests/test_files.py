"""Output files: complete or unchanged, with links, permissions and special files respected."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from qkv.errors import BadData
from qkv.files import check_output, convert_write_errors, expand_home, open_output
from qkv.task.output_files import write_text
from qkv.trace import Trace
from tiny import translation_example

ROOT = os.name == "posix" and os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="needs root")


def write(path: Path, content: bytes = b"new") -> None:
    with open_output(path) as file:
        file.write(content)


def small_trace() -> Trace:
    weights = {"cross.0": np.full((1, 1, 2), 0.5, dtype=np.float32)}
    return Trace((translation_example(("a", "b"), ("c",), weights),), "translation")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    def set_umask(mask: int) -> None:
        os.umask(mask)

    before = os.umask(0o022)
    yield set_umask
    os.umask(before)


@as_root
def test_a_device_is_written_into(tmp_path: Path) -> None:
    null = tmp_path / "null.png"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    write(null)
    write_text(null, "new")
    small_trace().save(null)
    check_output(null)
    assert stat.S_ISCHR(null.stat().st_mode)
    assert list(tmp_path.iterdir()) == [null]


@as_root
def test_a_full_device_is_an_error(tmp_path: Path) -> None:
    full = tmp_path / "full"
    os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    for save in (lambda: write_text(full, "new"), lambda: small_trace().save(full)):
        with pytest.raises(BadData, match="full: No space left on device"):
            save()
    assert stat.S_ISCHR(full.stat().st_mode)


@pytest.mark.parametrize("kind", ["text", "trace"])
def test_a_pipe_is_written_into(tmp_path: Path, kind: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_text(pipe, "new") if kind == "text" else small_trace().save(pipe)
    reader.join(10)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert received == [b"new"] if kind == "text" else received[0].startswith(b"PK")


def test_the_reader_of_a_pipe_may_go(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: pipe.open("rb").close(), daemon=True)
    reader.start()

    def write_late() -> None:
        with convert_write_errors(pipe), open_output(pipe) as file:
            reader.join(10)
            file.write(b"x")

    with pytest.raises(BrokenPipeError):
        write_late()


def test_a_socket_is_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        server.listen()
        write(Path("socket"))
        with server.accept()[0] as connection:
            assert connection.recv(9) == b"new"
    assert stat.S_ISSOCK(Path("socket").stat().st_mode)


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_followed(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "store").mkdir()
    target, link, second = tmp_path / "store/real", tmp_path / "link", tmp_path / "second"
    link.symlink_to("store/real")
    second.symlink_to("link")
    if exists:
        target.write_text("old")
    write(second)
    assert link.is_symlink()
    assert second.is_symlink()
    assert target.read_bytes() == b"new"


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(BadData, match="Too many levels"):
        write_text(tmp_path / "a", "new")


def test_other_names_of_a_file_see_the_new_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    os.link(tmp_path / "a", tmp_path / "b")
    write(tmp_path / "a")
    assert (tmp_path / "b").read_bytes() == b"new"
    assert (tmp_path / "b").stat().st_nlink == 2


def test_a_failure_leaves_every_name_of_a_file_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    os.link(tmp_path / "a", tmp_path / "b")

    def fail() -> None:
        with open_output(tmp_path / "a") as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "b").read_text() == "old"


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o644, 0o755, 0o777])
def test_permissions_are_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    write(path)
    assert (mode_of(path), path.read_bytes()) == (mode, b"new")


@as_root
def test_owner_and_group_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 1234, 100)
    path.chmod(0o660)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (1234, 100, 0o660)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_follows_the_umask(tmp_path: Path, umask, mask: int, mode: int) -> None:
    umask(mask)
    write(tmp_path / "file")
    write_text(tmp_path / "text", "new")
    small_trace().save(tmp_path / "t.npz")
    assert [mode_of(path) for path in sorted(tmp_path.iterdir())] == [mode] * 3


def test_extended_attributes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    try:
        os.setxattr(path, "user.note", b"kept")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    write(path)
    assert os.getxattr(path, "user.note") == b"kept"


def test_the_new_content_of_a_private_file_is_never_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o600)
    with open_output(path) as file:
        (draft,) = (entry for entry in tmp_path.iterdir() if entry != path)
        assert mode_of(draft) == 0o600
        file.write(b"new")


@as_root
@pytest.mark.parametrize("folder_mode", [0o755, 0o777])
def test_a_file_of_another_user_is_rewritten_in_place(
    folder_mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As any user may with `>`: in a folder that is not theirs, or a file whose owner they cannot set."""
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_text("old")
        path.chmod(0o666)
        os.chmod(folder, folder_mode)
        inode = path.stat().st_ino
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(1234)
            os.setuid(1234)
            os._exit(_status_of(lambda: write(path)))
        assert os.waitpid(child, 0)[1] == 0
        assert (path.read_bytes(), path.stat().st_uid, path.stat().st_ino) == (b"new", 0, inode)


def _status_of(action) -> int:
    try:
        action()
    except BaseException:
        return 1
    return 0


def test_a_folder_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="it is a folder"):
        small_trace().save(tmp_path)
    with pytest.raises(IsADirectoryError):
        check_output(tmp_path)


@pytest.mark.parametrize("length", [200, 255])
def test_long_names_can_be_written(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("x" * length)
    write(path)
    assert list(tmp_path.iterdir()) == [path]
    write(tmp_path / ("é" * 127))
    with pytest.raises(BadData, match="File name too long"):
        write_text(tmp_path / ("y" * 256), "new")


def test_names_of_open_files_write_to_those(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from qkv.task.output_files import write_text\n"
        "print('before', flush=True); write_text(Path(sys.argv[1]), 'new')"
    )
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        with (tmp_path / "log").open("wb") as log:
            subprocess.run([sys.executable, "-c", program, name], stdout=log, check=True)
        assert (tmp_path / "log").read_text() == "before\nnew", name


def test_drafts_of_killed_processes_go_and_others_stay(tmp_path: Path) -> None:
    program = (
        "import os, sys, signal; from qkv.files import open_output\n"
        "with open_output(sys.argv[1]) as file: file.write(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "file"
    path.write_text("old")
    killed = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".file.tmp").touch()
    with open_output(path) as file, open_output(tmp_path / "other") as other:
        file.write(b"new")
        other.write(b"new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".file.tmp", "file", "other"]


def test_a_home_that_is_none_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert expand_home("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert expand_home("~/x") == tmp_path / "home/x"
    Path("~").mkdir()
    Path("~/x").touch()
    assert expand_home("~/x") == Path("~/x")
