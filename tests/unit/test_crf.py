"""Chains of tags: both random fields against the sum over all sequences, their gradients, valid sequences, the rival that only counts."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from scipy.optimize import check_grad

from zhixing.core.errors import DataError, UsageError
from zhixing.core.log import quiet
from zhixing.layers import crf as layer
from zhixing.layers.kinds import Inputs
from zhixing.models import catalog, crf
from zhixing.models.chain import find_best, pack, run_chain
from zhixing.models.crf import CRF, FrequentTag, legal, mend
from zhixing.objectives.tags import ChainNats, TagNats
from zhixing.tasks.tag import Tag, fit_crf, fit_frequent
from zhixing.tokens.tokenizer import train_characters

LENGTHS = [3, 1, 4, 2]
TAGS = ("B-a", "I-a", "O")


def reopen(model: Any) -> Any:
    """Save a model and open it again."""
    tensors = safetensors.numpy.load(safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in model.tensors().items()}))
    assert all(np.array_equal(tensors[name], value) and tensors[name].dtype == value.dtype for name, value in model.tensors().items())
    return catalog.restore(json.loads(json.dumps(catalog.config(model))), tensors)


def every(emissions, transitions, start):
    """List every sequence of one row with its score."""
    T, K = emissions.shape
    for path in itertools.product(range(K), repeat=T):
        moved = sum(transitions[a, b] for a, b in itertools.pairwise(path))
        yield path, start[path[0]] + sum(emissions[t, tag] for t, tag in enumerate(path)) + moved


def brute(emissions, transitions, start):
    """Give log Z, the best path, p(tag) and the expected moves of one row, by the sum over all sequences."""
    found = list(every(emissions, transitions, start))
    scores = np.array([score for _, score in found])
    whole = np.logaddexp.reduce(scores)
    p, pairs = np.zeros(emissions.shape), np.zeros(transitions.shape)
    for (path, _), share in zip(found, np.exp(scores - whole), strict=True):
        p[np.arange(len(path)), path] += share
        for a, b in itertools.pairwise(path):
            pairs[a, b] += share
    return whole, found[int(scores.argmax())], p, pairs


def make_chain(bound: bool, seed: int = 0):
    """Draw emissions of rows, transitions and start; with bound, moves that BIO tags forbid are so."""
    source = np.random.default_rng(seed)
    rows = [2 * source.normal(size=(length, 3)) for length in LENGTHS]
    transitions, start = source.normal(size=(3, 3)), source.normal(size=3)
    begins, moves = legal(TAGS)
    return (rows, np.where(moves, transitions, -np.inf), np.where(begins, start, -np.inf)) if bound else (rows, transitions, start)


@pytest.mark.parametrize("bound", [False, True])
def test_counted_chain_is_the_sum_over_all_sequences(bound):
    rows, transitions, start = make_chain(bound)
    packing = pack(np.array(LENGTHS))
    flat = np.concatenate(rows)[packing.order]
    whole, p, pairs = run_chain(flat, transitions, start, packing)
    wanted = [brute(row, transitions, start) for row in rows]
    assert whole == pytest.approx(sum(each[0] for each in wanted), abs=1e-10)
    np.testing.assert_allclose(p, np.concatenate([each[2] for each in wanted])[packing.order], atol=1e-12)
    np.testing.assert_allclose(pairs, sum(each[3] for each in wanted), atol=1e-12)
    best = np.concatenate([each[1][0] for each in wanted])[packing.order]
    np.testing.assert_array_equal(find_best(flat, transitions, start, packing), best)
    assert run_chain(np.zeros((0, 3)), transitions, start, pack(np.array([0, 0])))[0] == 0


@pytest.mark.parametrize("bound", [False, True])
def test_torch_chain_is_the_sum_over_all_sequences(bound):
    rows, transitions, start = make_chain(bound, 1)
    wanted = [brute(row, transitions, start) for row in rows]
    emissions = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=7.0)
    moves, begins = (torch.as_tensor(np.maximum(each, layer.FORBIDDEN)) for each in (transitions, start))
    lengths = torch.tensor(LENGTHS)
    whole = layer.log_partition(emissions, moves, lengths, begins)
    np.testing.assert_allclose(whole, [each[0] for each in wanted], atol=1e-10)
    tags = torch.nn.utils.rnn.pad_sequence([torch.tensor(each[1][0]) for each in wanted], batch_first=True, padding_value=-100)
    np.testing.assert_allclose(layer.score(emissions, moves, tags, lengths, begins), [each[1][1] for each in wanted], atol=1e-10)
    emissions.requires_grad_(True)
    layer.log_partition(emissions, moves, lengths, begins).sum().backward()
    for row, each in zip(emissions.grad, wanted, strict=True):
        np.testing.assert_allclose(row[: len(each[2])], each[2], atol=1e-10)
    alone = layer.log_partition(emissions.detach()[2:3], moves)
    assert alone.item() == pytest.approx(brute(rows[2], transitions, np.zeros(3))[0], abs=1e-10)


def test_gradient_of_fitting_is_exact():
    sentences, tags = make_rows(12)
    rows, hashes = crf.read_features(sentences)
    columns = np.unique(hashes)[:9]
    lengths = np.array([len(each) for each in sentences])
    names = crf.check_tags("crf", sentences, tags)
    answers = np.array([names.index(tag) for row in tags for tag in row])
    packing = pack(lengths)
    features = crf.count_columns(rows, hashes, columns, int(lengths.sum()))[packing.order]
    loss = crf.Likelihood(features, answers[packing.order], packing, names, 0.3)
    point = np.random.default_rng(0).normal(size=9 * len(names) + len(names) ** 2 + len(names)) / 3
    point[9 * len(names) :][~np.concatenate([loss.moves.ravel(), loss.start])] = 0
    slope = loss(point)[1]
    assert check_grad(lambda x: loss(x)[0], lambda x: loss(x)[1], point, epsilon=1e-6) < 1e-4 * np.linalg.norm(slope)


def make_rows(count: int, seed: int = 0) -> tuple[list[list[str]], list[list[str]]]:
    """Write sentences in two languages in which names follow a title."""
    source = np.random.default_rng(seed)
    fill = ["the", "old", "说", "了", "今天", "walks", ","]
    sentences, tags = [], []
    for _ in range(count):
        sentence, answer = [], []
        for _ in range(int(source.integers(2, 5))):
            if source.random() < 0.4:
                name = [str(source.choice(["Ada", "Bo", "张", "李"])), str(source.choice(["Stone", "三", "四"]))]
                sentence += ["Mr", *name]
                answer += ["O", "B-per", "I-per"]
            else:
                sentence.append(str(source.choice(fill)))
                answer.append("O")
        sentences.append(sentence)
        tags.append(answer)
    return sentences, tags


def test_crf_learns_and_is_the_same_twice_and_after_saving():
    sentences, tags = make_rows(80)
    held = make_rows(40, 1)
    model = CRF.fit(sentences, tags, 0.1)
    answers, p = model.tag(held[0])
    right = [a == b for got, want in zip(answers, held[1], strict=True) for a, b in zip(got, want, strict=True)]
    assert np.mean(right) > 0.98
    assert [len(each) for each in p] == [len(each) for each in held[0]] and all(((0 < each) & (each <= 1)).all() for each in p)
    again = CRF.fit(sentences, tags, 0.1)
    assert all(np.array_equal(model.tensors()[name], again.tensors()[name]) for name in model.tensors())
    opened = reopen(model)
    others, q = opened.tag(held[0])
    assert others == answers and all(np.array_equal(a, b) for a, b in zip(p, q, strict=True)) and opened.config == model.config
    alone = model.tag([held[0][3]])
    assert alone[0] == [answers[3]]
    np.testing.assert_allclose(alone[1][0], p[3], atol=1e-12)
    assert model.tag([]) == ([], []) and model.tag([[], ["Mr"]])[0] == [[], ["O"]]
    best, figures = CRF.choose(sentences, tags, held, strengths=(1.0, 0.1))
    assert figures[best.config.strength] == max(figures.values()) == pytest.approx(-best.judge(*held))
    _, figures = CRF.choose(sentences, tags, held, lambda answers, truth: float(answers == truth), (1.0,))
    assert set(figures.values()) <= {0.0, 1.0}


def test_only_valid_sequences_are_given():
    start, moves = legal(["B-a", "B-b", "I-a", "O"])
    assert start.tolist() == [True, True, False, True]
    assert moves[:, 2].tolist() == [True, False, True, False] and moves[:, [0, 1, 3]].all()
    assert legal(["I-a", "O", "NN"])[1].all()
    assert mend(["I-a", "I-a", "B-b", "I-a", "O"]) == ["B-a", "I-a", "B-b", "B-a", "O"]
    noise = np.random.default_rng(0)
    sentences = [[str(noise.integers(30)) for _ in range(6)] for _ in range(40)]
    tags = [mend([str(noise.choice(["B-a", "I-a", "I-b", "B-b", "O"])) for _ in row]) for row in sentences]
    for model in (CRF.fit(sentences, tags, 0.01, 1), FrequentTag.fit(sentences, tags)):
        answers, _ = model.tag([row[::-1] for row in sentences] + [["unseen"] * 3])
        assert all(mend(answer) == answer for answer in answers)


def test_frequent_tag_counts():
    sentences = [["a", "b", "a"], ["a", "c"]]
    tags = [["B-x", "I-x", "B-x"], ["O", "O"]]
    model = FrequentTag.fit(sentences, tags)
    answers, p = model.tag([["a", "b", "new"], ["b"], []])
    assert answers == [["B-x", "I-x", "O"], ["B-x"], []]
    np.testing.assert_allclose(p[0], [2 / 3, 1, 1 / 2])
    opened = reopen(model)
    assert opened.tag(sentences)[0] == model.tag(sentences)[0]


def test_rows_that_do_not_fit_are_named():
    with pytest.raises(DataError, match="Row 1 has 2 tokens and 1 tags"):
        CRF.fit([["a"], ["b", "c"]], [["O"], ["O"]])
    with pytest.raises(DataError, match="Row 0, token 1: the tag 'I-x' comes after 'O'"):
        CRF.fit([["a", "b"], ["a"]], [["O", "I-x"], ["B-x"]])
    for rows in ([], [[]]):
        with pytest.raises(DataError, match="to learn from"):
            FrequentTag.fit(rows, rows)
    with pytest.raises(UsageError, match="strength"):
        CRF.fit([["a"]], [["O"]], 0.0)


class Tagger(torch.nn.Module):
    """Vectors of tokens and a chain on top."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Embedding(7, 4)
        begins, moves = legal(TAGS)
        self.head = layer.Chain(4, 3, torch.as_tensor(begins), torch.as_tensor(moves))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        return self.head(self.body(inputs.tokens), inputs.lengths)


