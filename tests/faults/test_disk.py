"""Full disks, closed pipes and signals, met by real processes: an exit code, a message, nothing half-written, and the same words go on."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from zhixing.cli.app import main

PROGRAM = (sys.executable, "-m", "zhixing")
PATIENCE = 60.0  # seconds that anything here may take


def limit(size_bytes: int) -> Callable[[], None]:
    """Give what makes a child's files end at a size, as a full disk would."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


def call(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a verb in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([*PROGRAM, *map(str, words)], text=True, timeout=PATIENCE, check=False, **options)  # type: ignore[call-overload]


def full(done: subprocess.CompletedProcess[str]) -> bool:
    """Tell whether a process ended because nothing more could be written, and said so."""
    return done.returncode == 1 and "Nothing more can be written" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", ["show {k}/corpus", "generate {k}/ngram --max-tokens 5"])
def test_an_answer_that_cannot_be_written_is_told(words: str, kit: Path) -> None:
    with open("/dev/full", "w") as nowhere:
        done = call(*words.format(k=kit).split(), stdout=nowhere)
    assert full(done), done.stderr


def test_an_output_without_the_letters_is_told(kit: Path) -> None:
    done = call("generate", kit / "ngram", "--prompt", "船", "--max-tokens", 3, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1 and "ascii, has no '\\u8239'" in done.stderr and "PYTHONIOENCODING" in done.stderr


def test_prompts_come_through_a_pipe(kit: Path) -> None:
    for given, code, said in (("the old\n", 0, "Next"), ("", 3, "no prompts")):
        done = call("generate", kit / "ngram", "--prompts", "-", "--max-tokens", 3, input=given)
        assert done.returncode == code and said in done.stderr and done.stdout.startswith(given.strip()), done.stderr


def test_a_corpus_that_does_not_fit_leaves_nothing(kit: Path, tmp_path: Path, snapshot: Callable[..., dict[str, str]]) -> None:
    done = call("prepare", kit / "text.txt", tmp_path / "new" / "out", preexec_fn=limit(1000))
    assert full(done) and snapshot(tmp_path) == {}, done.stderr


@pytest.mark.parametrize(
    ("model", "extra", "size_bytes"),
    [("ngram", "--order 3", 4000), ("qwen3", "--recipe {k}/short.toml --steps 5 --window 16 --batch 2", 9000)],
    ids=["counted", "neural"],
)
def test_a_model_that_does_not_fit_goes_on_later(model: str, extra: str, size_bytes: int, kit: Path, tmp_path: Path) -> None:
    words = ("train", kit / "corpus", tmp_path / "out", "--model", model, *extra.format(k=kit).split())
    done = call(*words, preexec_fn=limit(size_bytes))
    assert full(done), done.stderr
    assert [each.name for each in tmp_path.iterdir()] in ([], ["out"])
    assert not any(each.name.endswith((".tmp", ".building")) for each in tmp_path.rglob("*"))
    if (tmp_path / "out").exists():  # an unfinished run: refused by every other verb, continued by the same words
        assert main(["show", str(tmp_path / "out")]) == 2
    assert main([str(word) for word in words]) == 0
    made = "ngram" if model == "ngram" else "neural"
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (kit / made / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, kit: Path, write_rows: Callable[..., Path]) -> tuple[Path, bytes]:
    """A table of many rows, and its answers from a run that nothing interrupted."""
    place = tmp_path_factory.mktemp("many")
    rows = write_rows(place / "many.csv", 30_000)
    assert main(["predict", str(kit / "classifier"), str(rows), str(place / "whole.csv")]) == 0
    return rows, (place / "whole.csv").read_bytes()


def test_answers_that_do_not_fit_go_on_where_they_stopped(
    many: tuple[Path, bytes], kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, whole = many
    done = call("predict", kit / "classifier", rows, tmp_path / "out.csv", preexec_fn=limit(300_000))
    assert full(done), done.stderr
    assert not (tmp_path / "out.csv").exists() and (tmp_path / ".out.csv.partial").exists()
    assert main(["predict", str(kit / "classifier"), str(rows), str(tmp_path / "out.csv")]) == 0
    assert "Continuing after" in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_bytes() == whole
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]


def test_the_first_answers_that_do_not_fit_leave_nothing(kit: Path, tmp_path: Path, snapshot: Callable[..., dict[str, str]]) -> None:
    done = call("predict", kit / "classifier", kit / "rows.csv", tmp_path / "out.csv", preexec_fn=limit(100))
    assert full(done) and snapshot(tmp_path) == {}, done.stderr


def test_a_closed_pipe_ends_quietly(kit: Path) -> None:
    words = ("generate", str(kit / "ngram"), "--max-tokens", "100000", "--count", "50")
    process = subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(PATIENCE) == 141
    assert b"Traceback" not in process.stderr.read() and process.stderr.close() is None


def stop(words: list[str], number: int, ready: Callable[[], bool]) -> tuple[int, str]:
    """Start a verb, signal it as soon as something is so, and give its exit code and story."""
    process = subprocess.Popen([*PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + PATIENCE
    while not ready() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_prepare_leaves_nothing(number: int, code: int, many: tuple[Path, bytes], tmp_path: Path) -> None:
    words = ["prepare", str(many[0]), str(tmp_path / "new" / "out"), "--text", "review", "--label", "stars"]
    found, said = stop(words, number, lambda: (tmp_path / "new").exists())  # the second pass: a folder is being built
    assert found == code and "Stopped" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_prediction_goes_on_and_ends_the_same(
    number: int, code: int, many: tuple[Path, bytes], kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(kit / "classifier"), str(many[0]), str(tmp_path / "out.csv")]
    found, said = stop(words, number, lambda: (tmp_path / ".out.csv.partial.json").exists())
    assert found == code and "Stopped" in said and "Traceback" not in said
    assert sorted(each.name for each in tmp_path.iterdir()) == [".out.csv.partial", ".out.csv.partial.json"]
    capsys.readouterr()
    assert main(words) == 0 and "Continuing after" in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_bytes() == many[1] and [each.name for each in tmp_path.iterdir()] == ["out.csv"]


def test_a_partial_prediction_of_another_input_is_not_continued(many: tuple[Path, bytes], kit: Path, tmp_path: Path) -> None:
    words = ["predict", str(kit / "classifier"), str(many[0]), str(tmp_path / "out.csv")]
    assert stop(words, signal.SIGTERM, lambda: (tmp_path / ".out.csv.partial.json").exists())[0] == 143
    shutil.copyfile(kit / "rows.csv", tmp_path / "rows.csv")
    for name in ("out.csv", "fresh.csv"):
        assert main(["predict", str(kit / "classifier"), str(tmp_path / "rows.csv"), str(tmp_path / name)]) == 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "fresh.csv").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["fresh.csv", "out.csv", "rows.csv"]


def test_an_interrupted_training_saves_and_goes_on(kit: Path, tmp_path: Path) -> None:
    words = f"train {kit}/corpus {{}} --model qwen3 --recipe {kit}/short.toml --steps 150 --window 16 --batch 2".split()
    there, diary = tmp_path / "out", tmp_path / "out" / "run.jsonl"
    begun = lambda: diary.exists() and diary.read_bytes().count(b"\n") > 5  # noqa: E731 - a question, asked again and again
    found, said = stop([word.format(there) for word in words], signal.SIGINT, begun)
    assert found == 130 and "Stopped" in said and "Traceback" not in said
    assert main(["evaluate", str(there), str(kit / "corpus")]) == 2 and not (there / "manifest.json").exists()
    for name in ("out", "whole"):
        assert main([word.format(tmp_path / name) for word in words]) == 0
    assert (there / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
