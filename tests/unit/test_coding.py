"""Packing: the coder against the lengths that shares call for, the same bytes back from every model, and files that are not whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as budget
from hypothesis import strategies as some

from zhixing.core.errors import DataError, RunError, UsageError
from zhixing.core.stop import Stop, Stopped
from zhixing.decoding import coding
from zhixing.layers.scoring import score
from zhixing.models import catalog
from zhixing.models.grammar import Grammar
from zhixing.models.mixture import Mixture
from zhixing.models.ngram import NGram
from zhixing.tokens.tokenizer import SPECIALS, train_bpe, train_characters, train_unigram, train_words

TOTAL = 1 << coding.TOTAL_BITS
TEXT = "the cat sat on the mat. 春眠不觉晓，处处闻啼鸟。"
POEMS = "\n\n".join(f"{TEXT[place % 7 :]}\n{TEXT[: 9 + place % 5]}" for place in range(12))
KINDS = ("ngram", "grammar", "qwen3", "lstm", "gru", "gpt2", "convolution", "feedforward", "mixture")
NAME = bytes(range(32))


@pytest.fixture(scope="module")
def tokenizer():
    return train_characters([TEXT] * 4)


def make(kind: str, tokenizer):
    """Make a model of any family over the tokenizer's vocabulary; the trained ones without zeros in their weights."""
    size = tokenizer.vocabulary_size
    documents = [each for poem in POEMS.split("\n\n")[:6] for each in ([1], tokenizer.encode(poem))]
    counted = NGram.count(np.concatenate([*documents, [1]]), size, 3, 1)
    if kind == "ngram":
        return counted
    if kind == "grammar":
        return Grammar.learn(np.concatenate([*documents, [1]]), size, 5, 1)[0]
    if kind == "mixture":
        return Mixture([make("qwen3", tokenizer), counted], np.full((3, 2), 0.5))
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
    configs = {
        "qwen3": {**shape, "max_position_embeddings": 16},
        "lstm": {"embedding_dim": 12, "hidden_dim": 14},
        "gru": {"embedding_dim": 12, "hidden_dim": 14},
        "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 9},
        "convolution": {"hidden_size": 16, "kernel_size": 3, "dilations": [1, 2]},
        "feedforward": {"embedding_dim": 6, "hidden_dim": 12, "context": 4},
    }
    torch.manual_seed(5)
    model = catalog.build({"model_type": kind, "vocab_size": size, **configs[kind]}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def models(tokenizer):
    return {kind: make(kind, tokenizer) for kind in KINDS}


# --- the coder ------------------------------------------------------------------------------------------------------


def write(pairs: list[tuple[int, int]]) -> bytes:
    coder = coding.Encoder()
    for start, size in pairs:
        coder.push(start, size)
    return coder.finish()


def prove(pairs: list[tuple[int, int]]) -> None:
    """Check that every share comes back and that the stream is no longer than its shares call for."""
    content = write(pairs)
    coder = coding.Decoder(content)
    for start, size in pairs:
        assert start <= coder.point() < start + size
        coder.take(start, size)
    bits = -sum(math.log2(size / TOTAL) for _, size in pairs)
    assert 8 * len(content) <= bits + 9 + len(pairs) * 2**-20, (bits, len(content))


edges = some.sampled_from([1, 2, 255, TOTAL // 2, TOTAL // 2 + 1, TOTAL - 2, TOTAL - 1, TOTAL])


@given(some.lists(some.tuples(some.integers(0, TOTAL - 1), some.one_of(edges, some.integers(1, TOTAL))), max_size=200))
@example([(0, TOTAL)] * 1000)
@example([(0, TOTAL - 1)] * 3000)
@example([(1, TOTAL - 1)] * 3000)
@example([(TOTAL - 1, 1)] * 200)
@example([(0, 1)] * 200)
def test_shares_cost_what_they_should(pairs) -> None:
    prove([(min(start, TOTAL - size), size) for start, size in pairs])


def test_a_carry_runs_through_many_bytes() -> None:
    half = [(TOTAL // 2 - 1, 2)]  # astride the middle: which side it is stays open for long
    prove(half + [(TOTAL // 2, 1)] + [(TOTAL // 2 - 1, 2)] * 90 + [(TOTAL - 1, 1)] * 9)
    coder = coding.Encoder()
    coder.out += b"\x01" + b"\xff" * 50
    coder.low, coder.range = (1 << coding.RANGE_BITS) - 1, 1 << 60
    coder.push(TOTAL - 1, 1)
    assert coder.out[:51] == b"\x02" + b"\0" * 50


def test_a_wrong_share_is_seen() -> None:
    with pytest.raises(AssertionError):
        content = write([(0, 10), (TOTAL // 2, 77)])
        coder = coding.Decoder(content)
        coder.take(0, 11)
        assert TOTAL // 2 <= coder.point() < TOTAL // 2 + 77


# --- distributions --------------------------------------------------------------------------------------------------


ALLOWED = np.array([False, True, True, True, True])


@pytest.mark.parametrize(
    "p",
    [
        [0.2] * 5,
        [0.9999, 1e-4 / 4, 1e-4 / 4, 1e-4 / 4, 1e-4 / 4],  # nearly all of it on a token that cannot occur
        [0.0, 1 - 3e-12, 1e-12, 1e-12, 1e-12],
        [0.0, 1e-30, 1.0, 1e-300, 0.0],
        [0.1, 0.5, 0.3999999, 1e-7, 1e-9],
    ],
)
def test_distributions_become_whole_numbers_at_no_cost(p) -> None:
    with np.errstate(divide="ignore"):
        ends = coding.shares(np.log(np.array([p, p[::-1]])), ALLOWED)
    sizes = np.diff(ends)
    assert ends.dtype == np.int64 and (ends[:, 0] == 0).all() and (ends[:, -1] == TOTAL).all()
    assert (sizes[:, ALLOWED] >= 1).all() and (sizes[:, ~ALLOWED] == 0).all()
    wanted = np.array(p)[1:] / sum(p[1:])
    real = wanted > 0
    entropy = -(wanted[real] * np.log2(wanted[real])).sum()
    coded = -(wanted[real] * np.log2(sizes[0, 1:][real] / TOTAL)).sum()
    assert coded <= 1.001 * entropy + 1e-8
    assert -math.log2(sizes[0, 1:].max() / TOTAL) < 1e-8 - math.log2(wanted.max())


def test_a_large_vocabulary_costs_little() -> None:
    logs = np.random.default_rng(1).normal(0, 4, (3, 1 << 17))
    logs -= np.log(np.exp(logs).sum(1, keepdims=True))
    sizes = np.diff(coding.shares(logs.astype(np.float32), np.ones(1 << 17, bool)))
    p = np.exp(logs)
    entropy, coded = -(p * logs).sum(1) / math.log(2), -(p * np.log2(sizes / TOTAL)).sum(1)
    assert (coded < 1.0001 * entropy).all() and (sizes >= 1).all() and (sizes.sum(1) == TOTAL).all()


@pytest.mark.parametrize("bad", [[np.nan, 0, 0, 0, 0.0], [0, np.nan, 0, 0, 0], [0, -np.inf, -np.inf, -np.inf, -np.inf]])
def test_what_is_no_distribution_is_refused(bad) -> None:
    logs = np.array([bad], np.float64)
    if math.isnan(bad[0]):
        assert coding.shares(logs, ALLOWED)[0, -1] == TOTAL  # of a token that cannot occur nothing is asked
        return
    with pytest.raises(RunError, match="no numbers"):
        coding.shares(logs, ALLOWED)


def test_control_tokens_get_nothing(tokenizer) -> None:
    size = tokenizer.vocabulary_size
    for separated in (False, True):
        allowed = coding.allow(tokenizer, separated)
        sizes = np.diff(coding.shares(np.full((1, size), -math.log(size)), allowed))[0]
        assert [bool(each) for each in sizes[: len(SPECIALS)]] == [False, separated, False, False, False]
        assert (sizes[len(SPECIALS) :] > 0).all()


# --- any bytes, any model -------------------------------------------------------------------------------------------


pieces = some.one_of(
    some.binary(max_size=12),
    some.text(max_size=6).map(lambda text: text.encode("utf-8", "surrogatepass")),
    some.sampled_from([TEXT[:9].encode(), b"\r\n", b"\n\n"]),
)


@pytest.mark.parametrize("kind", KINDS)
@budget(max_examples=12)
@given(data=some.lists(pieces, max_size=9).map(b"".join))
@example(data=b"")
@example(data=b"\n")
@example(data=b"\n\n\n\n")
@example(data=b"\xef\xbb\xbfBOM\r\nline\r\n")
@example(data=bytes(range(256)))
@example(data=TEXT.encode()[1:-1] * 2)
def test_any_bytes_come_back(models, tokenizer, kind, data) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coding, "LANE", 10)  # so that small texts have many
        packed = coding.pack(models[kind], tokenizer, data, NAME)
        assert coding.unpack(models[kind], tokenizer, packed, NAME) == data


@budget(max_examples=50)
@given(data=some.lists(pieces, max_size=9).map(b"".join), separator=some.sampled_from(coding.SEPARATORS))
def test_bytes_are_tokens_and_bytes_again(tokenizer, data, separator) -> None:
    for each in (tokenizer, *OTHERS):
        tokens = coding.to_tokens(each, data, separator)
        assert coding.to_bytes(each, tokens, separator) == data
        assert coding.allow(each, bool(separator))[tokens].all() and len(tokens) <= len(data)


OTHERS = (train_bpe([TEXT * 3], 300), train_unigram([TEXT * 3], 300), train_words([TEXT * 3], 300))


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_what_the_model_scores(models, tokenizer, kind) -> None:
    """One lane sees what scoring sees, over a text of many windows; only the last window of scoring has more before it."""
    data = POEMS.encode() * 2
    _, content = coding.read_file(coding.pack(models[kind], tokenizer, data))
    separator = coding.choose_separator(models[kind], tokenizer, data)
    bits = -score(models[kind], np.concatenate([[1], coding.to_tokens(tokenizer, data, separator)])).sum() / math.log(2)
    assert bits > 500
    assert 0.98 * bits < 8 * len(content) < 1.005 * bits + 16


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 11, 100])
@pytest.mark.parametrize("lanes", [1, 4, 7])
def test_lanes_of_every_length(models, tokenizer, count, lanes) -> None:
    tokens = coding.to_tokens(tokenizer, (TEXT * 3).encode())[:count]
    allowed = coding.allow(tokenizer, False)
    done: list[int] = []
    content = coding.encode_tokens(models["qwen3"], tokens, lanes, allowed, 1, done.append)
    assert coding.decode_tokens(models["qwen3"], content, count, lanes, allowed, 1, done.append).tolist() == tokens.tolist()
    assert done[-1:] == ([count] if count else []) and done == 2 * done[: len(done) // 2]


def test_the_number_of_lanes_is_a_function_of_the_length(models, tokenizer) -> None:
    assert [coding.lanes_for(n) for n in (0, 1, coding.LANE, 2 * coding.LANE - 1, 2 * coding.LANE, 10**9)] == [1, 1, 1, 1, 2, coding.LANES]
    header, _ = coding.read_file(coding.pack(models["ngram"], tokenizer, TEXT.encode()))
    assert header.lanes == 1 and header.tokens == len(TEXT) and header.size_bytes == len(TEXT.encode())


def test_documents_are_divided_where_that_is_likelier(models, tokenizer) -> None:
    assert coding.choose_separator(models["ngram"], tokenizer, POEMS.encode()) == b"\n\n"
    assert coding.choose_separator(models["ngram"], tokenizer, TEXT.encode()) == b""
    assert coding.read_file(coding.pack(models["ngram"], tokenizer, POEMS.encode()))[0].separator == b"\n\n"


# --- files that are not what they should be -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(models, tokenizer) -> bytes:
    return coding.pack(models["ngram"], tokenizer, TEXT.encode(), NAME)


def test_no_bit_can_flip_unseen(packed) -> None:
    for place in range(len(packed)):
        for bit in range(8):
            changed = bytearray(packed)
            changed[place] ^= 1 << bit
            with pytest.raises(DataError):
                coding.read_file(bytes(changed))


def test_cut_and_lengthened_files_are_refused(packed) -> None:
    for size in range(len(packed)):
        with pytest.raises(DataError):
            coding.read_file(packed[:size])
    with pytest.raises(DataError, match="damaged"):
        coding.read_file(packed + b"\0")
    assert coding.read_file(packed)[0].model == NAME


def test_another_model_is_refused_by_name(models, tokenizer, packed) -> None:
    with pytest.raises(UsageError) as refused:
        coding.unpack(models["ngram"], tokenizer, packed, bytes(32), "a.zxp")
    assert refused.value.code == "coding.other_model"
    assert NAME.hex()[:12] in str(refused.value) and "000000000000" in str(refused.value) and "a.zxp" in str(refused.value)


def test_other_arithmetic_is_told_and_found_out(models, tokenizer, monkeypatch) -> None:
    model = make("qwen3", tokenizer)
    packed = coding.pack(model, tokenizer, TEXT.encode() * 4)
    told: list[str] = []

    def tell(code: str, **values) -> None:
        told.extend([code] * (code != "pack.progress"))

    coding.unpack(model, tokenizer, packed, tell=tell)
    assert told == []
    monkeypatch.setattr(coding, "arithmetic", lambda: ("1.0\t2.0\tabacus", 3))
    assert coding.unpack(model, tokenizer, packed, tell=tell) == TEXT.encode() * 4
    assert told == ["pack.other_machine"]
    with torch.no_grad():
        model.model.norm.weight.mul_(1 + 1e-3)
    with pytest.raises(RunError) as differs:
        coding.unpack(model, tokenizer, packed)
    assert differs.value.code == "coding.differs" and "torch 1.0, numpy 2.0, device abacus, threads 3" in str(differs.value)


def test_progress_is_told_and_a_stop_obeyed(models, tokenizer, monkeypatch) -> None:
    told: list[dict] = []
    monkeypatch.setattr(coding, "REPORT_SECONDS", 0.0)
    data = TEXT.encode() * 5
    coding.pack(models["ngram"], tokenizer, data, tell=lambda code, **values: told.append({"code": code, **values}))
    assert {each["code"] for each in told} == {"pack.progress"}
    assert told[-1]["done"] == told[-1]["total"] == len(data) and told[-1]["left"] == 0 and told[0]["rate"] > 0
    stop = Stop()
    stop.number = 15
    with pytest.raises(Stopped):
        coding.pack(models["ngram"], tokenizer, data, stop=stop)
