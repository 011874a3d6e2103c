"""Evaluation: every figure against a slow, independent computation; the split that was asked for; rivals that never saw what is scored."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as theirs

from zhixing.cli.evaluate import page
from zhixing.core.errors import DataError, UsageError, ZhixingError
from zhixing.core.files import sha256
from zhixing.core.folder import MANIFEST
from zhixing.data.corpus import Corpus, open_corpus
from zhixing.evaluation.evaluate import evaluate, score_text, token_bytes
from zhixing.evaluation.report import Figure, Report, decide
from zhixing.layers.kinds import Inputs
from zhixing.metrics import text as metric_text
from zhixing.models.bag import Bag
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.tasks.artefact import Artefact, load
from zhixing.tasks.task import task_class
from zhixing.tokens.tokenizer import train_characters
from zhixing.training import counted
from zhixing.training.train import train

EASY = "the river carries boats past stones and 小船 沿 河 而下 石头 不语".split()
HARD = "quartz jumbled vexing fjord 鹤 唳 风声 草木".split()


def sentences(words: list[str], lines: int, seed: int) -> list[str]:
    """Make lines of seeded random words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=7)) for _ in range(lines)]


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Make labelled rows that words tell apart, but not always."""
    draw = random.Random(seed)
    signs = {"good": ["fine", "lovely", "great"], "bad": ["poor", "broken", "awful"], "odd": ["purple", "sideways"]}
    made = []
    for number in range(count):
        label = draw.choice(sorted(signs))
        shown = draw.choice(sorted(signs)) if draw.random() < 0.2 else label
        made.append({"text": f"{' '.join(draw.choices(signs[shown] + EASY, k=6))} {number}", "label": label})
    return made


def write_jsonl(path: Path, values: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two corpora and a few models."""
    top = tmp_path_factory.mktemp("evaluate")
    (top / "text.txt").write_text("\n".join(sentences(EASY, 200, 1)), encoding="utf-8")
    prepare(top / "text.txt", top / "text", Prepare(unit="line", validation=0.1, test=0.2, repeats="keep"))
    write_jsonl(top / "rows.jsonl", rows(400, 2))
    prepare(top / "rows.jsonl", top / "rows", Prepare(validation=0.2, test=0.3))
    tiny = {"size": "tiny", "batch": 4, "window": 32, "precision": "fp32", "threads": 1}
    train(top / "text", top / "ngram", {"model": "ngram"})
    train(top / "text", top / "qwen3", {**tiny, "model": "qwen3", "steps": 30, "layers": 1, "width": 32, "heads": 2, "groups": 1})
    train(top / "text", top / "lstm", {**tiny, "model": "lstm", "steps": 30, "width": 32, "embedding": 16})
    train(top / "rows", top / "logistic", {"model": "logistic"})
    return top


def documents(corpus: Corpus, tokenizer, split: str) -> list[int]:
    """Lay a split out as tokens, by hand."""
    tokens = [tokenizer.end_id]
    for example in corpus.examples(split):
        tokens += [*map(int, tokenizer.encode(example["text"])), tokenizer.end_id]
    return tokens


