"""Dynamic evaluation and mixtures of several trained models: what is read is learnt, but never before it was scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhixing import evaluate, load, prepare, train
from zhixing.core.errors import DataError, UsageError
from zhixing.data.corpus import open_corpus
from zhixing.data.shards import shard
from zhixing.layers.scoring import score
from zhixing.preparation.prepare import Prepare
from zhixing.training.dynamic import Dynamic
from zhixing.training.train import mix_trained

DECODER = {"model": "qwen3", "size": "tiny", "layers": 1, "width": 32, "heads": 2, "groups": 1, "window": 32, "batch": 4, "steps": 30}
COMMON = {"precision": "fp32", "threads": 1, "evaluations": 0}
SENTENCES = ("the cat sat on the mat. ", "a dog ran in the park. ", "we read the old book. ")
TOLD = "Zanzibar quietly exports cloves and vanilla. "  # stands in the test text alone, again and again


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus whose test text repeats what training never saw, and models of it."""
    top = tmp_path_factory.mktemp("dynamic")
    source = np.random.default_rng(0)
    text = "".join(SENTENCES[k] for k in source.integers(len(SENTENCES), size=400))
    (top / "text.txt").write_text(text + TOLD * 20, encoding="utf-8")
    prepare(top / "text.txt", top / "corpus", Prepare(split="tail", validation=0.1, test=0.1))
    for name, more in (("first", {}), ("second", {"seed": 1}), ("other", {"tokenizer": "bpe", "vocabulary": 300})):
        train(top / "corpus", top / name, {**DECODER, **COMMON, **more})
    train(top / "corpus", top / "lstm", {"model": "lstm", "width": 16, "embedding": 8, "window": 32, "batch": 4, "steps": 5, **COMMON})
    train(top / "corpus", top / "ngram", {"model": "ngram", "order": 4})
    mix_trained(top / "corpus", [top / "first", top / "second"], top / "both", order=4)
    return top


def tokens_of(top: Path, name: str) -> tuple[Any, np.ndarray]:
    """Open a model and the tokens of the test text."""
    found = load(top / name)
    return found, np.asarray(shard(open_corpus(top / "corpus"), found.tokenizer, "test", lambda *_, **__: None).tokens)


@pytest.mark.parametrize("name", ["first", "ngram", "both", "lstm"])
def test_what_is_read_is_learnt_and_nothing_ahead_of_it(made: Path, name: str) -> None:
    found, tokens = tokens_of(made, name)
    before = score(found.model, tokens)
    read = Dynamic(stretch=16)
    whole = read(found.model, tokens, found.tokenizer.end_id)
    assert len(whole) == len(tokens) - 1 and np.isfinite(whole).all() and (whole <= 1e-9).all()
    assert -whole.mean() < 0.6 * -before.mean()  # the text says the same again and again
    # What comes later changes nothing that was said before: other tokens after a stretch's end, the same scores up to it.
    changed = tokens.copy()
    changed[161:-1] = changed[161:-1][::-1]
    np.testing.assert_array_equal(read(found.model, changed, found.tokenizer.end_id)[:160], whole[:160])
    assert np.isfinite(Dynamic(stretch=1000)(found.model, tokens[:200], found.tokenizer.end_id)).all()  # longer than a window
    np.testing.assert_array_equal(score(found.model, tokens), before)  # the model itself is as it was


def test_a_probability_is_one_over_all_tokens(made: Path) -> None:
    """Whatever token comes next, the chances that were given to all that might have come add up to one."""
    found, tokens = tokens_of(made, "both")
    read = Dynamic(stretch=16)
    last = 16  # the first of its stretch, so that every alternative meets the same state
    total = 0.0
    for token in range(found.model.vocabulary):
        total += np.exp(read(found.model, np.r_[tokens[: last + 1], token], found.tokenizer.end_id)[last])
    assert total == pytest.approx(1.0, abs=2e-3)


def test_a_report_says_how_it_was_read(made: Path) -> None:
    plain = evaluate(made / "first", made / "corpus", samples=0)
    read = evaluate(made / "first", made / "corpus", reader=Dynamic(stretch=16))
    assert read.details["reader"]["stretch"] == 16 and "reader" not in plain.details
    assert read.figure("nats_per_token").value < plain.figure("nats_per_token").value
    rival = next(name for name in plain.figures[0].rivals if name.startswith("kneser_ney"))
    assert read.figures[0].rivals[rival] < plain.figures[0].rivals[rival]  # the rival has learnt as well
    saved = [json.loads(each.read_text("utf-8")) for each in (made / "first" / "evaluation").glob("*.json")]
    assert sorted("reader" in each["details"] for each in saved) == [False, True]  # neither took the other's place


def test_models_are_mixed(made: Path) -> None:
    both, tokens = tokens_of(made, "both")
    assert both.model.weights.shape == (4, 3) and len(both.folder.card["members"]) == 2
    assert both.folder.card["parameters"] == 2 * load(made / "first").folder.card["parameters"]
    held = np.asarray(shard(open_corpus(made / "corpus"), both.tokenizer, "validation", lambda *_, **__: None).tokens)
    alone = min(-score(load(made / name).model, held).mean() for name in ("first", "second"))
    assert both.folder.card["chosen"]["validation_nats"] <= alone
    mix_trained(made / "corpus", [made / "both", made / "lstm"], made / "three", order=4)  # of a mixture its trained parts
    assert load(made / "three").model.weights.shape == (4, 4)
    assert both.generate("the cat", max_tokens=5).text


def test_what_cannot_be_mixed_or_read_is_refused(made: Path, tmp_path: Path) -> None:
    for names, code in ((["ngram"], "mix.not_trained"), (["first", "other"], "mix.tokenizers")):
        with pytest.raises((UsageError, DataError)) as refused:
            mix_trained(made / "corpus", [made / name for name in names], tmp_path / "out")
        assert refused.value.code == code and not (tmp_path / "out").exists()
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "row {k}", "label": "{"ab"[k % 2]}"}}\n' for k in range(40)), encoding="utf-8")
    prepare(tmp_path / "rows.jsonl", tmp_path / "rows", Prepare(task="classify", test=0.3))
    train(tmp_path / "rows", tmp_path / "bag", {"model": "majority"})
    with pytest.raises(UsageError) as refused:
        evaluate(tmp_path / "bag", tmp_path / "rows", reader=Dynamic())
    assert refused.value.code == "evaluate.reader_task"
