"""`qkv evaluate`: prints the scores of a run, and writes them as JSON."""

from pathlib import Path

from qkv.files import expand_home
from qkv.task.evaluation import EvaluateOptions, refuse_unused_options
from qkv.task.output_files import check_writable, write_json
from qkv.task.registry import find_task
from qkv.task.run_directory import load, read_run_recipe


def evaluate_run(
    run: Path, options: EvaluateOptions, json_file: Path | None, quiet: bool, device: str
) -> None:
    """Score the run as its task says, print the scores, and write them to `json_file` if there is one."""
    recipe = read_run_recipe(expand_home(run))
    task = find_task(recipe.task)
    refuse_unused_options(options, task.name, task.evaluate_options)
    data = task.read_test_data(recipe, options)
    if json_file is not None:
        check_writable(json_file)
    evaluation = task.evaluate(load(run, device=device), data, options, quiet)
    for line in evaluation.describe():
        print(line)
    if json_file is not None:
        result = {"run": str(run), "task": task.name, **evaluation.to_dict()}
        write_json(json_file, result)