@torch.no_grad()
def slow_nats(artefact: Artefact, tokens: list[int]) -> float:
    """Score a text token by token, each from its whole context (or as much of it as evaluation's own windows show)."""
    model, total = artefact.model, 0.0
    window = getattr(model, "window", None)
    for place in range(1, len(tokens)):
        start = 0
        if window is not None and place > window:  # windows of W that move on by W / 2; the last one ends with the text
            first = window + (place - 1 - window) // (window // 2) * (window // 2)
            start = min(first + window // 2, len(tokens) - 1) - window
        context = torch.tensor([tokens[start:place]])
        if hasattr(model, "states"):
            logs = model.logits(model.states(Inputs(context))[:, -1]).log_softmax(-1)
        else:
            logs = model.log_probabilities(Inputs(context))
        total -= float(logs[0, tokens[place]])
    return total


@pytest.mark.parametrize("name", ["ngram", "qwen3", "lstm"])
def test_bits_per_byte_equal_an_independent_slow_computation(place: Path, name: str) -> None:
    artefact, corpus = load(place / name), open_corpus(place / "text")
    report = evaluate(artefact, corpus.path, rivals=False, save=False, samples=0)
    texts = [example["text"] for example in corpus.examples("test")]
    nats = slow_nats(artefact, documents(corpus, artefact.tokenizer, "test"))
    size_bytes = sum(len(text.encode("utf-8")) for text in texts)
    tokens = sum(len(text) + 1 for text in texts)
    assert report.details == {"tokens": tokens, "bytes": size_bytes, "documents": len(texts), "units": len(texts)}
    assert report.figure("bits_per_byte").value == pytest.approx(nats / math.log(2) / size_bytes, rel=1e-5)
    assert report.figure("nats_per_token").value == pytest.approx(nats / tokens, rel=1e-5)
    assert report.figure("perplexity").value == pytest.approx(math.exp(nats / tokens), rel=1e-5)


def test_every_byte_counts_exactly_once(place: Path) -> None:
    artefact, corpus = load(place / "ngram"), open_corpus(place / "text")
    found = score_text(artefact.model, artefact.tokenizer, corpus, "test")
    assert found.sizes.sum() == found.size_bytes == corpus.size_bytes("test")
    assert found.bits.sum() == pytest.approx(-found.logs.sum() / math.log(2))
    assert token_bytes(artefact.tokenizer, artefact.tokenizer.encode("河 ok")).sum() == len("河 ok".encode())

    class Forgetful:
        """A tokenizer that drops what it does not like: fewer bytes, lower bits."""

        def __init__(self, inner) -> None:
            self.inner, self.hash = inner, "f" * 64

        def __getattr__(self, name: str):
            return getattr(self.inner, name)

        def encode_batch(self, texts):
            return self.inner.encode_batch([text.replace("石", "") for text in texts])

    with pytest.raises(DataError) as caught:
        score_text(artefact.model, Forgetful(artefact.tokenizer), corpus, "test")
    assert caught.value.code == "evaluate.bytes" and caught.value.values["counted"] < caught.value.values["wanted"]


@pytest.mark.parametrize("name", ["ngram", "qwen3", "lstm"])
def test_a_model_is_not_scored_with_another_vocabulary(place: Path, name: str) -> None:
    other = train_characters(sentences([*EASY, *HARD, "0123456789", "àéîõü"], 50, 4))
    artefact = load(place / name)
    assert other.vocabulary_size != artefact.tokenizer.vocabulary_size
    with pytest.raises((ZhixingError, IndexError)):
        score_text(artefact.model, other, open_corpus(place / "text"), "test")


def test_the_unigram_rival_equals_a_hand_count(place: Path) -> None:
    artefact, corpus = load(place / "qwen3"), open_corpus(place / "text")
    report = evaluate(artefact, corpus.path, save=False)
    vocabulary, end = artefact.tokenizer.vocabulary_size, artefact.tokenizer.end_id
    seen = documents(corpus, artefact.tokenizer, "train")[1:] + documents(corpus, artefact.tokenizer, "validation")[1:]
    counts = Counter(seen)
    # One order of interpolated Kneser-Ney: counts less a discount by how often they occur, the rest shared out evenly.
    n = [sum(1 for count in counts.values() if count == k) for k in range(5)]
    y = n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else None
    if y is None or not (n[3] and n[4]):
        discounts = (0.5, 1.0, 1.5)  # Heafield's, where counts of counts are missing
    else:
        discounts = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
    taken = {token: discounts[min(count, 3) - 1] for token, count in counts.items()}
    left = sum(taken.values())
    bits = 0.0
    test = documents(corpus, artefact.tokenizer, "test")[1:]
    assert end in test
    for token in test:
        bits -= math.log2((counts[token] - taken.get(token, 0.0) + left / vocabulary) / len(seen))
    assert report.figure("bits_per_byte").rivals["unigram"] == pytest.approx(bits / corpus.size_bytes("test"), rel=1e-6)
    assert any(name.startswith("kneser_ney") for name in report.comparisons)


def test_label_figures_equal_scikit_learns(place: Path) -> None:
    artefact, corpus = load(place / "logistic"), open_corpus(place / "rows")
    report = evaluate(artefact, corpus.path, save=False)
    examples = list(corpus.examples("test"))
    p = artefact.model.probabilities([each["text"] for each in examples])
    logs = np.log(p) / artefact.task.temperature
    p = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))
    truth = [each["label"] for each in examples]
    said = [artefact.task.labels[row] for row in p.argmax(1)]
    assert report.figure("accuracy").value == pytest.approx(theirs.accuracy_score(truth, said), abs=1e-12)
    assert report.figure("macro_f1").value == pytest.approx(theirs.f1_score(truth, said, average="macro"), abs=1e-12)
    assert report.figure("nats").value == pytest.approx(theirs.log_loss(truth, p, labels=artefact.task.labels), abs=1e-9)
    assert 0.5 < report.figure("accuracy").value < 1
    most = Counter(each["label"] for split in ("train", "validation") for each in corpus.examples(split)).most_common(1)[0][0]
    assert report.figure("accuracy").rivals["majority"] == pytest.approx(truth.count(most) / len(truth))


