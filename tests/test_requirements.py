"""What an installation requires, compared with what is there, and commands that work as printed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qkv import requirements
from qkv.requirements import Unmet

METADATA = """Metadata-Version: 2.1
Name: {name}
Version: {version}
"""
REQUIRES = """Requires-Dist: qkv-test-new>=2.0
Requires-Dist: qkv-test-old>=2.0
Requires-Dist: qkv-test-none>=1.5,<3
Requires-Dist: qkv-test-local>=2.6
Requires-Dist: qkv-test-elsewhere; sys_platform == "elsewhere"
Provides-Extra: draw
Requires-Dist: qkv-test-old>=3.0; extra == "draw"
Provides-Extra: fast
Requires-Dist: qkv-test-none; extra == "fast"
Requires-Dist: qkv-test-elsewhere; sys_platform == "elsewhere" and extra == "fast"
Provides-Extra: all
Requires-Dist: qkv[draw,fast]; extra == "all"
Requires-Dist: Qkv.Test_New>=9; extra == "all"
"""
VERSIONS = {"new": "2.1.dev1", "old": "1.9.9", "local": "2.13.0+cpu"}


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with packages, which are found before all others; returns that of qkv's own data."""
    for name, version in VERSIONS.items():
        folder = tmp_path / f"qkv_test_{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(METADATA.format(name=f"qkv-test-{name}", version=version))
    own = tmp_path / "qkv-0.1.0.dist-info"
    own.mkdir()
    (own / "METADATA").write_text(METADATA.format(name="qkv", version="0.1.0") + REQUIRES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return own


@pytest.mark.usefixtures("installation")
def test_installed_versions_are_compared_with_what_is_required() -> None:
    assert requirements.find_unmet() == [
        Unmet("qkv-test-old>=2.0", "1.9.9"),
        Unmet("qkv-test-none<3,>=1.5", ""),
    ]
    assert requirements.list_extras() == ["draw", "fast", "all"]
    assert requirements.find_unmet("draw") == [Unmet("qkv-test-old>=3.0", "1.9.9")]
    assert requirements.find_unmet("fast") == [Unmet("qkv-test-none", "")]
    assert requirements.find_unmet("all") == [
        Unmet("qkv-test-old>=3.0", "1.9.9"),
        Unmet("qkv-test-none", ""),
        Unmet("Qkv.Test_New>=9", "2.1.dev1"),
    ]


def test_a_version_that_cannot_be_read_is_not_accepted(installation: Path) -> None:
    broken = installation.parent / "qkv_test_new-2.1.dev1.dist-info" / "METADATA"
    broken.write_text(METADATA.format(name="qkv-test-new", version="of-last-week"))
    assert Unmet("qkv-test-new>=2.0", "of-last-week") in requirements.find_unmet()


def test_without_an_installation_nothing_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "NAME", "qkv-of-nowhere")
    assert not requirements.is_installed()
    assert (requirements.find_unmet(), requirements.list_extras(), requirements.format_rebuild_command()) == (
        [],
        [],
        "",
    )


def test_the_command_installs_for_the_python_that_runs() -> None:
    assert requirements.format_install_command([Unmet("a>=1", ""), Unmet("b", "0")]) == (
        f"{sys.executable} -m pip install 'a>=1' b"
    )
    cpu = requirements.format_install_command([Unmet("torch>=2.6", "2.5.1+cpu")])
    assert cpu.endswith(f"pip install --extra-index-url {requirements.CPU_INDEX} 'torch>=2.6'")


def test_the_command_works_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    command = requirements.format_install_command([Unmet("a>=1", "")])
    assert command == f"uv pip install --python {sys.executable} 'a>=1'"


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "--no-binary qkv qkv==0.1.0"),
        ({"url": "file://{folder}", "dir_info": {"editable": True}}, "--editable {folder}"),
        ({"url": "file://{folder}", "dir_info": {}}, "{folder}"),
        ({"url": "file:///no/such/folder", "dir_info": {}}, ""),
        ({"url": "file:///a/qkv-0.1.0-py3-none-any.whl", "archive_info": {}}, ""),
        ({"url": "file:///a/qkv-0.1.0.tar.gz", "archive_info": {}}, "file:///a/qkv-0.1.0.tar.gz"),
        (
            {"url": "https://example.org/qkv", "vcs_info": {"vcs": "git", "commit_id": "ab12"}},
            "git+https://example.org/qkv@ab12",
        ),
    ],
)
def test_qkv_is_built_again_from_where_it_came(
    installation: Path, origin: dict | None, expected: str
) -> None:
    folder = installation.parent.as_posix()
    if origin is not None:
        (installation / "direct_url.json").write_text(json.dumps(origin).replace("{folder}", folder))
    command = requirements.format_rebuild_command()
    if not expected:
        assert command == ""
        return
    options, _, source = command.partition("--no-cache-dir ")
    assert options == f"{sys.executable} -m pip install --force-reinstall --no-deps "
    assert source == expected.replace("{folder}", folder)


def test_looking_needs_no_torch() -> None:
    program = (
        "import sys; from qkv.requirements import find_unmet; find_unmet(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
