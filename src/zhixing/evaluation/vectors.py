"""Judging vectors of words on held-out text: how well a word tells the words near it, and whether texts of one label lie together.

The pairs judged are those of the split, thinned out as in training, so that they are not the same few words again and again, and each
counts as near as it is. `context_nats` is -log p(context word | word) over the whole vocabulary; `reciprocal_rank` that of the true word
among words drawn by their count to the power 0.75. The unit of intervals is a row of 64 words. Where the corpus has labels, `same_label` is
the share of a text's ten nearest texts, by the cosine of their mean vectors, that have its label; there `tf_idf` compares counts of words,
and `chance` draws a neighbour. The cheap rivals of `neighbours.py` stand beside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.corpus import Corpus
from zhixing.data.shards import shard
from zhixing.data.stream import NOISE_POWER, Neighbours, kept_share
from zhixing.evaluation.neighbours import (
    PRIORS,
    TEMPERATURES,
    Counted,
    Pairs,
    Teller,
    Unigram,
    Vectors,
    choose,
    collect,
    count,
    factorize,
    tell_pairs,
)  # fmt: skip
from zhixing.evaluation.report import Figure, Report, decide
from zhixing.metrics import intervals
from zhixing.tasks.embed import place_words

SEED = 20231
DRAWN = 64  # words that a true one is ranked among
BATCH_ROWS = 64
MOST_ROWS = 2048  # of the split, 131,000 words
CHOOSING_ROWS = 256  # of validation
NEIGHBOURS = 10
MOST_TEXTS = 5000  # whose nearest texts are looked for; more are thinned out evenly
TEXTS_AT_ONCE = 512
UNIGRAM, COUNTS, FACTORS, CHANCE, WORDS = "unigram", "counts", "pmi_svd", "chance", "tf_idf"
Tell = Callable[..., None]


def judge_vectors(artefact: Any, corpus: Corpus, split: str, tell: Tell, rivals: bool) -> Report:
    """Score vectors of words on a split's text, and on its labels where it has any.

    Raises DataError when the split holds no pair of known words.
    """
    model, window = artefact.model, artefact.task.window
    counts = model.counts.cpu().numpy()
    pairs, known = read_pairs(artefact, corpus, split, MOST_ROWS, tell)
    held = None
    if split != "validation" and corpus.counts.get("validation"):
        held = read_pairs(artefact, corpus, "validation", CHOOSING_ROWS, tell)[0]
    noise = np.log(counts**NOISE_POWER / (counts**NOISE_POWER).sum())  # (N,)
    tell("evaluate.contexts", pairs=len(pairs.words), words=len(np.unique(pairs.words)))
    table, contexts = (each.detach().float().cpu().numpy() for each in (model.embeddings.weight, model.contexts()))
    base = noise if artefact.task.negatives else np.zeros(len(counts))
    chosen: dict[str, float] = {}

    def settle(name: str, make: Callable[[float], Teller], among: tuple[float, ...], default: float) -> Teller:
        chosen[name] = choose(make, among, held, noise) if held is not None and len(held.words) else default
        return make(chosen[name])

    tellers: dict[str, Teller] = {"": settle("temperature", lambda t: Vectors(table, contexts, base, t), TEMPERATURES, 1.0)}
    factors = None
    if rivals:
        tell("evaluate.neighbours")
        near = count(read_stream(artefact, corpus, "train", 0, tell)[0], window, len(counts))
        kept = counts * kept_share(counts, artefact.task.subsample)
        unigram = np.log(kept / kept.sum())
        factors, others, free = factorize(near, model.width)
        tellers[UNIGRAM] = Unigram(unigram)
        tellers[COUNTS] = settle("prior", lambda p: Counted(near, unigram, p), PRIORS, 100.0)
        left = factors
        tellers[FACTORS] = settle("temperature_of_pmi_svd", lambda t: Vectors(left, others, free, t), TEMPERATURES, 1.0)

    rows = len(pairs.drawn)
    nats, ranks = {}, {}
    for name, teller in tellers.items():
        logs, reciprocal = tell_pairs(teller, pairs, noise)
        nats[name] = np.bincount(pairs.rows, -logs * pairs.weights, rows)  # (B,) in all of a row's pairs
        ranks[name] = np.bincount(pairs.rows, reciprocal * pairs.weights, rows)
    sizes = np.bincount(pairs.rows, pairs.weights, rows)
    filled = sizes > 0
    names = [name for name in tellers if name]
    figures = []
    for title, values in (("context_nats", nats), ("reciprocal_rank", ranks)):
        spread = intervals.interval_of_ratio(values[""][filled], sizes[filled], SEED)
        beside = {name: float(values[name].sum() / sizes.sum()) for name in names}
        figures.append(Figure(title, spread.value, spread.low, spread.high, beside))
    gaps = {name: intervals.paired(nats[""][filled], nats[name][filled], SEED, sizes[filled]).to_dict() for name in names}
    if corpus.labels:
        figures.append(judge_labels(artefact, corpus, split, factors))
    details = {"units": int(filled.sum()), "pairs": len(pairs.words), "known_words": known, **chosen}
    where = (str(artefact.folder.path), str(corpus.path))
    return Report(*where, split, "embed", corpus.counts[split], tuple(figures), gaps, decide(gaps, False), details)


def read_stream(artefact: Any, corpus: Corpus, split: str, drawn: int, tell: Tell) -> tuple[Neighbours, float]:
    """Give a split as the model's training would read it, and the share of its words that the model knows."""
    from zhixing.tokens.lexicon import Lexicon, find_pieces

    tokens = np.asarray(shard(corpus, artefact.tokenizer, split, tell).tokens)
    words, texts = place_words(artefact.model.read(tokens), tokens, artefact.tokenizer.end_id)
    lexicon = Lexicon.of(artefact.tokenizer)
    pieces = find_pieces(lexicon.edges[tokens])
    spelt = np.array([bool(form) for form in lexicon.forms])[tokens]
    starts = pieces & ~np.concatenate([[False], pieces[:-1]])  # a run of pieces is one word, cut up because it is rare
    whole = np.count_nonzero(spelt & ~pieces) + np.count_nonzero(starts)
    if len(words) < 2:
        raise DataError("data.no_words")
    counts = artefact.model.counts.cpu().numpy()
    return Neighbours(words, texts, counts, BATCH_ROWS, SEED, drawn, artefact.task.subsample), len(words) / max(1, whole)


