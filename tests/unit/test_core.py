"""Floor 0: errors in three parts and two languages, settings with origins, files and folders that appear whole, the diary, keys, stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from zhixing.core import files, folder
from zhixing.core.config import fingerprint, resolve
from zhixing.core.errors import DataError, RunError, ShapeError, UsageError, ZhixingError, nearest
from zhixing.core.log import RunLog
from zhixing.core.messages import catalogue, language, text
from zhixing.core.random import key
from zhixing.core.stop import Stop, Stopped


@dataclass(frozen=True)
class Shape:
    """A few settings of every sort."""

    width: int = 4
    rate: float = 0.5
    name: str = "plain"
    sizes: tuple[int, ...] = (1, 2)
    limit: int | None = None
    fast: bool = False


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A finished folder with two files, one of them in a folder inside."""
    with folder.create(tmp_path / "made", "corpus", {"task": "language"}) as building:
        files.write_text(building / "a.txt", "first")
        (building / "inner").mkdir()
        files.write_text(building / "inner" / "b.txt", "second")
    return tmp_path / "made"


# errors


@pytest.mark.parametrize("spoken", ["en", "zh"])
def test_an_error_has_three_parts_in_each_language_and_names_the_nearest(spoken: str) -> None:
    error = UsageError("settings.unknown", name="widht", among=["width", "rate"], origin="flag")
    parts = error.parts(spoken)
    assert list(parts) == ["what", "expected", "do"] and all(parts.values())
    assert "widht" in parts["what"] and "width" in error.text(spoken)
    chinese = any("一" <= letter <= "鿿" for letter in error.text(spoken))
    assert chinese == (spoken == "zh")


def test_no_hint_is_given_where_no_name_is_near() -> None:
    near = UsageError("settings.unknown", name="rat", among=["rate", "width"], origin="flag")
    joined = UsageError("settings.unknown", name="rat", among="rate, width", origin="flag")
    assert joined.text("en") == near.text("en"), "names that are one text already are not spelt letter by letter"
    far = UsageError("settings.unknown", name="zzzz", among=["rate", "width"], origin="flag")
    hint = text("word.nearest", "en", name="rate").strip()
    assert hint in near.text("en") and hint not in far.text("en")
    assert nearest("Rate", ["rate"]) == "rate" and nearest("zzzz", ["rate", "width"]) is None


def test_every_error_of_the_tree_has_its_exit_code() -> None:
    wanted = {UsageError: 2, DataError: 3, RunError: 1, ShapeError: 1}
    assert {cls: cls("file.missing", path="x").exit_code for cls in wanted} == wanted
    assert all(issubclass(cls, ZhixingError) for cls in wanted)
    told = DataError("file.missing", path="x.txt").as_dict("en")
    assert told["code"] == "file.missing" and told["exit_code"] == 3 and set(told) == {"code", "exit_code", "what", "expected", "do"}
    json.dumps(told)


def test_every_error_in_the_catalogue_has_its_three_parts() -> None:
    for spoken in ("en", "zh"):
        codes = {name.rsplit(".", 1)[0] for name in catalogue(spoken) if name.startswith("error.")}
        assert codes and all(f"{code}.{part}" in catalogue(spoken) for code in codes for part in ("what", "expected", "do"))


def test_a_value_that_a_message_needs_is_not_left_out() -> None:
    with pytest.raises(KeyError):
        DataError("file.missing").text("en")


def test_the_language_comes_from_our_variable_then_from_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ZHIXING_LANG", "zh")
    assert language() == "zh"
    monkeypatch.setenv("ZHIXING_LANG", "fr")
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert language() == "zh"
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    assert language() == "en"


# settings


def test_a_later_layer_wins_and_each_value_keeps_its_origin() -> None:
    layers = (("dial", {"width": 8, "rate": 1}), ("recipe", {"width": 16, "name": "deep"}), ("flag", {"width": 32, "name": None}))
    settled = resolve(Shape, *layers)
    assert settled.value == Shape(width=32, rate=1, name="deep")
    assert settled.origins == dict.fromkeys(["sizes", "limit", "fast"], "default") | {"width": "flag", "rate": "dial", "name": "recipe"}


def test_an_unknown_name_is_an_error_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(Shape, ("recipe", {"widht": 3}))
    assert caught.value.code == "settings.unknown" and "width" in str(caught.value) and "recipe" in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"width": value} for value in ("4", 4.0, True)),
        *({"rate": value} for value in ("1", False)),
        *({"name": 1}, {"sizes": 3}, {"limit": "x"}, {"fast": 1}),
    ],
)
def test_a_value_of_another_type_is_refused(wrong: dict) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(Shape, ("flag", wrong))
    assert caught.value.code == "settings.type" and caught.value.values["name"] == next(iter(wrong))


