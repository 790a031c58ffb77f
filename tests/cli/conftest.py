"""A trained run to read, a copy to damage, and a way to see a command refuse."""

import shutil
from pathlib import Path

import pytest

import tiny
from tiny import Refused


@pytest.fixture(scope="module")
def run() -> Path:
    return tiny.trained()


@pytest.fixture
def broken(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to damage."""
    return shutil.copytree(run, tmp_path / "broken")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must end in one line on stderr and status 2; that line."""

    def call(*arguments: object, stdin: bytes = b"", after: str = "") -> str:
        capsys.readouterr()
        status = tiny.call(*arguments, "--quiet", stdin=stdin)
        out, err = capsys.readouterr()
        assert (status, out) == (2, after), err
        assert err.startswith("qkv: ")
        assert err.count("\n") == 1
        return err.removeprefix("qkv: ").rstrip("\n")

    return call
