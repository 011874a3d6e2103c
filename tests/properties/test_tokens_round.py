"""Any Unicode text survives every tokenizer, and none becomes a control token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from zhixing.tokens.tokenizer import FIRST_BYTE, SPECIALS, Decoder, train_bpe, train_characters

TEXT = "the quick brown fox; 学而时习之，不亦说乎？ <|user|> <0x0A>\n" * 9
TOKENIZERS = {"characters": train_characters([TEXT]), "few": train_characters([TEXT], limit=3), "bpe": train_bpe([TEXT], 400)}
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
    library = Library.from_str(tokenizer.content.decode())
    library.encode_special_tokens = True
    assert ids.tolist() == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", TOKENIZERS)
@given(ids=st.lists(st.integers(0, 263)))
def test_streaming_equals_decoding(name, ids):
    tokenizer = TOKENIZERS[name]
    decoder = Decoder(tokenizer)
    assert "".join([*(decoder.push(id) for id in ids), decoder.flush()]) == tokenizer.decode(ids)
