"""What a training of word vectors reads: which words there are, and the streams of their neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.corpus import Corpus
from zhixing.data.shards import shard
from zhixing.data.stream import Neighbours
from zhixing.models.embeddings import find_words
from zhixing.tasks.embed import Embed, learn_words, place_words
from zhixing.tokens.tokenizer import Tokenizer

DRAWN = 64  # words that a row of text shares: on film reviews 32 and 128 did as well
# An epoch of a shorter text goes through it again until so many words are read: 6,000 headlines need about 500 updates of the usual size.
LEAST_WORDS = 200_000
Learnt = tuple[np.ndarray, np.ndarray, np.ndarray]


def streams(
    corpus: Corpus, tokenizer: Tokenizer, task: Embed, settings: Any, tell: Callable[..., None]
) -> tuple[Learnt, Neighbours, Neighbours | None]:
    """Choose the words on the training split, and give them with the streams of training and, where there is any, of validation.

    return  (rows, edges, counts) as in `learn_words`, the stream to learn from, the stream to be judged by

    Raises DataError when no word of the training text is frequent enough.
    """
    tokens = shard(corpus, tokenizer, "train", tell).tokens
    learnt = learn_words(tokens, tokenizer, task.minimum)
    rows, edges, counts = learnt
    tell("train.words", words=len(counts), minimum=task.minimum)
    drawn = DRAWN if task.negatives else 0

    def stream(read: np.ndarray, batch: int, seed: int) -> Neighbours:
        words, texts = place_words(find_words(rows, edges, read), read, tokenizer.end_id)
        return Neighbours(words, texts, counts, batch, seed, drawn, task.subsample)

    training = stream(tokens, settings.batch, settings.seed)
    if not corpus.counts.get("validation"):
        return learnt, training, None
    try:
        return learnt, training, stream(shard(corpus, tokenizer, "validation", tell).tokens, settings.batch, 0)
    except DataError as problem:
        if problem.code != "data.no_words":  # a validation text without a single known word has nothing to judge by
            raise
        return learnt, training, None
