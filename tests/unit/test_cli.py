"""The command line in-process: words, console, failures, show; what a child process alone can prove runs as one."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zhixing.cli import console as consoles
from zhixing.cli import failure
from zhixing.cli.app import VERBS, join_dashes, main, parse
from zhixing.cli.console import Console, table
from zhixing.core.errors import DataError, RunError, UsageError
from zhixing.core.folder import create
from zhixing.core.stop import Stopped


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    said = capsys.readouterr()
    return code, said.out, said.err


MISTAKES = [
    (["tran"], "usage.verb_unknown", "'train'"),
    (["--vers"], "usage.verb_unknown", "--help"),
    (["train"], "usage.word_missing", "CORPUS"),
    (["train", "a"], "usage.word_missing", "OUT"),
    (["train", "a", "b", "c"], "usage.word_surplus", "'c'"),
    (["prepare", "a.txt", "b.txt", "out"], "usage.word_surplus", "quotation"),
    (["train", "a", "b", "--stesp", "3"], "usage.flag_unknown", "'--steps'"),
    (["train", "a", "b", "--no-force"], "usage.flag_unknown", "'--force'"),
    (["train", "a", "b", "--out", "c"], "usage.flag_unknown", "'--out'"),
    (["train", "a", "b", "--steps", "many"], "usage.value_wrong", "'many'"),
    (["train", "a", "b", "--steps", "1.5"], "usage.value_wrong", "INTEGER"),
    (["train", "a", "b", "--minutes", "soon"], "usage.value_wrong", "NUMBER"),
    (["train", "a", "b", "--steps="], "usage.value_wrong", "''"),
    (["train", "a", "b", "--steps"], "usage.value_missing", "--steps"),
    (["train", "a", "b", "--force=maybe"], "usage.switch_value", "'maybe'"),
    (["train", "a", "b", "--steps", "1", "--steps", "2"], "usage.flag_repeated", "--steps"),
    (["train", "a", "b", "--best"], "usage.best_minutes", "--minutes"),
    (["generate"], "usage.word_missing", "MODEL"),
    (["generate", "m", "--prompt"], "usage.value_missing", "--prompt"),
    (["generate", "m", "--count", "0"], "usage.count", "0"),
    (["show", "there-is-no-such-folder"], "folder.not_found", "there-is-no-such-folder"),
]


@pytest.mark.parametrize(("words", "code", "said"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_a_mistake_is_told_in_three_parts(words: list[str], code: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, out, err = ask(capsys, *words)
    assert exit_code == 2 and out == ""
    assert [line.split(":")[0] for line in err.strip().splitlines()] == ["What is wrong", "Expected", "What to do"]
    assert said in err
    exit_code, out, err = ask(capsys, *words, "--json")
    if words[0] in VERBS and words[-1] not in ("--steps", "--prompt"):  # there --json would be the flag's value, or another mistake
        told = json.loads(err)
        assert told["code"] == code and told["exit_code"] == exit_code == 2
        assert all(told[part] for part in ("what", "expected", "do"))


def test_words_become_arguments() -> None:
    arguments, named = parse("train", ["a", "b", "--learning-rate", "1e-3", "--force", "--core-seconds=30"])
    assert arguments == (Path("a"), Path("b"))
    assert named == {"learning_rate": 1e-3, "force": True, "core_seconds": 30.0}  # only what was given
    assert parse("generate", ["m", "--prompt", "a b", "--prompt=-c"])[1] == {"prompt": ["a b", "-c"]}
    assert parse("prepare", ["--", "-a", "b"])[0] == ("-a", Path("b"))


def test_training_flags_are_training_settings() -> None:
    import dataclasses
    import inspect

    from zhixing.cli.train import OURS, train
    from zhixing.training.settings import TrainSettings

    flags = set(inspect.signature(train).parameters) - set(OURS)
    assert flags <= {field.name for field in dataclasses.fields(TrainSettings)}


def test_preparing_flags_are_preparing_settings() -> None:
    import dataclasses
    import inspect

    from zhixing.cli.prepare import prepare
    from zhixing.preparation.prepare import Prepare

    flags = set(inspect.signature(prepare).parameters) - {"source", "out", "force", "json"}
    assert flags == {field.name for field in dataclasses.fields(Prepare)}


def test_examples_of_the_help_parse() -> None:
    import shlex

    from zhixing.core.messages import catalogue

    lines = [
        line for key, page in catalogue("en").items() if key.endswith(".example") for line in re.findall(r"^  zhixing (.*)", page, re.M)
    ]
    assert len(lines) >= len(VERBS)
    for line in lines:
        verb, *words = shlex.split(line)
        parse(verb, words)


def test_the_help_names_every_task_and_every_model() -> None:
    from zhixing.core.messages import catalogue
    from zhixing.models.catalog import MODELS
    from zhixing.preparation.settings import CHOICES
    from zhixing.tasks.task import TASKS, task_class

    counted = {name for task in TASKS for name in task_class(task).counted}
    inner = {"bag", "several", "graph", "session"}  # families that other names make, and what an export makes
    for language in ("en", "zh"):
        words = catalogue(language)
        models = set(re.findall(r"[a-z_0-9]+", words["help.train.model"]))
        assert not ({*MODELS, *counted} - inner) - models, language
        assert not {*CHOICES["task"]} - set(re.findall(r"[a-z_]+", words["help.prepare.task"])), language


def test_help_in_both_languages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(capsys)[:2] == ask(capsys, "--help")[:2]
    code, english, _ = ask(capsys, "train", "a", "--help", "--nonsense")
    assert code == 0 and "--learning-rate NUMBER" in english
    assert ask(capsys, "help", "train")[1] == english
    monkeypatch.setenv("ZHIXING_LANG", "zh")
    assert "学" not in english and "语料文件夹" in ask(capsys, "train", "--help")[1]
    assert "没有" in ask(capsys, "tran")[2]
    assert ask(capsys, "--version")[1].startswith("zhixing 0.")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_redrawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consoles, "text", lambda code, **values: f"{code} {values}")
    now = [0.0]
    err = Terminal()
    console = Console(err=err, out=io.StringIO(), clock=lambda: now[0])
    for step in range(5):
        now[0] = step
        console.tell("a.progress", step=step)
    console.tell("a.done")
    assert err.getvalue().count("\r") == 5 and err.getvalue().count("\n") == 2
    assert err.getvalue().endswith("story.a.done {}\n")


def test_progress_is_rare_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consoles, "text", lambda code, **values: f"{values}")
    now = [0.0]
    err = io.StringIO()
    console = Console(err=err, out=io.StringIO(), clock=lambda: now[0])
    for second in range(31):
        now[0] = second
        console.tell("a.progress", second=second)
    assert err.getvalue().splitlines() == ["{'second': 0}", "{'second': 10}", "{'second': 20}", "{'second': 30}"]


def test_answers_are_json_for_machines() -> None:
    out = io.StringIO()
    Console(True, out=out, err=io.StringIO()).answer("words", {"名": 1})
    assert out.getvalue() == '{"名": 1}\n'
    with pytest.raises(ValueError, match="JSON"):
        Console(True, out=out, err=io.StringIO()).answer("words", float("nan"))


def test_tables_line_up_in_both_languages() -> None:
    from rich.cells import cell_len

    lines = table([("模型", "bpb"), ("ngram", 1.73649), ("解码器", None), ("long name", 12.0)]).splitlines()
    assert lines[2].endswith("1.736") and len({cell_len(line) for line in lines if not line.startswith("解")}) == 1
    assert table([("a", "b"), ("x", 1234567)]).splitlines()[2] == "x  1,234,567"
    assert consoles.fit("中文字", 4) == "中文" and consoles.fit("abc", 4) == "abc"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a"), "run.disk_full"),
        (OSError(errno.EFBIG, "File too large"), "run.disk_full"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "run.denied"),
        (OSError(errno.EIO, "Input/output error", "a"), "run.system"),
        (MemoryError(), "run.memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "run.memory"),
    ],
)
def test_the_systems_errors_have_names(error: BaseException, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    # capsys has no file descriptor of its own to be silenced
    assert failure.report(error, as_json=True) == RunError.exit_code
    assert json.loads(capsys.readouterr().err)["code"] == code


def test_exit_codes() -> None:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        assert failure.report(KeyboardInterrupt()) == 130
        assert failure.report(Stopped(signal.SIGTERM)) == 143
        assert failure.report(Stopped(signal.SIGINT)) == 130
        assert failure.report(BrokenPipeError()) == 141
        assert failure.report(UsageError("output.exists", path="a")) == 2
        assert failure.report(DataError("folder.unfinished", path="a")) == 3
        assert failure.report(SystemExit(4)) == 4


def test_a_defect_says_so_and_hides_its_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: object) -> None:
        raise ZeroDivisionError("seven by nought")

    monkeypatch.setattr("zhixing.cli.app.run", fail)
    code, _, err = ask(capsys, "show", "a")
    assert code == 1 and "seven by nought" in err and "defect" in err and "Traceback" not in err
    monkeypatch.setenv("ZHIXING_DEBUG", "1")
    assert "Traceback" in ask(capsys, "show", "a")[2]


def test_an_error_without_words_is_still_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert failure.report(DataError("never.heard", row=7)) == 1
    assert "never.heard" in capsys.readouterr().err


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A sealed folder with two files, one of them in a working folder."""
    card = {"settings": {"seed": 3, "labels": list(range(20))}}
    with create(tmp_path / "corpus", "corpus", card) as folder:
        (folder / "train.jsonl").write_text('{"text": "一"}\n', encoding="utf-8")
        (folder / "cache").mkdir()
        (folder / "cache" / "a.bin").write_bytes(b"0")
    return tmp_path / "corpus"


