"""The native engine under sanitizers: no access beyond a tensor, no undefined behaviour and no data races.

It runs on its own pool of threads here.  In Python the same jobs run on the threads of torch's OpenMP
library, whose barriers ThreadSanitizer cannot see.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from qkv.kernel.native import library

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
NATIVE = Path(library.__file__).parent
FLAGS = (
    "-std=c++17",
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-DQKV_ISA=generic",
    "-DQKV_CHUNK=32",
    '-DQKV_COMPILER="test"',
)
# Lanes, rows of a tile and panels of every instruction set; the compiler emulates vectors that the machine
# does not have.
WIDTHS = {"generic": (4, 4, 1), "avx2": (8, 4, 1), "avx512": (16, 8, 2)}
MEMORY = "address,undefined"


def build_driver(folder: Path, sanitizer: str, width: str) -> Path:
    """Compile the sources of the engine together with a program that calls them."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler here")
    sanitized = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=undefined")
    empty = folder / "empty.cpp"
    empty.write_text("int main() {}\n")
    if subprocess.run([compiler, *sanitized, empty, "-o", folder / "empty"], capture_output=True).returncode:
        pytest.skip(f"{compiler} cannot link -fsanitize={sanitizer} here")
    lanes, tile_rows, panels = WIDTHS[width]
    sizes = (f"-DQKV_LANES={lanes}", f"-DQKV_TILE_ROWS={tile_rows}", f"-DQKV_PANELS={panels}")
    sources = [*sorted(NATIVE.glob("*.cpp")), HERE / "native_driver.cpp"]
    driver = folder / "driver"
    paths = ("-march=native", f"-iquote{NATIVE}", *sources, "-pthread", "-o", driver)
    subprocess.run([compiler, *FLAGS, *sanitized, *sizes, *paths], check=True)
    return driver


@pytest.fixture(scope="module", params=WIDTHS)
def memory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver under AddressSanitizer and UndefinedBehaviorSanitizer, for vectors of every width."""
    return build_driver(tmp_path_factory.mktemp("memory"), MEMORY, request.param)


@pytest.fixture(scope="module")
def threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver under ThreadSanitizer."""
    return build_driver(tmp_path_factory.mktemp("threads"), "thread", "avx512")


def run_driver(driver: Path, mode: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run([driver, mode], capture_output=True, text=True, env=environment)


def assert_clean(process: subprocess.CompletedProcess[str]) -> None:
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[:6000]
    assert process.stdout.endswith("fine\n")


@pytest.mark.parametrize("mode", ["sizes", "segments"])
def test_no_access_beyond_a_tensor(memory: Path, mode: str) -> None:
    assert_clean(run_driver(memory, mode))


@pytest.mark.parametrize("short", ["short", "short-additive"])
def test_a_tensor_that_is_too_small_is_detected(memory: Path, short: str) -> None:
    process = run_driver(memory, short)
    assert process.returncode != 0
    assert "heap-buffer-overflow" in process.stderr


def test_threads_have_no_data_races(threads: Path) -> None:
    assert_clean(run_driver(threads, "threads"))


def test_a_data_race_is_detected(threads: Path) -> None:
    process = run_driver(threads, "race")
    assert process.returncode != 0
    assert "data race" in process.stderr
