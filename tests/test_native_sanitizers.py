"""The native engine under sanitizers, whatever the sizes and threads: it reads and writes nothing beyond a
tensor, does nothing that C++ leaves undefined, and its threads do not race.

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
FLAGS = ("-std=c++17", "-O1", "-g", "-fno-omit-frame-pointer", "-DQKV_ISA=generic", "-DQKV_CHUNK=32")
# Lanes, rows of a tile and panels of every instruction set; the compiler makes wide vectors from smaller ones
# where the machine has none.
WIDTHS = {"generic": (4, 4, 1), "avx2": (8, 4, 1), "avx512": (16, 8, 2)}
MEMORY = "address,undefined"


def built(folder: Path, sanitizer: str, width: str) -> Path:
    """The engine's sources and a program that calls them, compiled together."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler here")
    sanitized = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=undefined")
    empty = folder / "empty.cpp"
    empty.write_text("int main() {}\n")
    if subprocess.run([compiler, *sanitized, empty, "-o", folder / "empty"], capture_output=True).returncode:
        pytest.skip(f"{compiler} cannot link -fsanitize={sanitizer} here")
    lanes, tall, panels = WIDTHS[width]
    sizes = (f"-DQKV_LANES={lanes}", f"-DQKV_TALL={tall}", f"-DQKV_PANELS={panels}", '-DQKV_COMPILER="this"')
    sources = [*sorted(NATIVE.glob("*.cpp")), HERE / "native_driver.cpp"]
    made = folder / "driver"
    paths = ("-march=native", f"-iquote{NATIVE}", *sources, "-pthread", "-o", made)
    subprocess.run([compiler, *FLAGS, *sanitized, *sizes, *paths], check=True)
    return made


@pytest.fixture(scope="module", params=WIDTHS)
def memory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver under AddressSanitizer and UndefinedBehaviorSanitizer, for vectors of every width."""
    return built(tmp_path_factory.mktemp("memory"), MEMORY, request.param)


@pytest.fixture(scope="module")
def threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver under ThreadSanitizer."""
    return built(tmp_path_factory.mktemp("threads"), "thread", "avx512")


def report_of(driver: Path, mode: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return subprocess.run([driver, mode], capture_output=True, text=True, env=environment)


def assert_clean(ran: subprocess.CompletedProcess[str]) -> None:
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[:6000]
    assert ran.stdout.endswith("fine\n")


@pytest.mark.parametrize("mode", ["sizes", "parts"])
def test_nothing_beyond_a_tensor_is_touched(memory: Path, mode: str) -> None:
    assert_clean(report_of(memory, mode))


@pytest.mark.parametrize("short", ["short", "short-additive"])
def test_a_tensor_that_is_too_small_is_noticed(memory: Path, short: str) -> None:
    ran = report_of(memory, short)
    assert ran.returncode != 0
    assert "heap-buffer-overflow" in ran.stderr


def test_threads_do_not_race(threads: Path) -> None:
    assert_clean(report_of(threads, "threads"))


def test_a_race_is_noticed(threads: Path) -> None:
    ran = report_of(threads, "race")
    assert ran.returncode != 0
    assert "data race" in ran.stderr