def test_lists_become_tuples_and_optional_values_pass() -> None:
    assert resolve(Shape, ("recipe", {"sizes": [3, 4], "limit": 7})).value == Shape(sizes=(3, 4), limit=7)


def test_a_fingerprint_depends_on_values_and_not_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
    assert fingerprint({"名": "值"}) == "b071ef49859b3b3a7bce6a02c5bd542db70783707b139825d307ee65bd3a60be"


# files


def test_an_atomic_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    with pytest.raises(RuntimeError), files.atomic(path) as handle:
        handle.write(b"half")
        assert path.read_bytes() == b"old"
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]
    with files.atomic(path) as handle:
        handle.write(b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.bin"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with files.atomic(path) as handle:
        handle.write(b"x" * 100_000)
        handle.flush()
        assert not path.exists()
    assert path.stat().st_size == 100_000


def test_json_is_written_readable_and_read_back(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"名": [1, 2.5, None]})
    assert files.read_json(tmp_path / "a.json") == {"名": [1, 2.5, None]}
    assert "名" in (tmp_path / "a.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    (tmp_path / "b.json").write_bytes(b"{\xff")
    for name, code in (("b.json", "file.not_json"), ("none.json", "file.missing")):
        with pytest.raises(DataError) as caught:
            files.read_json(tmp_path / name)
        assert caught.value.code == code and name in str(caught.value)


# folders


def test_a_folder_opens_as_it_was_sealed(sealed: Path) -> None:
    opened = folder.open_folder(sealed, "corpus")
    assert opened.card == {"format": folder.FORMAT, "kind": "corpus", "task": "language"}
    assert sorted(os.listdir(sealed.parent)) == ["made"]
    with pytest.raises(UsageError) as caught:
        folder.open_folder(sealed, "model")
    assert caught.value.code == "folder.wrong_kind"


def damage(path: Path, how: str) -> str:
    """Damage a sealed folder; give the code that must follow."""
    if how == "flip":
        content = bytearray((path / "inner" / "b.txt").read_bytes())
        content[2] ^= 1
        (path / "inner" / "b.txt").write_bytes(content)
        return "folder.file_damaged"
    if how == "miss":
        (path / "a.txt").unlink()
        return "folder.file_missing"
    if how == "add":
        (path / "inner" / "c.txt").write_text("x")
        return "folder.file_added"
    if how == "link":
        (path / "a.txt").rename(path.parent / "elsewhere.txt")
        (path / "a.txt").symlink_to(path.parent / "elsewhere.txt")
        return "folder.file_damaged"
    if how == "newer":
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps({**manifest, "format": folder.FORMAT + 1}))
        return "folder.newer"
    (path / "manifest.json").unlink()
    return "folder.unfinished"


@pytest.mark.parametrize("how", ["flip", "miss", "add", "link", "newer", "unfinished"])
def test_a_folder_that_is_not_as_sealed_is_refused_by_name(sealed: Path, how: str) -> None:
    code = damage(sealed, how)
    with pytest.raises(DataError) as caught:
        folder.open_folder(sealed)
    assert caught.value.code == code
    named = {"flip": "inner/b.txt", "miss": "a.txt", "add": "inner/c.txt", "link": "a.txt"}
    assert named.get(how, str(sealed)) in str(caught.value)


@pytest.mark.parametrize("where", ["evaluation", "checkpoints", "cache"])
def test_working_folders_may_grow(sealed: Path, where: str) -> None:
    (sealed / where).mkdir()
    (sealed / where / "x.json").write_text("{}")
    folder.open_folder(sealed)
    (sealed / "inner" / where).mkdir()  # but not anywhere
    (sealed / "inner" / where / "x.json").write_text("{}")
    with pytest.raises(DataError, match="inner"):
        folder.open_folder(sealed)


def test_a_sealed_folder_inside_another_may_still_be_evaluated(tmp_path: Path) -> None:
    with folder.create(tmp_path / "outer", "comparison", {}) as building:
        (building / "model").mkdir()
        folder.seal(building / "model", "model", {})
    (tmp_path / "outer" / "model" / "evaluation").mkdir()
    (tmp_path / "outer" / "model" / "evaluation" / "x.json").write_text("{}")
    folder.open_folder(tmp_path / "outer")
    folder.open_folder(tmp_path / "outer" / "model")
    (tmp_path / "outer" / "model" / "card.json").write_text("{}")
    with pytest.raises(DataError, match=r"model/card\.json"):
        folder.open_folder(tmp_path / "outer")


def test_what_a_kill_left_half_written_is_not_sealed(tmp_path: Path) -> None:
    (tmp_path / ".card.json.17.tmp").write_bytes(b"{")
    folder.seal(tmp_path, "model", {})
    assert sorted(os.listdir(tmp_path)) == ["card.json", "manifest.json"]


def test_a_folder_that_fails_leaves_nothing_and_keeps_what_stood_there(sealed: Path) -> None:
    with pytest.raises(RuntimeError), folder.create(sealed, "corpus", {}, force=True) as building:
        files.write_text(building / "a.txt", "other")
        raise RuntimeError
    assert os.listdir(sealed.parent) == ["made"] and (sealed / "a.txt").read_text() == "first"
    with folder.create(sealed, "corpus", {}, force=True) as building:
        files.write_text(building / "a.txt", "other")
    assert os.listdir(sealed.parent) == ["made"] and (sealed / "a.txt").read_text() == "other"


def test_an_output_never_overwrites_what_is_not_ours(sealed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        folder.check_new(sealed)
    assert caught.value.code == "output.exists"
    assert folder.check_new(sealed, force=True) == sealed
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    assert folder.check_new(theirs, force=True) == theirs
    (theirs / "photo.jpg").write_bytes(b"x")
    (tmp_path / "link").symlink_to(sealed)
    for path in (theirs, theirs / "photo.jpg", tmp_path / "link"):
        with pytest.raises(UsageError) as caught:
            folder.check_new(path, force=True)
        assert caught.value.code == "output.not_ours"
    with pytest.raises(UsageError) as caught:
        folder.check_new(theirs / "photo.jpg" / "model")
    assert caught.value.code == "output.parent_is_file"
    assert folder.check_new(tmp_path / "new" / "deeper") == tmp_path / "new" / "deeper"


def test_force_takes_nothing_for_ours_that_is_not(sealed: Path, tmp_path: Path) -> None:
    def foreign(path: Path) -> str:
        before = sorted(path.rglob("*"))
        with pytest.raises(UsageError) as caught:
            folder.check_new(path, force=True)
        assert caught.value.code == "output.not_ours" and sorted(path.rglob("*")) == before
        return caught.value.values["path"]

    for name, content in {"card.json": {"name": "Ada"}, "run.json": {"jobs": 3}}.items():
        (tmp_path / name.partition(".")[0]).mkdir()
        files.write_json(tmp_path / name.partition(".")[0] / name, content)
        assert foreign(tmp_path / name.partition(".")[0]) == str(tmp_path / name.partition(".")[0])
    (tmp_path / "card" / "card.json").write_text("[not JSON")
    assert foreign(tmp_path / "card") == str(tmp_path / "card")
    (sealed / "inner" / "thesis.txt").write_text("mine")  # put into a finished folder afterwards
    assert foreign(sealed) == str(sealed / "inner" / "thesis.txt")
    running = tmp_path / "running"
    (running / "checkpoints" / "0001").mkdir(parents=True)
    for name in ("run.jsonl", "tokenizer.json", ".model.safetensors.17.tmp", "checkpoints/0001/state.json"):
        (running / name).write_text("")
    files.write_json(running / "run.json", {"request": "abc"})
    assert folder.check_new(running, force=True) == running
    (running / "config.txt").write_text("mine")
    assert foreign(running) == str(running / "config.txt")


def test_force_still_replaces_a_folder_of_ours_that_is_damaged(sealed: Path) -> None:
    for name in ("card.json", "a.txt"):
        (sealed / name).write_text("{")
        assert folder.check_new(sealed, force=True) == sealed


def ended() -> int:
    """Give the number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_what_an_ended_process_left_is_cleared_away(tmp_path: Path) -> None:
    dead, alive = ended(), os.getppid()
    left = [tmp_path / f".a.{number}.building" for number in (dead, os.getpid(), alive)]
    others = [tmp_path / f".a.b.{dead}.building", tmp_path / ".a.notes.building"]
    for path in [*left, *others]:
        path.mkdir()
        (path / "half").write_text("")
    with folder.create(tmp_path / "a", "model", {}):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted(["a", left[2].name, *(each.name for each in others)])


KILLED = """
import os, signal, sys
from zhixing.core import folder
rename, seen = os.rename, []
def counted(old, new):
    rename(old, new)
    seen.append(new)
    if len(seen) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = counted
with folder.create(sys.argv[1], "corpus", {"task": "new"}, force=True):
    pass
"""


@pytest.mark.parametrize(("renames", "survives"), [(1, "language"), (2, "new"), (3, "new")])
def test_a_kill_between_the_renames_loses_no_folder(sealed: Path, renames: int, survives: str) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(sealed), str(renames)], check=False)
    assert killed.returncode == -signal.SIGKILL and sealed.exists() == (renames > 1)
    assert folder.open_folder(sealed).card["task"] == survives
    with pytest.raises(UsageError) as caught:
        folder.check_new(sealed)
    assert caught.value.code == "output.exists" and not list(sealed.parent.glob(".*.old"))
    with folder.create(sealed, "corpus", {"task": "newest"}, force=True):
        pass
    assert os.listdir(sealed.parent) == ["made"] and folder.open_folder(sealed).card["task"] == "newest"


def test_what_is_being_replaced_or_is_not_ours_is_not_put_back(tmp_path: Path) -> None:
    for number in (ended(), os.getppid()):
        (tmp_path / f".a.{number}.old").mkdir()
        (tmp_path / f".a.{number}.old" / "mine.txt").write_text("")
    before = sorted(os.listdir(tmp_path))
    folder.recover(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == before
    files.write_json(tmp_path / f".a.{os.getppid()}.old" / "run.json", {"request": "x"})
    folder.recover(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_place_is_held_by_one_process_until_it_ends(tmp_path: Path) -> None:
    out = tmp_path / "above" / "out"
    hold = "import sys; from zhixing.core.folder import locked\nwith locked(sys.argv[1]): print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"1\n"
        for _ in range(2):  # a refusal takes nothing away from the holder
            with pytest.raises(UsageError) as caught, folder.locked(out):
                pass
            assert caught.value.code == "output.busy" and str(out) in str(caught.value) and caught.value.text("zh")
        holder.kill()
    assert os.listdir(out.parent) == [".out.lock"]
    with folder.locked(out):  # a lock dies with its process, whatever file is left
        assert os.listdir(out.parent) == [".out.lock"]
        with pytest.raises(UsageError), folder.locked(out):
            pass
    assert os.listdir(out.parent) == []
    with pytest.raises(RuntimeError), folder.locked(tmp_path / "new" / "deep" / "out"):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["above"]


def test_replacing_puts_the_new_folder_in_place(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    folder.replace(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"] and (tmp_path / "old" / "which").read_text() == "new"


@pytest.mark.parametrize(
    ("make", "code"),
    [(lambda p: None, "folder.not_found"), (lambda p: p.write_text("x"), "folder.not_folder"), (lambda p: p.mkdir(), "folder.not_ours")],
)
def test_what_is_no_folder_of_ours_is_said_to_be_none(tmp_path: Path, make, code: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(UsageError) as caught:
        folder.open_folder(tmp_path / "x")
    assert caught.value.code == code


# the diary, keys, stops


def test_a_diary_that_is_opened_again_tells_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    log = RunLog(path)
    for step in range(1, 6):
        log.write(step=step, loss=0.5)
    log.close()
    with open(path, "a") as handle:
        handle.write('{"step": 2, "lo')  # a kill in the middle of a line
    log = RunLog(path, 3)
    log.write(step=4, loss=0.25)
    log.close()
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(each["step"], each["loss"]) for each in told] == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.25)]
    RunLog(path).close()
    assert path.read_text() == "" and os.listdir(tmp_path) == ["run.jsonl"]


def test_keys_are_frozen() -> None:
    # printf 'int:0\x1fstr:init' | b2sum -l 64, read as a little-endian number and halved
    assert key(0, "init") == 2718509303608613306
    assert key(7, "step", 3, 1) == 1958879246903616261
    assert key(1) != key("1") and key("a", "b") != key("ab") and 0 <= key("x") < 2**63


def test_a_stop_is_heard_once_and_then_raised_where_the_loop_asks() -> None:
    stop = Stop()
    stop.check()
    assert not stop
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop and stop.number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # a second one acts at once
        with pytest.raises(Stopped) as caught:
            stop.check()
        assert caught.value.number == signal.SIGTERM and not isinstance(caught.value, Exception)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_core_needs_nothing_but_the_standard_library() -> None:
    asked = "import sys; from zhixing.core import config, folder, log, random, stop; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "cyclopts", "rich"} & {name.split(".")[0] for name in loaded}