def test_show_explains_a_folder(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ask(capsys, "show", str(corpus))
    assert code == 0 and "train.jsonl" in out and "settings.seed" in out and "... (20)" in out and "cache" in out
    assert "zhixing train" in err.splitlines()[-1]
    found = json.loads(ask(capsys, "show", str(corpus), "--json")[1])
    assert found["kind"] == "corpus" and found["verified"] and found["card"]["settings"]["seed"] == 3
    assert found["files"]["train.jsonl"] == 16 and "cache/a.bin" not in found["files"]


def test_show_explains_a_damaged_folder_and_refuses_it(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "train.jsonl").write_text('{"text": "二"}\n', encoding="utf-8")
    code, out, err = ask(capsys, "show", str(corpus))
    assert code == 3 and "corpus" in out and "train.jsonl" in err
    code, out, err = ask(capsys, "show", str(corpus), "--json")
    assert json.loads(out)["damage"]["code"] == json.loads(err)["code"] == "folder.file_damaged"


def test_show_gives_a_models_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with create(tmp_path / "model", "model", {"model": "ngram"}) as folder:
        (folder / "task.json").write_text('{"name": "language"}', encoding="utf-8")
    place = tmp_path / "model" / "evaluation" / "book-test"
    place.mkdir(parents=True)
    (place / "report.json").write_text('{"bpb": {"value": 1.73}}', encoding="utf-8")
    figure = {"name": "bits_per_byte", "value": 1.91, "low": 1.8, "high": 2.0}
    (place.parent / "book-test.json").write_text(json.dumps({"figures": [figure]}), encoding="utf-8")
    code, out, err = ask(capsys, "show", str(tmp_path / "model"))
    assert code == 0 and "1.73" in out and "1.91  " in out and "language" in out and "evaluate" in err


def child(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "zhixing", *words], text=True, **options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is not on this system")
def test_a_full_disk_under_stdout_is_told(corpus: Path) -> None:
    with open("/dev/full", "w") as full:
        done = child("show", str(corpus), stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and done.stderr.count("What is wrong") == 1 and "Exception ignored" not in done.stderr


def test_a_closed_pipe_is_quiet(corpus: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = child("show", str(corpus), stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert done.returncode == 141 and done.stderr == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_told_and_has_its_exit_code(tmp_path: Path, number: int, code: int) -> None:
    pipe = tmp_path / "prompts"
    os.mkfifo(pipe)
    words = [sys.executable, "-m", "zhixing", "generate", "model", "--prompts", str(pipe)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with open(pipe, "w"):  # opens when the child has opened it too: from here on the child waits for words
        for _ in range(30):
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a signal just before the child's read(2) is heard only after it
                out, err = process.communicate(timeout=2)
                break
    assert process.returncode == code and out == "" and "Stopped" in err and "Traceback" not in err


def test_prompts_come_from_flags_files_and_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zhixing.cli.generate import gather

    file = tmp_path / "prompts.txt"
    file.write_text("\ufeff春\n\n秋\n", encoding="utf-8")
    assert gather(["夏"], str(file)) == ["夏", "春", "秋"]
    assert gather(None, None) == [""]
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\nb"))
    assert gather(None, "-") == ["a", "b"]
    file.write_bytes(b"ok \xff")
    for source, code in ((str(file), "file.not_utf8"), (str(tmp_path / "none"), "file.missing"), (os.devnull, "file.no_prompts")):
        with pytest.raises(DataError) as caught:
            gather(None, source)
        assert caught.value.code == code


def test_a_lone_dash_keeps_its_place() -> None:
    assert parse("predict", ["m", "-", "out.jsonl"])[0] == (Path("m"), "-", Path("out.jsonl"))
    assert parse("predict", ["m", "-", "out.jsonl", "--force"])[0] == (Path("m"), "-", Path("out.jsonl"))
    assert join_dashes(["--prompt", "-", "m", "--seed", "3"]) == ["--prompt=-", "m", "--seed", "3"]
    assert join_dashes(["m", "-", "--seed", "3", "out", "--json"], ["--json"]) == ["--seed", "3", "--json", "--", "m", "-", "out"]
    assert join_dashes(["a", "--", "-", "--b"]) == ["--", "a", "-", "--b"]