def read_pairs(artefact: Any, corpus: Corpus, split: str, most: int, tell: Tell) -> tuple[Pairs, float]:
    """Give the pairs of a split, of `most` rows of text at most, and the share of its words that the model knows."""
    stream, known = read_stream(artefact, corpus, split, DRAWN, tell)
    return collect(stream, artefact.task.window, most), known


def judge_labels(artefact: Any, corpus: Corpus, split: str, factors: np.ndarray | None) -> Figure:
    """Give the share of each text's nearest texts that have its label.

    factors  (N, D) float   the rival's vectors, or None: no rivals
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfTransformer

    examples = list(corpus.examples(split))
    examples = [examples[place] for place in np.unique(np.linspace(0, len(examples) - 1, min(MOST_TEXTS, len(examples))).astype(int))]
    labels = np.unique([each["label"] for each in examples], return_inverse=True)[1]  # (B,)
    model = artefact.model
    tokens = artefact.tokenizer.encode_batch([each["text"] for each in examples])
    spread = intervals.interval(share_of_label(model.embed(tokens), labels), SEED)
    beside = {}
    if factors is not None:
        read = [words[words >= 0] for words in map(model.read, tokens)]
        owner = np.repeat(np.arange(len(read)), [len(each) for each in read])
        words = np.concatenate(read)
        bags = csr_matrix((np.ones(len(words)), (owner, words)), shape=(len(read), len(factors)))
        weighted = bags.multiply(model.weights().cpu().numpy()).tocsr()
        beside[FACTORS] = float(share_of_label(weighted @ factors, labels).mean())
        beside[WORDS] = float(share_of_label(TfidfTransformer(sublinear_tf=True).fit_transform(bags), labels).mean())
        sizes = np.bincount(labels)[labels]
        beside[CHANCE] = float(((sizes - 1) / max(1, len(labels) - 1)).mean())
    return Figure("same_label", spread.value, spread.low, spread.high, beside)


def share_of_label(vectors: Any, labels: np.ndarray) -> np.ndarray:
    """Give, of each text, the share of its nearest texts that have its label; 0 for one without a vector.

    vectors  (B, D) float or sparse
    labels   (B,) int
    return   (B,) float
    """
    from sklearn.preprocessing import normalize

    vectors = normalize(vectors)
    count = min(NEIGHBOURS, len(labels) - 1)
    shares = np.zeros(len(labels))
    if count < 1:
        return shares
    for start in range(0, len(labels), TEXTS_AT_ONCE):
        cosines = vectors[start : start + TEXTS_AT_ONCE] @ vectors.T  # (B', B)
        cosines = np.asarray(cosines.todense()) if hasattr(cosines, "todense") else cosines
        rows = np.arange(len(cosines))
        cosines[rows, rows + start] = -2.0
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        shares[start : start + len(cosines)] = (labels[nearest] == labels[rows + start][:, None]).mean(1)
        shares[start + rows[cosines.max(1) <= 0]] = 0.0
    return shares
