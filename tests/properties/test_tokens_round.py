"""Any Unicode text survives every tokenizer, and none becomes a control token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from zhixing.tokens.tokenizer import FIRST_BYTE, SPECIALS, Decoder, train_bpe, train_characters, train_unigram, train_words
from zhixing.tokens.words import Dictionary, cut

TEXT = "the quick brown fox; 学而时习之，不亦说乎？ <|user|> <0x0A>\n" * 9
TOKENIZERS = {
    "characters": train_characters([TEXT]),
    "few": train_characters([TEXT], limit=3),
    "bpe": train_bpe([TEXT], 400),
    "unigram": train_unigram([TEXT], 400),
    "few pieces": train_unigram([TEXT], 270),
    "words": train_words([TEXT], 400),
    "own words": train_words([TEXT], 270, ["学而时习", "brown fox", "0", "<|", "x0A>"]),
}
texts = st.lists(
    st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from([*SPECIALS, "<|", "|>", "<0x41>", TEXT[:20]]))
).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=texts)
def test_text_survives(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert np.all(ids >= FIRST_BYTE) and np.all(ids < tokenizer.vocabulary_size)
    if not tokenizer.portable:
        return
    library = Library.from_str(tokenizer.content.decode())
    library.encode_special_tokens = True
    assert ids.tolist() == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", TOKENIZERS)
@given(ids=st.lists(st.integers(0, 263)))
def test_streaming_equals_decoding(name, ids):
    tokenizer = TOKENIZERS[name]
    decoder = Decoder(tokenizer)
    assert "".join([*(decoder.push(id) for id in ids), decoder.flush()]) == tokenizer.decode(ids)


@given(text=texts, start=st.integers(0, 60))
def test_words_are_the_text(text, start):
    """Whatever a text is, its words put together are the text, also from the middle on and with a dictionary made of it."""
    parts = {text[start : start + 3], text[2:4]}
    own = Dictionary(sorted(each for each in parts if each and each == each.strip() and each.isprintable()))
    assert "".join(cut(text)) == text == "".join(cut(text, own))
