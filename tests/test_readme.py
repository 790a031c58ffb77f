"""README and four pages of docs are checked: Python runs, recipes parse, commands and options exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from qkv.cli.app import app
from qkv.cli.commands.cost import CostOptions
from qkv.cli.lengths import parse_lengths
from qkv.cost.subject import read_subject
from qkv.cost.workload import check_length
from qkv.task.recipe import parse_recipe
from qkv.task.registry import TASKS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = {
    name: (ROOT / "docs" / name).read_text()
    for name in (
        *("translation.md", "language.md", "classify.md", "captions.md", "pictures.md", "pretraining.md"),
        "costs.md",
    )
}
PYTHON = {
    page: re.findall(r"```python\n(.*?)```", text, re.S)
    for page, text in (("README.md", README), *DOCS.items())
}
PAGES = README + "".join(DOCS.values())
YAML = re.findall(r"```yaml\n(.*?)```", PAGES, re.S)
COMMANDS = [
    part.strip()
    for line in re.findall(r"^    (.*)$", re.sub(r" \\\n +", " ", PAGES), re.M)  # a continued line is one
    for part in re.split(r"&&|\|| {3,}#.*$", line)
    if part.strip().startswith("qkv ")
]


def test_there_is_something_to_check() -> None:
    assert sum(map(len, PYTHON.values())) >= 9
    assert len(YAML) == 12
    assert len(COMMANDS) >= 6


OUTPUTS = {"README.md": "explicit", "pictures.md": "in 2×3 tiles"}


@pytest.mark.parametrize("page", [page for page, blocks in PYTHON.items() if blocks])
def test_python_blocks_run_one_after_the_other(
    page: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in PYTHON[page]:
        exec(compile(block, page, "exec"), names)
    assert OUTPUTS.get(page, "") in capsys.readouterr().out


@pytest.mark.parametrize("block", YAML)
def test_recipes_parse(block: str) -> None:
    raw = yaml.safe_load(block)
    raw.setdefault("data", {"phrases": {}})
    assert parse_recipe(raw, "the page").task in TASKS


@pytest.mark.parametrize("model", re.findall(r"\| `(\{.*\})` \|", PAGES))
def test_models_in_tables_parse(model: str) -> None:
    recipe = parse_recipe({"data": {"phrases": {}}, "model": yaml.safe_load(model)}, "the page")
    assert recipe.task == "translate"


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_options_exist(line: str) -> None:
    _, name, *words = shlex.split(line)
    known = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    assert name in known
    options = {option for parameter in known[name].params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options


def test_the_targets_of_make_exist() -> None:
    pages = README + (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"(?:`|^    )make ([a-z]+)", pages, re.M)
    assert named
    assert set(named) <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("qkv cost ")])
def test_models_can_read_the_lengths_of_the_examples(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(name: str, options: CostOptions) -> None:
        for length in [None] if options.length is None else parse_lengths(options.length):
            subject = read_subject(name, options.changes, length, options.batch)
            check_length(subject.recipe.model, subject.sizes.length)

    monkeypatch.setattr("qkv.cli.commands.cost.report_cost", check)
    app(shlex.split(line)[1:], standalone_mode=False)


def test_pictures_are_small_enough_to_load_quickly() -> None:
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()}
    assert sizes
    assert max(sizes.values()) < 200_000, sizes


@pytest.mark.parametrize("target", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    path, _, heading = target.partition("#")
    assert (ROOT / path).exists()
    if heading:
        text = (ROOT / (path or "README.md")).read_text().lower().replace("-", " ")
        assert f"# {heading.replace('-', ' ')}" in text
