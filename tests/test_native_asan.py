"""The native engine under AddressSanitizer: it never reads or writes beyond a tensor, whatever the sizes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from qkv.kernel.native import library

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
NATIVE = Path(library.__file__).parent
SANITIZED = ("-std=c++17", "-O1", "-g", "-fsanitize=address", "-fno-omit-frame-pointer")
# The widest vectors overrun furthest; the compiler makes them from smaller ones where the machine has none.
WIDEST = (
    "-DQKV_ISA=generic",
    "-DQKV_LANES=16",
    "-DQKV_TALL=8",
    "-DQKV_PANELS=2",
    "-DQKV_CHUNK=32",
    '-DQKV_COMPILER="asan"',
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine's sources and a program that calls them, compiled together."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler here")
    folder = tmp_path_factory.mktemp("asan")
    empty = folder / "empty.cpp"
    empty.write_text("int main() {}\n")
    if subprocess.run([compiler, *SANITIZED, empty, "-o", folder / "empty"], capture_output=True).returncode:
        pytest.skip(f"{compiler} cannot link AddressSanitizer here")
    sources = [*sorted(NATIVE.glob("*.cpp")), HERE / "native_driver.cpp"]
    made = folder / "driver"
    subprocess.run(
        [
            compiler,
            *SANITIZED,
            *WIDEST,
            "-march=native",
            f"-iquote{NATIVE}",
            *sources,
            "-pthread",
            "-o",
            made,
        ],
        check=True,
    )
    return made


def report_of(driver: Path, *given: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([driver, *given], capture_output=True, text=True, env=environment)


def test_nothing_beyond_a_tensor_is_touched(driver: Path) -> None:
    done = report_of(driver)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[:6000]
    assert done.stdout.endswith("fine\n")


@pytest.mark.parametrize("short", ["short", "short-additive"])
def test_a_tensor_that_is_too_small_is_noticed(driver: Path, short: str) -> None:
    done = report_of(driver, short)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