@pytest.mark.parametrize(("name", "corpus"), [("ngram", "text"), ("qwen3", "text"), ("logistic", "rows")])
def test_intervals_contain_the_value_and_pairs_explain_the_gap(place: Path, name: str, corpus: str) -> None:
    report = evaluate(place / name, place / corpus, save=False)
    first = report.figures[0]
    for figure in report.figures:
        assert figure.low is None or figure.low <= figure.value <= figure.high, figure.name
    assert first.low < first.value < first.high
    for rival, gap in report.comparisons.items():
        assert gap["value"] == pytest.approx(first.value - first.rivals[rival], abs=1e-9)
        assert gap["low"] <= gap["value"] <= gap["high"] and 0 < gap["p"] <= 1
    assert report.table()[0][:3] == ("figure", "value", "95 % interval") and len(report.table()) == len(report.figures) + 1


def gaps(**ends: tuple[float, float]) -> dict[str, dict[str, float]]:
    """Make comparisons: the model's figure minus each rival's."""
    return {name: {"value": (low + high) / 2, "low": low, "high": high, "p": 0.5} for name, (low, high) in ends.items()}


@pytest.mark.parametrize(
    ("higher", "ends", "wanted"),
    [
        (True, {"a": (0.1, 0.2)}, "model"),
        (True, {"a": (-0.2, -0.1)}, "a"),
        (True, {"a": (-0.1, 0.2)}, "tie"),
        (False, {"a": (0.1, 0.2)}, "a"),
        (False, {"a": (-0.2, -0.1)}, "model"),
        (False, {"a": (-0.1, 0.2)}, "tie"),
        (False, {"a": (0.1, 0.2), "b": (0.3, 0.4)}, "b"),
        (True, {"b": (-0.4, -0.3), "a": (-0.2, -0.1)}, "b"),
        (True, {"a": (-0.1, 0.1), "b": (-0.4, -0.3)}, "b"),
        (True, {"b": (-0.4, -0.3), "a": (-0.1, 0.1)}, "b"),
        (True, {"a": (0.1, 0.2), "b": (0.3, 0.4)}, "model"),
        (True, {"a": (0.1, 0.2), "b": (-0.1, 0.2)}, "tie"),
    ],
)
def test_the_verdict(higher: bool, ends: dict, wanted: str) -> None:
    assert decide(gaps(**ends), higher) == wanted


