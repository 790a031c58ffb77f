"""Known defects are planted in a copy of the source, one at a time, and the tests demand to see each."""

import shutil

import pytest

from mutants import MUTANTS, Mutant
from mutate import PYTHON_MUTANTS, ROOT, caught, passes
from native_mutants import NATIVE_MUTANTS

SOURCE = ROOT / "src" / "qkv"
HEALTHY = sorted({mutant.tests for mutant in (*PYTHON_MUTANTS, *NATIVE_MUTANTS)})


def test_there_is_something_to_plant() -> None:
    assert len(MUTANTS) >= 40
    for mutant in (*PYTHON_MUTANTS, *NATIVE_MUTANTS):
        assert mutant.text in (SOURCE / mutant.file).read_text(), f"rewrite the mutant: {mutant.defect}"


@pytest.mark.slow
@pytest.mark.parametrize("tests", HEALTHY, ids=lambda tests: tests[0])
def test_the_healthy_source_passes(tests: tuple[str, str]) -> None:
    assert passes(SOURCE.parent, tests)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", PYTHON_MUTANTS, ids=lambda mutant: mutant.defect)
def test_a_defect_is_caught(mutant: Mutant) -> None:
    assert caught(mutant, SOURCE)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("cmake") is None, reason="cmake, which builds the native engine, is not here"
)
@pytest.mark.parametrize("mutant", NATIVE_MUTANTS, ids=lambda mutant: mutant.defect)
def test_a_defect_of_the_native_engine_is_caught(mutant: Mutant) -> None:
    assert caught(mutant, SOURCE)
