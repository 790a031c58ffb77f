"""The command line: what it prints, what it writes, and how it refuses."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import qkv
import tiny
from qkv.task import training
from qkv.trace import Trace

Refused = Callable[..., str]


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


def full_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """The disk fills up: so many files can still be forced to it."""
    left, fsync = [writes], os.fsync

    def no_space(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", no_space)


# ---- starting, help, usage ----


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("--version") == 0
    assert capsys.readouterr().out == f"qkv {qkv.__version__}\n"


def test_alone_it_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    tiny.call()
    out = capsys.readouterr()
    for name in ("demo", "train", "translate", "evaluate", "view", "recipes"):
        assert name in out.out + out.err


def test_recipes_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("demo-rnn ") and "additive attention" in line for line in lines)


@pytest.mark.parametrize("command", ["demo", "train", "translate", "evaluate", "view", "recipes"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call(command, "-h") == 0
    assert f"qkv {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "No such command"),
        (["train"], "Missing argument"),
        (["translate"], "Missing argument"),
        (["train", "demo-rnn", "--epochs", "3"], "No such option"),
        (["translate", "run", "--beam", "0"], "--beam"),
        (["translate", "run", "--n-best", "0"], "--n-best"),
        (["translate", "run", "--beam", "two"], "--beam"),
        (["evaluate", "run", "--beam", "-1"], "--beam"),
        (["view", "t.npz", "--example", "0"], "--example"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_help_is_fast_because_it_imports_no_torch() -> None:
    program = (
        "import os, sys\n"
        "from qkv.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'tokenizers', 'sacrebleu'} & sys.modules.keys()\n"
        "print(sorted(heavy), os.times().user, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    heavy, seconds = done.stderr.rsplit(maxsplit=1)
    assert heavy == "[]"
    assert float(seconds) < 0.4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_told() -> None:
    command = [sys.executable, "-c", "from qkv.cli import main; main()", "--version"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "qkv: output: No space left on device\n")


# ---- train ----


def test_training_says_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny.recipe_in(tmp_path)
    with (tmp_path / "train.en").open("a") as english, (tmp_path / "train.fr").open("a") as french:
        english.write("\none\n \t\n" + "one " * 13 + "\n")
        french.write("un\n\nun\n" + "un " * 13 + "\n")
    assert tiny.call("train", recipe, "--out", tmp_path / "run", "--set", "train.epochs=1") == 0
    out, err = capsys.readouterr()
    assert "dropped 4 of 304 pairs: 3 with an empty side, 1 longer than 12 tokens (first: line 301)" in err
    assert "304 pairs to train on, 20 held out" in err
    assert "updates an epoch" in err
    assert "held-out: nll" in out
    assert f"qkv translate {tmp_path / 'run'}" in out
    files = {"recipe.yaml", "tokenizer.json", "model.safetensors", "metrics.jsonl", "training/state.pt"}
    assert tiny.tree(tmp_path / "run").keys() == files


def test_the_run_goes_to_runs_by_the_name_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.recipe_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert tiny.call("train", recipe, "--quiet", "--set", "train.steps=2") == 0
    assert (tmp_path / "runs/tiny/model.safetensors").exists()


def spoil(folder: Path, how: str) -> None:
    source, target = folder / "train.en", folder / "train.fr"
    if how == "lines":
        source.write_text(source.read_text() + "one\n")
    elif how == "empty":
        source.write_text("")
        target.write_text("")
    elif how == "bytes":
        source.write_bytes(b"one\n\xe9t\xe9\n" + source.read_bytes())
    elif how == "blank":
        source.write_text(" \n" * 300)
    elif how == "missing":
        source.unlink()
    elif how == "held out":
        (folder / "valid.fr").write_text("\n" * 20)
    elif how == "long":
        source.write_text(("one " * 20 + "\n") * 300)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("lines", "train.en has 301 lines but"),
        ("empty", "train.en is empty: at least one line is needed"),
        ("bytes", "train.en, line 2: 0xe9 at position 0 is not UTF-8"),
        ("blank", "no pair is left to train on (dropped 300 of 300 pairs: 300 with an empty side"),
        ("long", "no pair is left to train on (dropped 300 of 300 pairs: 300 longer than 12 tokens"),
        ("missing", "train.en: no such file"),
        ("held out", "the held-out pairs: no pair is left"),
    ],
)
def test_bad_data_is_refused_and_nothing_is_left(
    how: str, said: str, tmp_path: Path, refused: Refused
) -> None:
    recipe = tiny.recipe_in(tmp_path)
    spoil(tmp_path, how)
    assert said in refused("train", recipe, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.epocs=3", "tiny.yaml: unknown key 'train.epocs'. Did you mean 'epochs'"),
        ("train.epochs", "--set takes key.key=value"),
        ("model={kind: transformer, width: 15, heads: 4}", "15"),
        ("model={kind: transformer, decoder: {kernel: {name: rfa, feature: 3}}}", "Did you mean 'features'"),
        ("validation.tokenize=non", "no tokeniser 'non'. Did you mean 'none'"),
        ("train.device=cdua", "'train.device' is 'cdua'"),
        ("data.valid=null", "too few"),
        ("data.train={source: $NO_SUCH_VARIABLE/a, target: b}", "variable NO_SUCH_VARIABLE is not set"),
    ],
)
def test_bad_recipes_are_refused_and_nothing_is_left(
    change: str, said: str, tmp_path: Path, refused: Refused
) -> None:
    recipe = tiny.recipe_in(tmp_path)
    if "valid=null" in change:
        for side in ("en", "fr"):
            (tmp_path / f"train.{side}").write_text("one\ntwo\n")
    assert said in refused("train", recipe, "--out", tmp_path / "run", "--set", change)
    assert not (tmp_path / "run").exists()


def test_recipes_that_are_not_there(tmp_path: Path, refused: Refused) -> None:
    assert "no recipe 'demo-rn'" in refused("train", "demo-rn", "--out", tmp_path / "run")
    assert "cannot read the recipe" in refused("train", tmp_path / "none.yaml", "--out", tmp_path / "run")
    (tmp_path / "list.yaml").write_text("- data\n")
    assert "must hold keys and values" in refused("train", tmp_path / "list.yaml", "--out", tmp_path / "run")
    (tmp_path / "bad.yaml").write_text("data: [\n  - : :\n")
    assert "is not valid YAML" in refused("train", tmp_path / "bad.yaml", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_trained_over(run: Path, refused: Refused) -> None:
    before = tiny.tree(run)
    said = refused("train", run.parent / "tiny.yaml", "--out", run, "--set", "train.epochs=1")
    assert "already holds a training" in said
    assert "--resume, or choose another --out" in said
    said = refused("train", run.parent / "tiny.yaml", "--out", run, "--resume", "--set", "model.hidden=8")
    assert "was trained with another model" in said
    assert tiny.tree(run) == before


def test_there_must_be_something_to_resume(tmp_path: Path, refused: Refused) -> None:
    recipe = tiny.recipe_in(tmp_path)
    assert "no training to resume" in refused("train", recipe, "--out", tmp_path / "run", "--resume")
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_run_directory(tmp_path: Path, refused: Refused) -> None:
    recipe = tiny.recipe_in(tmp_path)
    assert "cannot write" in refused("train", recipe, "--out", recipe)
    assert "cannot write" in refused("train", recipe, "--out", recipe / "run")


@pytest.mark.parametrize("writes", range(4))
def test_a_full_disk_at_the_start_leaves_nothing(
    writes: int, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.recipe_in(tmp_path)
    arguments = ("train", recipe, "--out", tmp_path / "run", "--set", "train.steps=2")
    with monkeypatch.context() as patch:
        full_after(patch, writes)
        said = refused(*arguments)
    assert "cannot write" in said
    assert "No space left on device" in said
    if writes < 3:  # tokenizer, recipe, first state
        assert not (tmp_path / "run").exists()
    resume = ("--resume",) if writes >= 3 else ()
    assert tiny.call(*arguments, *resume, "--quiet") == 0


def test_a_full_disk_later_can_be_resumed(
    run: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("train", run / "recipe.yaml", "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        full_after(patch, 12)
        assert "the previous version is intact" in refused(*arguments)
    assert tiny.call(*arguments, "--resume", "--quiet") == 0
    assert (tmp_path / "run/model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_an_interrupt_before_the_first_save_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "batches_of", interrupted)
    assert tiny.call("train", tiny.recipe_in(tmp_path), "--out", tmp_path / "run", "--quiet") == 130
    assert capsys.readouterr().err == "stopped; nothing was saved yet\n"
    assert not (tmp_path / "run").exists()


def test_an_interrupt_saves_and_tells_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from qkv.task.validator import Validator

    recipe = tiny.recipe_in(tmp_path)
    first = Validator.__call__

    def interrupted(self: Validator) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return first(self)

    with monkeypatch.context() as patch:
        patch.setattr(Validator, "__call__", interrupted)
        assert tiny.call("train", recipe, "--out", tmp_path / "run", "--quiet") == 130
    command = f"qkv train {recipe} --out={tmp_path / 'run'} --resume"
    assert capsys.readouterr().err == f"stopped; all is saved. Go on with: {command}\n"
    assert tiny.call(*command.split()[1:], "--quiet", "--set", "train.epochs=2") == 0


# ---- damaged runs ----


def test_a_run_that_is_none(tmp_path: Path, refused: Refused) -> None:
    for command in ("translate", "evaluate"):
        assert "no run directory" in refused(command, tmp_path / "none")
        assert "is not a finished run (recipe.yaml: No such file" in refused(command, tmp_path)


@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_missing(name: str, broken: Path, refused: Refused) -> None:
    (broken / name).unlink()
    said = refused("translate", broken, stdin=b"one\n")
    assert "is not a finished run" in said
    assert name in said


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["recipe.yaml", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_cut_short(name: str, share: float, broken: Path, refused: Refused) -> None:
    whole = (broken / name).read_bytes()
    (broken / name).write_bytes(whole[: int(len(whole) * share)])
    said = refused("translate", broken, stdin=b"one\n")
    assert f"{broken / name}" in said
    assert "damaged" in said


def test_weights_of_another_model(broken: Path, refused: Refused) -> None:
    path = broken / "recipe.yaml"
    path.write_text(path.read_text().replace("hidden: 32", "hidden: 16"))
    assert "model.safetensors belongs to another model" in refused("translate", broken, stdin=b"one\n")


@pytest.mark.parametrize("name", ["tokenizer.json", "recipe.yaml", "training/state.pt"])
def test_resuming_from_a_file_that_is_cut_short(name: str, broken: Path, run: Path, refused: Refused) -> None:
    whole = (broken / name).read_bytes()
    (broken / name).write_bytes(whole[: len(whole) // 2])
    before = tiny.tree(broken)
    said = refused("train", run.parent / "tiny.yaml", "--out", broken, "--resume")
    assert str(broken / name) in said
    assert "damaged" in said
    assert tiny.tree(broken) == before


# ---- translate ----


def test_a_line_in_a_line_out(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, wanted = "one two\n\nthree\n \t\nfour", "un deux\n\ntrois\n\nquatre\n"
    assert tiny.call("translate", run, stdin=lines.encode()) == 0
    assert capsys.readouterr().out == wanted
    (tmp_path / "in.txt").write_text(lines)
    assert tiny.call("translate", run, tmp_path / "in.txt", "-o", tmp_path / "deep/out.txt", "--beam", 1) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "deep/out.txt").read_text() == wanted
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.txt"]


def test_windows_lines_and_byte_order_marks(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("translate", run, stdin=b"\xef\xbb\xbfone two\r\nthree\r\n") == 0
    assert capsys.readouterr().out == "un deux\ntrois\n"


def test_no_input_gives_no_output(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("translate", run, stdin=b"") == 0
    assert capsys.readouterr().out == ""


def test_n_best_names_the_line_and_the_score(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("translate", run, "--n-best", 3, stdin=b"one two\n\nthree\n") == 0
    rows = [line.split(" ||| ") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["1", "1", "1", "2", "3", "3", "3"]
    assert [rows[0][1], rows[3][1], rows[4][1]] == ["un deux", "", "trois"]
    scores = [float(row[2]) for row in rows]
    assert scores[0] >= scores[1] >= scores[2]


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        (b"one\n\xff\n", (), "stdin, line 2: byte 0 is not UTF-8"),
        (b"one\n" + b"one " * 13 + b"\n", (), "line 2 has 13 tokens, more than the 12"),
        ("one\n\n你好\n".encode(), (), "line 3 holds nothing this model knows"),
        (b"one\n", ("--beam", 2, "--n-best", 3), "3 answers need a beam of at least 3, got 2"),
        (b"one\n" * 101, ("--trace", "t.npz"), "at most 100 lines, got 101"),
        (b"\n", ("--trace", "t.npz"), "at least one"),
        (b"one\n", ("--trace", "none/t.npz"), "cannot write the trace none/t.npz"),
        (b"one\n", ("--output", "."), "cannot write"),
    ],
)
def test_translate_refuses_and_writes_nothing(
    lines: bytes,
    options: tuple[object, ...],
    said: str,
    run: Path,
    refused: Refused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    where = () if "--output" in options else ("--output", "out.txt")
    assert said in refused("translate", run, *where, *options, stdin=lines)
    assert tiny.tree(tmp_path) == {}


def test_a_file_that_cannot_be_read(run: Path, tmp_path: Path, refused: Refused) -> None:
    assert "no such file" in refused("translate", run, tmp_path / "none.txt")
    (tmp_path / "in.txt").write_bytes(b"one\ntwo \xe9\n")
    said = refused("translate", run, tmp_path / "in.txt", "--output", tmp_path / "out.txt")
    assert "in.txt, line 2: 0xe9 at position 4 is not UTF-8" in said
    assert not (tmp_path / "out.txt").exists()


def test_a_failure_leaves_the_old_output(run: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "out.txt").write_text("old")
    refused("translate", run, "--output", tmp_path / "out.txt", stdin=b"one\n\xff\n")
    assert tiny.tree(tmp_path) == {"out.txt": b"old"}


@pytest.mark.parametrize("option", ["--output", "--trace"])
def test_a_full_disk_leaves_no_output(
    option: str, run: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after(monkeypatch, 0)
    said = refused("translate", run, option, tmp_path / "out", stdin=b"one\n")
    assert "cannot write" in said
    assert str(tmp_path / "out") in said
    assert "No space left on device" in said
    assert tiny.tree(tmp_path) == {}


def test_on_a_terminal_every_line_is_answered_at_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered: list[str] = []

    from qkv.cli.translating import translate_lines

    class Lines:
        def __iter__(self):
            for line in (b"one\n", b"two\n"):
                answered.append(capsys.readouterr().out)
                yield line

    class Stdin:
        buffer = Lines()

        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Stdin())
    translate_lines(run, None, None, None, 1, None, False)
    assert answered == ["", "un\n"]
    assert capsys.readouterr() == ("deux\n", "")


# ---- trace and view ----


@pytest.fixture(scope="module")
def trace(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "t.npz"
    assert tiny.call("translate", run, "--trace", path, "-q", stdin=b"one two three\nfour\n") == 0
    return path


def test_a_trace_can_be_loaded(trace: Path) -> None:
    examples = Trace.load(trace).examples
    assert [example.target[:-1] for example in examples] == [("un", "deux", "trois"), ("quatre",)]
    assert examples[0].weights["cross.0"].shape == (1, 4, 4)


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="view draws with matplotlib")
def test_view_draws_a_picture(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "p.png"
    assert tiny.call("view", trace, "--png", picture, "--example", 2) == 0
    assert capsys.readouterr().out == f"{picture}\n"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--example", 3), "no example 3"),
        (("--heads", "first"), "--heads takes mean, all or the number of a head from 0, got 'first'"),
        (("--heads", 7), "7"),
        (("--layers", "cros"), "Did you mean 'cross"),
        (("--png", "picture.bmpp"), "picture.bmpp"),
    ],
)
def test_view_refuses(
    options: tuple[object, ...],
    said: str,
    trace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    where = () if "--png" in options else ("--png", "p.png")
    assert tiny.call("view", trace, *where, *options) == 2
    err = capsys.readouterr().err
    assert err.startswith("qkv: ")
    assert err.count("\n") == 1
    assert said in err
    assert tiny.tree(tmp_path) == {}


def test_view_refuses_what_is_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.npz").write_text("words")
    for name in ("t.npz", "none.npz"):
        assert tiny.call("view", tmp_path / name) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"qkv: {tmp_path / name}")
        assert err.count("\n") == 1


# ---- evaluate ----


def test_evaluate_prints_scores_with_signatures(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.call("evaluate", run, "--json", tmp_path / "s.json", "--quiet") == 0
    out = capsys.readouterr().out
    assert out.startswith("40 sentences\n")
    for name in ("BLEU", "chrF", "TER", "exact match"):
        assert f"  {name}" in out
    assert "tok:13a" in out
    assert "1–5 words" in out
    told = json.loads((tmp_path / "s.json").read_text())
    assert told["run"] == str(run)
    assert told["sentences"] == 40
    assert told["scores"].keys() == {"bleu", "chrf", "ter", "exact"}
    assert told["signatures"]["bleu"].startswith("nrefs:1|")
    assert [row["words"] for row in told["buckets"]] == ["1–5", "6–10"]
    assert sum(row["sentences"] for row in told["buckets"]) == 40


def test_evaluate_on_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [run.parent / "valid.en", run.parent / "valid.fr"]
    arguments = ("evaluate", run, "--source", files[0], "--target", files[1])
    assert tiny.call(*arguments, "--tokenize", "char", "--beam", 1, "-q") == 0
    out = capsys.readouterr().out
    assert out.startswith("20 sentences\n")
    assert "tok:char" in out


def test_evaluate_refuses(
    run: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    english, french = run.parent / "valid.en", run.parent / "train.fr"
    for option, file in (("--source", english), ("--target", french)):
        assert "--source and --target go together" in refused("evaluate", run, option, file)
    both = ("evaluate", run, "--source", english, "--target")
    assert "has 20 lines but" in refused(*both, french)
    assert "no such file" in refused(*both, tmp_path / "none")
    assert "no tokeniser 'non'" in refused("evaluate", run, "--tokenize", "non")


def test_scores_survive_a_full_disk(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after(monkeypatch, 0)
    assert tiny.call("evaluate", run, "--json", tmp_path / "s.json", "--quiet") == 2
    out, err = capsys.readouterr()
    assert "BLEU" in out
    assert err == f"qkv: cannot write {tmp_path / 's.json'}: No space left on device\n"
    assert tiny.tree(tmp_path) == {}


def test_without_test_data_evaluate_asks_for_files(broken: Path, refused: Refused) -> None:
    path = broken / "recipe.yaml"
    told = yaml.safe_load(path.read_text())
    told["data"] |= {"test": None, "valid": None}
    path.write_text(yaml.safe_dump(told))
    assert "names no data.test: pass --source and --target" in refused("evaluate", broken)