def test_a_report_is_written_beside_the_model_and_leaves_it_whole(place: Path) -> None:
    report = evaluate(place / "ngram", place / "text")
    saved = list((place / "ngram" / "evaluation").glob("text-test-*.json"))
    assert len(saved) == 1 and json.loads(saved[0].read_text()) == json.loads(json.dumps(report.to_dict()))
    assert isinstance(report, Report) and isinstance(report.figure("perplexity"), Figure)
    load(place / "ngram")


def test_a_model_of_another_task_and_an_unknown_label_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        evaluate(place / "logistic", place / "text")
    assert caught.value.code == "evaluate.other_task"
    write_jsonl(tmp_path / "rows.jsonl", [{"text": f"unheard of {n}", "label": ("new", "strange")[n % 2]} for n in range(60)])
    prepare(tmp_path / "rows.jsonl", tmp_path / "rows", Prepare(test=0.5))
    with pytest.raises(DataError) as caught:
        evaluate(place / "logistic", tmp_path / "rows")
    assert caught.value.code == "task.label_unseen" and "new" in str(caught.value)
    with pytest.raises(UsageError, match="test"):
        evaluate(place / "ngram", place / "text", split="tset")


# The split that was asked for is the split that is read.


@pytest.fixture(scope="module")
def different(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose test is not like its train, and a model of it."""
    top = tmp_path_factory.mktemp("different")
    for name, words, lines, seed in (("train", EASY, 150, 1), ("validation", EASY, 40, 2), ("test", HARD, 40, 3)):
        (top / f"{name}.txt").write_text("\n".join(sentences(words, lines, seed)), encoding="utf-8")
    official = {"validation_source": str(top / "validation.txt"), "test_source": str(top / "test.txt")}
    prepare(top / "train.txt", top / "corpus", Prepare(unit="line", **official))
    train(top / "corpus", top / "model", {"model": "ngram", "order": 2})
    return top


def check_that_test_is_read(top: Path) -> None:
    """The model knows nothing of the test's words: only a wrong split could look easy."""
    value = evaluate(top / "model", top / "corpus", split="test", rivals=False, save=False)
    easy = evaluate(top / "model", top / "corpus", split="train", rivals=False, save=False)
    held = evaluate(top / "model", top / "corpus", split="validation", rivals=False, save=False)
    assert value.figures[0].value > 2 * easy.figures[0].value, "the test split was not read"
    assert value.details["bytes"] == len("".join(sentences(HARD, 40, 3)).encode("utf-8"))
    assert held.details["bytes"] == len("".join(sentences(EASY, 40, 2)).encode("utf-8")), "the validation split was not read"


def test_evaluation_reads_the_split_that_was_asked_for(different: Path) -> None:
    check_that_test_is_read(different)


@pytest.mark.parametrize("always", ["train", "validation"])
def test_a_swapped_split_turns_that_test_red(different: Path, monkeypatch: pytest.MonkeyPatch, always: str) -> None:
    from zhixing.evaluation import evaluate as module

    honest = module.score_text
    monkeypatch.setattr(module, "score_text", lambda model, tokenizer, corpus, _, *more: honest(model, tokenizer, corpus, always, *more))
    with pytest.raises(AssertionError, match="was not read"):
        check_that_test_is_read(different)


def test_rivals_do_not_learn_what_they_are_scored_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[list[str]]] = {}
    honest = Bag.fit.__func__

    def noting(cls, texts, *rest):
        seen.setdefault(split, []).append(list(texts))
        return honest(cls, texts, *rest)

    monkeypatch.setattr(Bag, "fit", classmethod(noting))
    corpus = open_corpus(place / "rows")
    held = {each["text"] for each in corpus.examples("validation")}
    for split in ("test", "validation"):
        evaluate(place / "logistic", place / "rows", split=split, save=False)
    assert not held & set(seen["validation"][0]) and held <= set(seen["test"][0])
    text = open_corpus(place / "text")
    model = load(place / "qwen3")
    rival = evaluate(model, text.path, split="validation", save=False).figures[0].rivals["unigram"]
    alone = counted.NGram.count(
        np.array(documents(text, model.tokenizer, "train")), model.tokenizer.vocabulary_size, 1, model.tokenizer.end_id
    )
    nats = -alone.score(np.array(documents(text, model.tokenizer, "validation"))).sum()
    assert rival == pytest.approx(nats / math.log(2) / text.size_bytes("validation"))


