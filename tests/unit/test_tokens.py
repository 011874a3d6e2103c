"""Tokenizers: ids by rule, equal to the library's, stored and found again, never slow."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from tokenizers import Tokenizer as Library

from zhixing.core.errors import DataError, UsageError
from zhixing.tokens.tokenizer import FIRST_BYTE, FIRST_PIECE, SPECIALS, Decoder, Tokenizer, train_bpe, train_characters

TEXT = "abracadabra, said the magician. 知行合一，行之明觉精察处便是知。学而时习之，不亦说乎？\n" * 5
HARD = ["", "<|end|>", "<0x41>", "a<|user|>b<|pad|>", "é😀\u0000\u2028\r\n\t 　", "知" * 99 + "行", "12345", "Ġ Ċ ▁", "\ufeff\U0010ffff"]


@pytest.fixture(scope="module", params=["characters", "bpe"])
def tokenizer(request):
    return train_characters([TEXT]) if request.param == "characters" else train_bpe([TEXT], 320)


def test_ids_follow_the_rule():
    found = train_characters(["bbaac", "cd"])
    names = json.loads(found.content)["model"]["vocab"]
    assert list(names)[:5] == list(SPECIALS) and names["<0x00>"] == FIRST_BYTE and names["<0xFF>"] == FIRST_PIECE - 1
    assert list(names)[FIRST_PIECE:] == ["a", "b", "c", "d"]  # equal counts by code point, then the rarer
    assert found.vocabulary_size == 265
    assert found.encode("dab").tolist() == [264, 261, 262]
    assert found.encode("é").tolist() == [FIRST_BYTE + 0xC3, FIRST_BYTE + 0xA9]
    assert (found.pad_id, found.end_id, found.user_id, found.assistant_id, found.system_id) == (0, 1, 2, 3, 4)


def test_rare_characters_fall_to_bytes():
    assert train_characters(["aaabbc"], minimum_count=2).vocabulary_size == FIRST_PIECE + 2
    few = train_characters(["aaabbc"], limit=1)
    assert few.encode("ab").tolist() == [FIRST_PIECE, FIRST_BYTE + ord("b")]
    assert train_characters(["abc"], limit=0).decode(train_characters(["abc"], limit=0).encode("知行")) == "知行"


def test_equal_to_the_library(tokenizer):
    library = Library.from_str(tokenizer.content.decode())
    library.encode_special_tokens = True
    for text in [*HARD, TEXT, "ünseen ☃ 漢字 text"]:
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32
        assert ids.tolist() == library.encode(text, add_special_tokens=False).ids
        assert library.decode(ids.tolist(), skip_special_tokens=False) == text


def test_texts_come_back(tokenizer):
    for text in HARD:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode_bytes(ids) == text.encode()
        assert b"".join(tokenizer.token_bytes(int(each)) for each in ids) == text.encode()
        assert not len(ids) or ids.min() >= FIRST_BYTE
    assert [each.tolist() for each in tokenizer.encode_batch(HARD)] == [tokenizer.encode(text).tolist() for text in HARD]


def test_long_texts_are_cut_without_a_trace(tokenizer, monkeypatch):
    text = (TEXT + "  \n\n x\n知 1\n" + "é" * 50) * 20
    whole = tokenizer.encode(text).tolist()
    for chunk in (100, 333):
        monkeypatch.setattr("zhixing.tokens.tokenizer.CHUNK", chunk)
        assert tokenizer.encode(text).tolist() == whole
        assert tokenizer.encode_batch([text, "a"])[0].tolist() == whole


def test_control_tokens_are_no_text(tokenizer):
    ids = tokenizer.encode("".join(SPECIALS))
    assert ids.min() >= FIRST_BYTE and tokenizer.decode(ids) == "".join(SPECIALS)
    assert tokenizer.decode([1, *ids.tolist(), 0]) == "".join(SPECIALS)
    assert [tokenizer.token_bytes(id) for id in range(5)] == [b""] * 5


def test_streaming_gives_whole_characters(tokenizer):
    decoder = Decoder(tokenizer)
    pieces = [decoder.push(int(id)) for id in tokenizer.encode("a☃😀知")]
    assert "".join(pieces) + decoder.flush() == "a☃😀知"
    assert not any("\ufffd" in piece for piece in pieces) and "" in pieces
    half = [FIRST_BYTE + 0xE7, FIRST_BYTE + 0x9F]
    decoder = Decoder(tokenizer)
    assert [decoder.push(id) for id in half] == ["", ""] and decoder.flush() == "\ufffd" == tokenizer.decode(half)


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.hash == tokenizer.hash and again.sort == tokenizer.sort and again.vocabulary_size == tokenizer.vocabulary_size
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|end|>" and settings["pad_token"] == "<|pad|>" and settings["split_special_tokens"] is True


def test_training_is_a_function_of_the_text():
    assert train_bpe([TEXT, "more"], 330).hash == train_bpe([TEXT, "more"], 330).hash
    assert train_characters([TEXT]).hash == train_characters([TEXT[:100], TEXT[100:]]).hash
    assert train_characters([TEXT]).hash != train_characters([TEXT + "zzz"]).hash


def test_merges_stay_within_chinese_words():
    found = train_bpe(["我们喜欢北京大学。他们也喜欢北京大学。"] * 50, 400)
    names = {found.token_bytes(id).decode("utf-8", "replace") for id in range(FIRST_PIECE, found.vocabulary_size)}
    assert "喜欢" in names and "欢北" not in names and not any("喜欢北京" in name for name in names)
    assert len(found.encode("喜欢")) == 1


def test_the_size_of_bpe_is_told():
    heard = []
    found = train_bpe(["ab ab ab"], 1000, tell=lambda code, **values: heard.append((code, values)))
    assert heard == [("tokens.bpe", {"size": found.vocabulary_size, "wanted": 1000})] and found.vocabulary_size < 270
    assert train_bpe([TEXT], 300).vocabulary_size == 300


@pytest.mark.parametrize("letter", ["a", " ", "中", "1", "\n", "!"])
def test_one_character_many_times_is_not_slow(tokenizer, letter):
    text = letter * 300_000
    start = time.perf_counter()
    ids = tokenizer.encode(text)
    assert time.perf_counter() - start < 3  # 10 MB stay below 10 s only when the time is linear: see the bound in SPLIT
    assert tokenizer.decode(ids[:600]).rstrip("\ufffd").strip(letter) == "" and tokenizer.decode_bytes(ids) == text.encode()


@pytest.mark.parametrize(
    ("make", "error", "code"),
    [
        (lambda: train_characters([]), DataError, "tokens.no_text"),
        (lambda: train_bpe([""], 300), DataError, "tokens.no_text"),
        (lambda: train_bpe(["a"], 100), UsageError, "tokens.size"),
        (lambda: train_characters(["a"], minimum_count=0), UsageError, "tokens.settings"),
        (lambda: train_characters(["a\ud800"]), DataError, "tokens.surrogate"),
        (lambda: train_characters(["a"]).encode("b\udfff"), DataError, "tokens.surrogate"),
        (lambda: train_bpe(["a"], 261).encode("b\udfff"), DataError, "tokens.surrogate"),
        (lambda: train_bpe(["a"], 261).encode_batch(["b\udfff"]), DataError, "tokens.surrogate"),
        (lambda: train_characters(["a"]).decode([262]), DataError, "tokens.id"),
        (lambda: train_characters(["a"]).decode([-1]), DataError, "tokens.id"),
        (lambda: Tokenizer(b"{}"), DataError, "tokens.file"),
        (lambda: Tokenizer(b"\xff"), DataError, "tokens.file"),
        (lambda: Tokenizer(train_characters(["a"]).content.replace(b"<|end|>", b"<|eos|>")), DataError, "tokens.file"),
        (lambda: Tokenizer.load("/nowhere/at/all"), DataError, "file.missing"),
    ],
)
def test_what_cannot_be(make, error, code):
    with pytest.raises(error) as caught:
        make()
    assert caught.value.code == code and caught.value.text("en") and caught.value.text("zh")
