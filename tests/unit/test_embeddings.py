"""Vectors of words: what is a word, the stream of neighbours, the loss against its definition, and a planted language found again."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zhixing.cli.app import main
from zhixing.core.errors import DataError, UsageError, ZhixingError
from zhixing.core.stop import Stop, Stopped
from zhixing.data.stream import ROW_WORDS, Neighbours, kept_share
from zhixing.layers.kinds import Inputs
from zhixing.models import catalog
from zhixing.objectives.contexts import ContextNats, nearness
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.tasks.artefact import load
from zhixing.tasks.embed import Embed, learn_words, parse, words_of
from zhixing.tokens.lexicon import ENDS, STARTS, Lexicon, find_pieces
from zhixing.tokens.tokenizer import train_bpe, train_characters, train_words
from zhixing.training.gradients import Gradients
from zhixing.training.train import plan, train
from zhixing.training.vectors import LEAST_WORDS

FORM = {"model_type": "skipgram", "vocab_size": 40, "word_count": 30, "embedding_dim": 8}
QUICK = {"model": "skipgram", "width": 16, "minimum": 2, "batch": 8, "learning_rate": 0.02, "precision": "fp32", "threads": 1}


def model(seed: int = 0, **changes: Any) -> Any:
    """Build a small model with no zero left from its initialisation."""
    torch.manual_seed(seed)
    made = catalog.build({**FORM, **changes})
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(0.0, 0.5)
    return made


# What is a word.


def test_a_word_is_a_token_with_letters_whatever_its_spaces_and_capitals() -> None:
    text = "The cat saw the cats. THE cat's 7 lives — 国王和女王，国王！\n"
    tokenizer = train_words([text * 3], 2000)
    lexicon = Lexicon.of(tokenizer)
    read = [lexicon.forms[each] for each in tokenizer.encode(text)]
    assert [each for each in read if each] == "the cat saw the cats the cat's 7 lives 国王 和 女王 国王".split()
    assert all(lexicon.forms[each] == "" for each in range(5)), "control tokens"
    assert {lexicon.forms[each] for each in tokenizer.encode("  ... ，！—\n")} == {""}


def test_pieces_of_longer_words_are_none() -> None:
    edges = np.array([STARTS | ENDS, STARTS | ENDS, ENDS, STARTS | ENDS, 0, STARTS | ENDS, STARTS | ENDS], np.uint8)
    assert find_pieces(edges).tolist() == [True, True, True, True, False, True, True]
    tokenizer = train_characters(["the king rules 国王 a b"])
    tokens = tokenizer.encode("the king 国王 a b")
    lexicon = Lexicon.of(tokenizer)
    whole = tokens[~find_pieces(lexicon.edges[tokens])]
    assert [lexicon.forms[each] for each in whole if lexicon.forms[each]] == ["国", "王", "a", "b"]


def test_the_frequent_words_get_vectors() -> None:
    tokenizer = train_bpe(["low lower lowest slow slowly " * 50], 300)
    tokens = tokenizer.encode(" low low Low slow slow once the")
    rows, edges, counts = learn_words(tokens, tokenizer, 2)
    assert len(rows) == len(edges) == tokenizer.vocabulary_size
    words = words_of(model(vocab_size=len(rows), word_count=len(counts)).know(rows, edges, counts), tokenizer)
    assert (words[0], counts.tolist()[0]) == ("low", 2) and len(words) == len(counts) == len(set(words))
    with pytest.raises(DataError) as caught:
        learn_words(tokens, tokenizer, 99)
    assert caught.value.code == "embed.no_words"


# The stream.


def stream(seed: int = 0, **changes: Any) -> tuple[Neighbours, np.ndarray]:
    source = np.random.default_rng(seed)
    counts = np.array([4000, 1000, *[50] * 28])
    words = np.concatenate([np.repeat(np.arange(30), counts)])[source.permutation(counts.sum())].astype(np.int32)
    texts = np.sort(source.integers(0, 40, len(words))).astype(np.int32)
    return Neighbours(words, texts, counts, **{"batch": 8, "seed": 3, "drawn": 16, "subsample": 0.05, **changes}), counts


def test_a_batch_is_a_pure_function_of_the_step_however_it_is_cut() -> None:
    for step in (0, 3, 17):
        whole = stream()[0].batch(step)
        assert whole["words"].shape == whole["texts"].shape == (8, ROW_WORDS) and whole["negatives"].shape == (8, 16)
        again = stream()[0]
        again.batch(step + 1)
        parts = [again.batch(step, micro, 3) for micro in range(3)]
        for name, value in whole.items():
            assert np.array_equal(np.concatenate([part[name] for part in parts]), value), name
    assert not np.array_equal(stream(seed=1)[0].batch(0)["words"], stream()[0].batch(0)["words"])
    assert "negatives" not in stream(drawn=0)[0].batch(0)


def test_frequent_words_are_thinned_out_and_drawn_by_their_power() -> None:
    made, counts = stream()
    share = kept_share(counts, 0.05)
    assert share[2] == 1 and share[0] == pytest.approx(math.sqrt(0.05 / (4000 / 6400)) + 0.05 / (4000 / 6400))
    assert np.array_equal(kept_share(counts, 0), np.ones(30))
    read = np.concatenate([made.batch(step)["words"].ravel() for step in range(4 * made.steps_per_epoch)])
    found = np.bincount(read, minlength=30) / len(read)
    wanted = counts * share / (counts * share).sum()
    assert np.allclose(found, wanted, atol=0.02) and abs(found[0] - counts[0] / counts.sum()) > 0.1
    drawn = np.concatenate([made.batch(step)["negatives"].ravel() for step in range(300)])
    noise = counts**0.75 / (counts**0.75).sum()
    assert np.allclose(np.bincount(drawn, minlength=30) / len(drawn), noise, atol=0.01)


def test_words_of_a_row_follow_each_other_in_the_text() -> None:
    words = np.arange(1000, dtype=np.int32)
    made = Neighbours(words, words // 100, np.ones(1000, np.int64), 4, 0)
    firsts = set()
    for step in range(made.steps_per_epoch * 2):
        batch = made.batch(step)
        joined = batch["texts"][:, 1:] == batch["texts"][:, :-1]
        assert np.array_equal(batch["words"][:, 1:][joined], batch["words"][:, :-1][joined] + 1)
        assert np.array_equal(joined, (batch["words"][:, 1:] % 100 > 0) & (batch["words"][:, 1:] > batch["words"][:, :-1]))
        firsts |= set(batch["words"][:, 0].tolist())
    assert len(firsts) > made.rows, "each epoch begins elsewhere"


def test_a_text_of_a_few_words_is_still_a_text() -> None:
    made = Neighbours(np.array([1, 0]), np.array([1, 1]), np.array([1, 1]), 2, 0, 4)
    assert made.batch(5)["words"].shape == (2, ROW_WORDS)
    near = nearness(torch.as_tensor(made.batch(5)["texts"]), 5)
    assert float(near.sum(2).max()) <= 1, "two words have one neighbour each: the beginning does not follow the end"
    with pytest.raises(DataError) as caught:
        Neighbours(np.zeros(0, np.int32), np.zeros(0, np.int32), np.array([3, 2]), 2, 0)
    assert caught.value.code == "data.no_words"


# The objective.


def batch(rows: int = 6, drawn: int = 9) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(5)
    words = torch.randint(0, 30, (rows, 14), generator=source)
    found = {"words": words, "texts": (torch.arange(14) > 9).long().expand(rows, 14).clone()}
    return found | ({"negatives": torch.randint(0, 30, (rows, drawn), generator=source)} if drawn else {})


def by_definition(made: Any, read: dict[str, Tensor], method: str, window: int, negatives: int) -> float:
    """Sum the loss pair by pair, as the paper writes it."""
    table, contexts, total = made.embeddings.weight, made.context_embeddings.weight, 0.0
    for number, (row, texts) in enumerate(zip(read["words"].tolist(), read["texts"].tolist(), strict=True)):
        drawn = read["negatives"][number].tolist() if "negatives" in read else None
        for place, word in enumerate(row):
            near = [
                (other, (window + 1 - abs(place - at)) / window)
                for at, other in enumerate(row)
                if at != place and abs(place - at) <= window and texts[at] == texts[place]
            ]
            if method == "cbow":
                if not near:
                    continue
                state = sum(weight * table[other] for other, weight in near) / sum(weight for _, weight in near)
                pairs = [(state, word, 1.0)]
            else:
                pairs = [(table[word], other, weight) for other, weight in near]
            for state, target, weight in pairs:
                if drawn is None:
                    total -= weight * float((contexts @ state).log_softmax(0)[target])
                else:
                    wrong = sum(float(F.softplus(state @ contexts[each])) for each in drawn) * negatives / len(drawn)
                    total += weight * (float(F.softplus(-state @ contexts[target])) + wrong)
    return total


@pytest.mark.parametrize("drawn", [9, 0])
@pytest.mark.parametrize("method", ["skipgram", "cbow"])
def test_the_loss_is_what_its_definition_says(method: str, drawn: int) -> None:
    made, read = model(), batch(drawn=drawn)
    objective = ContextNats(method, 3, 5)
    with torch.no_grad():
        (term,) = objective(made, read)
        assert float(term.total) == pytest.approx(by_definition(made, read, method, 3, 5), rel=1e-5)
        assert float(term.total) != pytest.approx(by_definition(made, read, method, 4, 5), rel=5e-5)
    near = nearness(read["texts"], 3)
    assert torch.equal(near, near.mT) and float(near[:, 9, 10].sum()) == 0
    assert near[0, 0, :5].tolist() == pytest.approx([0, 1, 2 / 3, 1 / 3, 0])
    assert objective.weights(read)["nats"] == pytest.approx(float(near.sum()) if method == "skipgram" else 6 * 14)


def gradient(objective: Any, batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    made = model()
    gradients = Gradients(made, objective, "fp32", 0)
    gradients.begin(batches)
    for micro, each in enumerate(batches):
        gradients.add(each, 0, micro)
    gradients.finish()
    return {name: p.grad.clone() for name, p in made.named_parameters()}


@pytest.mark.parametrize("method", ["skipgram", "cbow"])
def test_micro_batches_of_the_stream_equal_one_batch(method: str) -> None:
    made = stream()[0]
    tensors = [[{k: torch.as_tensor(v) for k, v in made.batch(2, m, micros).items()} for m in range(micros)] for micros in (1, 3, 8)]
    whole, *others = [gradient(ContextNats(method, 5, 5), each) for each in tensors]
    for other in others:
        for name, value in whole.items():
            assert float((other[name] - value).abs().max()) <= 1e-5 * float(value.abs().max()), name


# The model.


def test_a_restored_model_gives_the_same_bits_and_reads_token_ids() -> None:
    made = model().know(np.arange(40) % 31 - 1, np.where(np.arange(40) > 35, STARTS | ENDS, 0), np.arange(30) + 1).eval()
    config = json.loads(json.dumps(catalog.config(made)))
    again = catalog.restore(config, {name: value.clone() for name, value in catalog.tensors(made).items()})
    tokens = torch.tensor([[5, 0, 36, 37, 9]])
    states = made.states(Inputs(tokens))
    assert torch.equal(states, again.states(Inputs(tokens)))
    assert torch.equal(states[0, 0], made.embeddings.weight[4]) and not states[0, 1:4].any()
    texts = [[5, 9, 9], [], [0, 36, 37]]
    assert np.array_equal(made.embed(texts), again.embed(texts))
    weights = made.weights()
    wanted = (weights[4] * made.embeddings.weight[4] + 2 * weights[8] * made.embeddings.weight[8]) / (weights[4] + 2 * weights[8])
    assert np.allclose(made.embed(texts)[0], wanted.detach().numpy(), atol=1e-6) and not made.embed(texts)[1:].any()
    assert float(weights[29]) < float(weights[0]), "what is said everywhere says little"
    with pytest.raises(DataError):
        catalog.build({**FORM, "word_count": 0})


def test_nearest_is_by_cosine() -> None:
    made = model()
    table = F.normalize(made.embeddings.weight.detach(), dim=1)
    cosines, found = made.nearest(3.0 * made.embeddings.weight[7:8].detach().numpy(), 99)
    assert found.shape == (1, 30) and found[0, 0] == 7 and cosines[0, 0] == pytest.approx(1.0)
    assert np.allclose(cosines[0], np.sort((table @ table[7]).numpy())[::-1], atol=1e-6)


# Expressions.


@pytest.mark.parametrize(
    ("expression", "terms"),
    [
        ("king", [(1, "king")]),
        ("King - man + Woman", [(1, "king"), (-1, "man"), (1, "woman")]),
        ("  - man + king ", [(-1, "man"), (1, "king")]),
        ("国王-男人+女人", [(1, "国王"), (-1, "男人"), (1, "女人")]),
        ("国王 － 男人 ＋ 女人", [(1, "国王"), (-1, "男人"), (1, "女人")]),
        ("windows-微软+苹果", [(1, "windows"), (-1, "微软"), (1, "苹果")]),
        ("well-known", [(1, "well-known")]),
        ("state-of-the-art + a+b", [(1, "state-of-the-art"), (1, "a"), (1, "b")]),
        ("c++ - c", [(1, "c++"), (-1, "c")]),
    ],
)
def test_an_expression_is_read(expression: str, terms: list[tuple[int, str]]) -> None:
    assert parse(expression, ["king", "c++"]) == terms


@pytest.mark.parametrize("expression", ["", "  ", "+", "king +", "king man", "king - + man", "king + - man", "- - king", "king -", "+ + +"])
def test_a_malformed_expression_is_refused(expression: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(expression, ["king"])
    assert caught.value.code == "embed.expression"


# A planted language: what was planted is found again, and is not in the same words shuffled.

PEOPLE = {("man", "low"): "man", ("woman", "low"): "woman", ("man", "high"): "king", ("woman", "high"): "queen",
          ("man", "young"): "boy", ("woman", "young"): "girl"}  # fmt: skip
SIGNS = {"man": "beard razor his father".split(), "woman": "gown mother her lace".split(), "low": "field village plough barn".split(),
         "high": "crown throne palace court".split(), "young": "school toys small lesson".split()}  # fmt: skip
ALIKE = (("big", "large"), ("quick", "fast"), ("大", "巨"), ("boat", "ship"))
AROUND = ("mountain house tree elephant", "horse runner arrow wind", "山 房 树 象", "sea harbour sail captain")


def planted(lines: int = 6000, seed: int = 1) -> list[str]:
    """Write lines in which people stand with the signs of both their kinds, and words that are alike with the same things."""
    draw = random.Random(seed)
    made = []
    for _ in range(lines):
        if draw.random() < 0.6:
            kinds = draw.choice(list(PEOPLE))
            words = [PEOPLE[kinds], *draw.choices(SIGNS[kinds[0]], k=3), *draw.choices(SIGNS[kinds[1]], k=3)]
        else:
            number = draw.randrange(len(ALIKE))
            words = [draw.choice(ALIKE[number]), *draw.choices(AROUND[number].split(), k=5)]
        draw.shuffle(words)
        made.append(" ".join(words) + ".")
    return made


def shuffled(lines: list[str], seed: int = 2) -> list[str]:
    """Spread the same words over the lines at random."""
    words = [word for line in lines for word in line.rstrip(".").split()]
    random.Random(seed).shuffle(words)
    return [" ".join(words[start : start + 7]) + "." for start in range(0, len(words), 7)]


def learn(place: Path, lines: list[str], **settings: Any) -> Any:
    place.mkdir()
    (place / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prepare(place / "text.txt", place / "corpus", Prepare(unit="line", repeats="keep"))
    train(place / "corpus", place / "model", {**QUICK, "steps": 490, "subsample": 0.0, **settings})
    return load(place / "model")


def found_again(opened: Any) -> int:
    """Count what was planted and stands first: words alike, each by the other, and analogies."""
    right = sum(opened.nearest(one, 1)[0][0] == other for pair in ALIKE for one, other in (pair, pair[::-1]))
    for other in ("king", "boy"):
        partner = {"king": "queen", "boy": "girl"}[other]
        right += opened.nearest(f"{other} - man + woman", 1)[0][0] == partner
        right += opened.nearest(f"{partner} - woman + man", 1)[0][0] == other
    return right


@pytest.mark.parametrize("settings", [{}, {"model": "cbow"}, {"negatives": 0}], ids=["skipgram", "cbow", "exact"])
def test_a_planted_language_is_found_again(tmp_path: Path, settings: dict[str, Any]) -> None:
    opened = learn(tmp_path / "planted", planted(), **settings)
    assert found_again(opened) >= 11
    cosine = dict(opened.nearest("big", 200))
    assert cosine["large"] > 0.8 > cosine["throne"]
    vectors = opened.embed(["a big house.", "the large house", "crown and throne", "， ..."])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)
    assert vectors.dtype == np.float32 and vectors[0] @ vectors[1] > 0.8 > vectors[0] @ vectors[2] and not vectors[3].any()
    (answer,) = opened.predict(["crown throne palace"])
    assert answer.value in ("king", "queen", *SIGNS["high"]) and answer.scores[answer.value] == max(answer.scores.values())


def test_the_same_words_shuffled_hold_nothing(tmp_path: Path) -> None:
    assert found_again(learn(tmp_path / "shuffled", shuffled(planted()))) <= 4


# Through the one trainer.


def test_training_is_the_same_to_the_bit_also_when_it_was_stopped(tmp_path: Path) -> None:
    settings = {"steps": 8, "evaluations": 2, "accumulate": 2}
    opened = learn(tmp_path / "whole", planted(600), **settings)

    class Soon(Stop):
        def __init__(self) -> None:
            super().__init__()
            self.asked = 0

        def check(self) -> None:
            self.asked += 1
            if self.asked == 6:
                raise Stopped(15)

        def __bool__(self) -> bool:
            return self.asked >= 5

    given = {**QUICK, "subsample": 0.0, **settings}
    with pytest.raises(Stopped):
        train(tmp_path / "whole" / "corpus", tmp_path / "stopped", given, stop=Soon())
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    told: list[str] = []
    train(tmp_path / "whole" / "corpus", tmp_path / "stopped", given, tell=lambda code, **_: told.append(code))
    assert "train.resumed" in told
    ours = (opened.folder.path / "model.safetensors").read_bytes()
    assert (tmp_path / "stopped" / "model.safetensors").read_bytes() == ours
    train(tmp_path / "whole" / "corpus", tmp_path / "other", {**given, "seed": 1})
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != ours


def test_a_corpus_of_labels_gives_vectors_too(tmp_path: Path) -> None:
    rows = [json.dumps({"text": line, "label": "ab"[number % 2]}, ensure_ascii=False) for number, line in enumerate(planted(400))]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(repeats="keep"))
    train(tmp_path / "corpus", tmp_path / "model", {**QUICK, "steps": 5})
    told = plan(tmp_path / "corpus", {**QUICK, "epochs": 2.0})
    assert told["task"] == "embed" and told["estimate"]["steps"] == round(2 * LEAST_WORDS / (8 * ROW_WORDS)), "a short text is read again"
    train(tmp_path / "corpus", tmp_path / "pulled", {**QUICK, "steps": 5, "prior": "gaussian", "prior_strength": 100.0})
    free, pulled = (np.abs(load(tmp_path / name).model.embeddings.weight.detach().numpy()).mean() for name in ("model", "pulled"))
    assert pulled < 0.9 * free, "a prior pulls vectors to zero"
    opened = load(tmp_path / "model")
    assert isinstance(opened.task, Embed) and opened.family == "skipgram" and opened.folder.card["task"] == "embed"


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("vectors")
    learn(place / "made", planted(1500))
    return place / "made"


def test_the_verb_gives_what_python_gives(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["nearest", str(vectors / "model"), "big", "king - man + woman", "--count", "3", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    opened = load(vectors / "model")
    assert [each["expression"] for each in answers] == ["big", "king - man + woman"]
    for each in answers:
        assert [(near["word"], near["cosine"]) for near in each["nearest"]] == opened.nearest(each["expression"], 3)
        assert len(each["nearest"]) == 3 and not {"king", "man", "woman", "big"} & {near["word"] for near in each["nearest"]} - {"big"}
    assert main(["nearest", str(vectors / "model"), "BIG"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "BIG" and shown[1].split() == ["word", "cosine"] and len(shown) == 13


def test_an_unknown_word_is_told_with_the_nearest_spelling(vectors: Path) -> None:
    opened = load(vectors / "model")
    with pytest.raises(UsageError, match="'queen'") as caught:
        opened.nearest("quen")
    assert caught.value.code == "embed.unknown_word"
    with pytest.raises(ZhixingError):
        opened.nearest("big", 0)