def test_validation_is_never_fitted_without_refit(place: Path) -> None:
    """Validation with its labels turned round gives the same model without refit, and another with it."""
    corpus = open_corpus(place / "rows")
    task = task_class("classify").fit(corpus.examples("train"))

    class Turned:
        """The same corpus with other labels on validation."""

        counts = corpus.counts

        def examples(self, split):
            for each in corpus.examples(split):
                yield {**each, "label": task.labels[task.labels.index(each["label"]) - 1]} if split == "validation" else each

    def fit(source, refit: bool) -> np.ndarray:
        return counted.fit_rows(source, task, "logistic", {"strength": 0.25, "refit": refit}, lambda *a, **k: None)[1].weights

    assert np.array_equal(fit(corpus, False), fit(Turned(), False))
    assert fit(corpus, True).shape != fit(Turned(), True).shape or not np.array_equal(fit(corpus, True), fit(Turned(), True))


# Nobody is declared better where the figures are no evidence.


def doubtful(report: Report, verdict: str, loud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict stands, in both languages, and declares nobody better."""
    assert report.verdict == verdict and report.figures[0].value is not None
    for language, words in (("en", loud), ("zh", "不判高下")):
        monkeypatch.setenv("ZHIXING_LANG", language)
        said = page(report)
        assert words in said and "is better than" not in said and "胜过" not in said


@pytest.mark.parametrize(
    ("name", "corpus", "split", "seen"),
    [
        ("ngram", "text", "validation", True),
        ("ngram", "text", "test", False),
        ("qwen3", "text", "train", True),
        ("logistic", "rows", "validation", True),
    ],
)
def test_a_split_that_the_model_was_fitted_on_is_no_evidence(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, corpus: str, split: str, seen: bool
) -> None:
    report = evaluate(place / name, place / corpus, split=split, save=False)
    assert (report.verdict == "seen") == seen and report.comparisons and "overlap" not in report.details
    assert all(gap["value"] is not None for gap in report.comparisons.values())
    if seen:
        doubtful(report, "seen", "NOT EVIDENCE", monkeypatch)


def test_a_split_that_a_trained_model_was_chosen_on_is_no_evidence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = evaluate(place / "qwen3", place / "text", split="validation", save=False)
    assert report.comparisons and "overlap" not in report.details
    doubtful(report, "chosen", "NOT EVIDENCE: the model was chosen on this very split", monkeypatch)


def test_texts_of_the_training_corpus_in_another_one_are_counted(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned = open_corpus(place / "rows")
    known = [next(learned.examples("train")), next(learned.examples("validation"))]
    fresh = [{**each, "text": f"new {each['text']}"} for each in rows(60, 12)]
    for name, test in (("mixed", [*fresh, *known, next(learned.examples("test"))]), ("clean", fresh)):
        write_jsonl(tmp_path / f"{name}.jsonl", test)
        write_jsonl(tmp_path / "train.jsonl", rows(80, 13))
        official = Prepare(validation=0.2, test_source=str(tmp_path / f"{name}.jsonl"))
        prepare(tmp_path / "train.jsonl", tmp_path / name, official)
    report = evaluate(place / "logistic", tmp_path / "mixed", save=False)
    assert report.examples == 63 and report.details["overlap"] == 2, "what stood in the other test split was not learned"
    doubtful(report, "overlap", "2 of the 63 scored texts", monkeypatch)
    clean = evaluate(place / "logistic", tmp_path / "clean", save=False)
    assert clean.details["overlap"] == 0 and clean.verdict not in ("seen", "overlap")

    artefact = load(place / "logistic")
    other = sha256(tmp_path / "clean" / MANIFEST)
    for change in ({"path": str(tmp_path / "gone")}, {"path": str(tmp_path / "clean")}, {"manifest_sha256": other}):
        origin = {**artefact.folder.card["corpus"], **change}
        card = {**artefact.folder.card, "corpus": origin}
        moved = dataclasses.replace(artefact, folder=dataclasses.replace(artefact.folder, card=card))
        report = evaluate(moved, tmp_path / "mixed", rivals=False, save=False)
        assert report.details["overlap"] is None and "COULD NOT BE CHECKED" in english(report, monkeypatch)
    assert "COULD NOT BE CHECKED" not in english(clean, monkeypatch)


def english(report: Report, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a report's page in English."""
    monkeypatch.setenv("ZHIXING_LANG", "en")
    return page(report)


def test_a_corpus_prepared_anew_with_the_same_texts_overlaps(place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "text.txt", tmp_path / "text.txt")
    prepare(tmp_path / "text.txt", tmp_path / "again", Prepare(unit="line", validation=0.1, test=0.3, repeats="keep"))
    report = evaluate(place / "ngram", tmp_path / "again", rivals=False, save=False)
    learned = {each["text"] for split in ("train", "validation") for each in open_corpus(place / "text").examples(split)}
    tested = [each["text"] for each in open_corpus(tmp_path / "again").examples("test")]
    assert report.details["overlap"] == sum(text in learned for text in tested) > 0 and report.verdict == "overlap"


def test_few_units_have_no_interval_no_p_and_no_winner(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for count, few in ((19, True), (20, False)):
        write_jsonl(tmp_path / "test.jsonl", [{**each, "text": f"few {each['text']}"} for each in rows(count, 21)])
        write_jsonl(tmp_path / "train.jsonl", rows(80, 22))
        prepare(tmp_path / "train.jsonl", tmp_path / f"rows{count}", Prepare(validation=0.2, test_source=str(tmp_path / "test.jsonl")))
        report = evaluate(place / "logistic", tmp_path / f"rows{count}", save=False)
        assert report.examples == count and (report.verdict == "few") == few
        ends = [report.figures[0].low, *(gap[name] for gap in report.comparisons.values() for name in ("low", "high", "p"))]
        assert len(ends) > 1 and [each is None for each in ends] == [few] * len(ends)
        if few:
            assert all(each.low is None and each.high is None for each in report.figures)
            doubtful(report, "few", "19 units", monkeypatch)


@pytest.mark.parametrize(("words", "wanted"), [(40, "few"), (600, None)])
def test_one_long_text_is_cut_into_enough_stretches(tmp_path: Path, place: Path, words: int, wanted: str | None) -> None:
    for name, count, seed in (("train", 800, 1), ("validation", 100, 2), ("test", words, 3)):
        (tmp_path / f"{name}.txt").write_text(" ".join(random.Random(seed).choices(EASY, k=count)), encoding="utf-8")
    official = {"validation_source": str(tmp_path / "validation.txt"), "test_source": str(tmp_path / "test.txt")}
    prepare(tmp_path / "train.txt", tmp_path / "corpus", Prepare(unit="file", **official))
    report = evaluate(place / "ngram", tmp_path / "corpus", rivals=False, save=False)
    assert report.details["documents"] == 1
    if wanted:
        assert report.verdict == wanted and report.details["units"] < 20 and report.figures[0].low is None
    else:
        assert 30 * 64 <= report.details["tokens"] < 30 * 512, "stretches of 512 would be too few"
        assert report.details["units"] >= 30 and report.figures[0].low is not None


def test_stretches_stay_as_long_as_they_can_be() -> None:
    for count in (64 * 30, 64 * 30 + 1, 5000, 511 * 30 + 29, 512 * 30, 10**6):
        length = metric_text.stretch_length(count, 30, 64, 512)
        assert 64 <= length <= 512 and len(metric_text.stretches(count, length)) >= 30
    assert metric_text.stretch_length(10**6, 30, 64, 512) == 512 and metric_text.stretch_length(100, 30, 64, 512) == 64


def test_thresholds_of_validation_are_scored_apart_from_the_best_ones(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = load(place / "logistic")
    answers = list(
        artefact.task.answers(artefact.model, [{"text": each["text"]} for each in open_corpus(place / "rows").examples("test")], None)
    )
    confidence = np.array([each.confidence for each in answers])
    right = np.array([a.value == e["label"] for a, e in zip(answers, open_corpus(place / "rows").examples("test"), strict=True)])
    many, few = (float(np.sort(confidence)[-count]) for count in (40, 5))
    task = dataclasses.replace(artefact.task, thresholds={"0.95": many, "0.98": few, "0.99": None})
    report = evaluate(dataclasses.replace(artefact, task=task), place / "rows", rivals=False, save=False)
    answered, precision = report.figure("answered_95"), report.figure("precision_95")
    assert answered.value == np.mean(confidence >= many) and precision.value == right[confidence >= many].mean()
    assert answered.low < answered.value < answered.high and precision.low <= precision.value <= precision.high
    assert report.figure("precision_98").value == right[confidence >= few].mean() and report.figure("precision_98").low is None
    assert report.figure("answered_99") == Figure("answered_99", 0.0) and report.figure("precision_99").value is None
    names = [each.name for each in report.figures]
    place_of = names.index("coverage_98")
    assert names[place_of : place_of + 3] == ["coverage_98", "answered_98", "precision_98"]
    said = english(report, monkeypatch)
    assert said.index("coverage_98") < said.index("answered_98") < said.index("precision_98") and "chosen on validation" in said
    json.dumps(report.to_dict(), allow_nan=False)
    bare = dataclasses.replace(artefact, task=dataclasses.replace(task, thresholds={}))
    assert not any(each.name.startswith("answered") for each in evaluate(bare, place / "rows", rivals=False, save=False).figures)


def test_labels_never_seen_count_as_wrong(place: Path, tmp_path: Path) -> None:
    strange = [{"text": f"unheard of {n}", "label": ("new", "rare")[n % 3 == 0]} for n in range(12)]
    write_jsonl(tmp_path / "test.jsonl", [*({**each, "text": f"fresh {each['text']}"} for each in rows(60, 31)), *strange])
    write_jsonl(tmp_path / "train.jsonl", rows(80, 32))
    prepare(tmp_path / "train.jsonl", tmp_path / "corpus", Prepare(validation=0.2, test_source=str(tmp_path / "test.jsonl")))
    told: dict[str, dict] = {}
    report = evaluate(place / "logistic", tmp_path / "corpus", save=False, tell=lambda code, **values: told.update({code: values}))
    assert report.details["unseen_labels"] == {"new": 8, "rare": 4} and report.examples == 72
    assert told["evaluate.unseen"] == {"rows": 12, "of": 72, "labels": "new, rare"}
    artefact, examples = load(place / "logistic"), list(open_corpus(tmp_path / "corpus").examples("test"))
    said = [each.value for each in artefact.task.answers(artefact.model, [{"text": each["text"]} for each in examples], None)]
    truth = ["unseen" if each["label"] in ("new", "rare") else each["label"] for each in examples]
    assert (
        report.figure("accuracy").value == pytest.approx(theirs.accuracy_score(truth, said)) and report.figure("accuracy").value <= 60 / 72
    )
    assert report.figure("macro_f1").value == pytest.approx(theirs.f1_score(truth, said, average="macro"))
    assert all(np.isfinite(each.value) for each in report.figures if each.value is not None)
    assert max(report.figure("accuracy").rivals.values()) <= 60 / 72 and report.figure("nats").rivals["majority"] > 12 / 72 * 20
