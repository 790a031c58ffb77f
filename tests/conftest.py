"""What every test has: the same random numbers each time, and a way to see the messages users see."""

import os
import re
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from packaging.version import Version

import shape_checks

shape_checks.install()
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, which share the cores
    torch.set_num_threads(1)


# What torch 2.6, 2.7 and 2.8 cannot do (docs/torch.md; those after were not tried): a pattern of the names of
# tests, and the reason.
OLD_TORCH = Version(torch.__version__) < Version("2.13")
BEYOND_OLD_TORCH = {
    r"test_functional.py::test_(compiles_whole|exports_with_any)": "it compiles no frozen dataclass",
    r"test_torch_programs.py::test_exported_(positions_of_any_length|strictly\[window)": "the same",
    r"test_torch_tools.py::test_what_reads_the_source": "it words an error otherwise",
    r"test_torch_tools.py::test_encoder_compiled": "it does not compile nn.TransformerEncoder with padding",
    r"_transport.py::test_(compiles|exports).*(sparsemax|entmax).*grouped": "it compiles no shape checks",
    r"test_select.py::test_layers_compile.*(Sparsemax|Entmax)": "the same",
    r"test_select.py::test_entmax_has_second": "2.6 has no second derivatives of such functions",
    r"test_train_parallel.py": "2.6 has no FSDP on CPUs, and that of 2.7 and 2.8 is wrong",
    r"test_tiles.py::test_tiles_compile": "it compiles no tuple of modules",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what an old torch cannot do."""
    for item in items if OLD_TORCH else ():
        for pattern, reason in BEYOND_OLD_TORCH.items():
            if re.search(pattern, item.nodeid):
                item.add_marker(pytest.mark.skip(reason=f"torch {torch.__version__}: {reason}"))


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the shape checks of the test run, as users have it, to see the messages they see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, until the test asks for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