def make_batch() -> dict:
    tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [2, 2, 2, 0]])
    tags = torch.tensor([[0, -100, 1, 2], [2, 0, -100, -100], [0, 1, 1, -100]])
    return {"tokens": tokens, "tags": tags, "lengths": torch.tensor([4, 2, 3])}


@pytest.mark.parametrize("objective", [TagNats(), ChainNats()])
def test_objectives_of_tags_add_up(objective):
    model, batch = Tagger(), make_batch()
    with torch.no_grad():
        for p in model.head.parameters():
            p.normal_()
    assert objective.weights(batch) == {"nats": 8.0}
    (whole,) = objective(model, batch)
    parts = [objective(model, {name: value[i : i + 1] for name, value in batch.items()})[0].total for i in range(3)]
    assert whole.total.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)
    whole.total.backward()
    slopes = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(slopes) == (3 if isinstance(objective, TagNats) else 5)
    assert all(torch.isfinite(slope).all() and slope.abs().sum() > 0 for slope in slopes)


def test_chain_nats_is_the_probability_of_the_tags():
    model, batch = Tagger(), make_batch()
    model.double()
    with torch.no_grad():
        for p in model.head.parameters():
            p.normal_()
    total = 0.0
    transitions, start = (
        np.where(each <= layer.FORBIDDEN, -np.inf, each) for each in (part.detach().numpy() for part in model.head.chain())
    )
    scores = model(Inputs(batch["tokens"])).detach().float().double().numpy()
    for row, tags in zip(scores, batch["tags"].tolist(), strict=True):
        there = [place for place, tag in enumerate(tags) if tag >= 0]
        found = dict(every(row[there], transitions, start))
        total += np.logaddexp.reduce(list(found.values())) - found[tuple(tags[place] for place in there)]
    assert ChainNats()(model, batch)[0].total.item() == pytest.approx(total, rel=1e-5)
    empty = {**batch, "tags": torch.full_like(batch["tags"], -100)}
    assert ChainNats()(model, empty)[0].total.item() == 0


def test_a_span_that_begins_with_inside_is_learnt_as_conll_reads_it() -> None:
    """Real files hold I-x after O or after another span: fitted and trained taggers read it as a beginning."""
    rows = [{"tokens": ["a", "Bo", "Li"], "tags": ["O", "I-x", "I-x"]}, {"tokens": ["Bo", "Li", "c"], "tags": ["B-x", "I-y", "O"]}] * 4
    task = Tag.fit(rows)
    assert task.tags == ("B-x", "B-y", "I-x", "O")
    item = task.encode(rows[1], train_characters(["aBoLic"]))
    assert [task.tags[number] for number in item["tags"][item["firsts"]]] == ["B-x", "B-y", "O"]
    for fit in (fit_crf, fit_frequent):
        _, model, _ = fit(task, rows, rows[:2], {}, quiet)
        assert model.tag([["a", "Bo", "Li"]])[0][0][1] == "B-x"
    free = Tag.fit([{"tokens": ["a", "b"], "tags": ["O", "I-x"]}])
    assert free.tags == ("I-x", "O"), "tags without beginnings are left as they are"
