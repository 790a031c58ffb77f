"""Known defects are planted in a copy of the source, one at a time, and the tests demand to see each."""

import pytest

from mutate import MUTANTS, ROOT, Mutant, caught, passes

SOURCE = ROOT / "src" / "qkv"
HEALTHY = sorted({mutant.tests for mutant in MUTANTS})


def test_there_is_something_to_plant() -> None:
    assert len(MUTANTS) >= 12
    for mutant in MUTANTS:
        assert mutant.text in (SOURCE / mutant.file).read_text(), f"rewrite the mutant: {mutant.defect}"


@pytest.mark.slow
@pytest.mark.parametrize("tests", HEALTHY, ids=lambda tests: tests[0])
def test_the_healthy_source_passes(tests: tuple[str, str]) -> None:
    assert passes(SOURCE.parent, tests)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.defect)
def test_a_defect_is_caught(mutant: Mutant) -> None:
    assert caught(mutant, SOURCE)
