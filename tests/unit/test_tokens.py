"""Tokenizers: ids by rule, equal to the library's, stored and found again, never slow."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from tokenizers import Tokenizer as Library

from zhixing.core.errors import DataError, UsageError
from zhixing.tokens import layout, words
from zhixing.tokens.tokenizer import (
    FIRST_BYTE,
    FIRST_PIECE,
    SORTS,
    SPECIALS,
    Decoder,
    Tokenizer,
    train_bpe,
    train_characters,
    train_unigram,
    train_words,
)  # fmt: skip
from zhixing.tokens.unigram import settle

TEXT = "abracadabra, said the magician. 知行合一，行之明觉精察处便是知。学而时习之，不亦说乎？\n" * 5
HARD = ["", "<|end|>", "<0x41>", "a<|user|>b<|pad|>", "é😀\u0000\u2028\r\n\t 　", "知" * 99 + "行", "12345", "Ġ Ċ ▁", "\ufeff\U0010ffff"]


MADE = {
    "characters": lambda: train_characters([TEXT]),
    "bpe": lambda: train_bpe([TEXT], 320),
    "unigram": lambda: train_unigram([TEXT], 320),
    "words": lambda: train_words([TEXT], 320, ["知行合一", "New York"]),
}
PORTABLE = ("characters", "bpe", "unigram")


@pytest.fixture(scope="module", params=MADE)
def tokenizer(request):
    return MADE[request.param]()


def test_every_sort_is_tried(tokenizer):
    assert set(MADE) == set(SORTS)
    assert tokenizer.portable == (tokenizer.sort in PORTABLE)
    assert [tokenizer.token_bytes(FIRST_BYTE + byte) for byte in range(256)] == [bytes([byte]) for byte in range(256)]


def changed(which, old, new):
    """Open a words tokenizer after a change of one of its files."""
    made = train_words(["ab cd ab cd"], 300)
    files = {"content": made.content, "words": made.words}
    files[which] = re.sub(old, new, files[which], count=1, flags=re.S)
    assert files != {"content": made.content, "words": made.words}
    return Tokenizer(files["content"], words=files["words"])


def test_ids_follow_the_rule():
    found = train_characters(["bbaac", "cd"])
    names = json.loads(found.content)["model"]["vocab"]
    assert list(names)[:5] == list(SPECIALS) and names["<0x00>"] == FIRST_BYTE and names["<0xFF>"] == FIRST_PIECE - 1
    assert list(names)[FIRST_PIECE:] == ["a", "b", "c", "d"]  # equal counts by code point, then the rarer
    assert found.vocabulary_size == 265
    assert found.encode("dab").tolist() == [264, 261, 262]
    assert found.encode("é").tolist() == [FIRST_BYTE + 0xC3, FIRST_BYTE + 0xA9]
    assert (found.pad_id, found.end_id, found.opening, set(found.ends), found.barred) == (0, 1, (1,), {1}, (0, 2, 3, 4))
    assert found.controls == dict(enumerate(SPECIALS)) and found.byte_ids == list(range(5, 261))


def test_rare_characters_fall_to_bytes():
    assert train_characters(["aaabbc"], minimum_count=2).vocabulary_size == FIRST_PIECE + 2
    few = train_characters(["aaabbc"], limit=1)
    assert few.encode("ab").tolist() == [FIRST_PIECE, FIRST_BYTE + ord("b")]
    assert train_characters(["abc"], limit=0).decode(train_characters(["abc"], limit=0).encode("知行")) == "知行"


def test_equal_to_the_library(tokenizer):
    if not tokenizer.portable:  # a file that would be read as something else is not read at all
        with pytest.raises(Exception, match="ModelUntagged|untagged"):
            Library.from_str(tokenizer.content.decode())
        return
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


def disguise(draw: random.Random) -> str:
    """Write control tokens and bytes by name as someone would who wants them taken for more than text."""
    name = draw.choice([*SPECIALS, *draw.sample(layout.BYTES, 3), "<|im_start|>", "</s>", "[INST]"])
    ways = [
        lambda: name, lambda: name * draw.randint(2, 5), lambda: name[: len(name) // 2] + name + name[len(name) // 2 :],
        lambda: draw.choice("\u200b\u200d\ufeff\u00ad\u202e").join(name), lambda: name.upper(), lambda: name.replace("|", "｜"),
        lambda: "".join(chr(ord(each) + 0xFEE0) if "!" <= each <= "~" else each for each in name), lambda: name.replace("<", "&lt;"),
        lambda: "".join(f"\\u{ord(each):04x}" for each in name), lambda: f" {name}\n", lambda: f"{name}知", lambda: name[:-1],
        lambda: "".join(f"<0x{byte:02X}>" for byte in name.encode()), lambda: name.replace("e", "e\u0301"),
        lambda: "\r\n".join((name, name)),
        lambda: json.dumps(name), lambda: name[::-1], lambda: "\0" + name + "\0", lambda: name.encode().hex(" "),
    ]  # fmt: skip
    return "".join(draw.choice(["", "hi ", "知行", "<", "|>", "user: "]) + draw.choice(ways)() for _ in range(draw.randint(1, 3)))


def test_no_disguise_makes_a_control_token(tokenizer):
    draw = random.Random(7)
    texts = [disguise(draw) for _ in range(10_000)]
    assert len(set(texts)) > 5_000
    wrong = [
        text
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True)
        if ids.min() < FIRST_BYTE or tokenizer.decode_bytes(ids) != text.encode()
    ]
    assert wrong == []


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
    assert (tmp_path / "words.json").exists() == (tokenizer.sort == "words")
    assert (tmp_path / "tokenizer_config.json").exists() == tokenizer.portable
    if not tokenizer.portable:
        return
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|end|>" and settings["pad_token"] == "<|pad|>" and settings["split_special_tokens"] is True


def test_a_kill_while_saving_leaves_nothing_that_cannot_be_opened(tmp_path, monkeypatch):
    made = MADE["words"]()
    for writes in (0, 1, 2):
        folder, left = tmp_path / str(writes), [None] * writes
        folder.mkdir()

        def write(path, content, left=left):
            left.pop()
            path.write_bytes(content)

        monkeypatch.setattr("zhixing.tokens.tokenizer.write_bytes", write)
        with contextlib.suppress(IndexError):
            made.save(folder)
        if (folder / "tokenizer.json").exists():
            assert writes == 2 and Tokenizer.load(folder).hash == made.hash


def test_training_is_a_function_of_the_text():
    assert train_bpe([TEXT, "more"], 330).hash == train_bpe([TEXT, "more"], 330).hash
    assert train_characters([TEXT]).hash == train_characters([TEXT[:100], TEXT[100:]]).hash
    assert train_characters([TEXT]).hash != train_characters([TEXT + "zzz"]).hash
    assert train_unigram([TEXT, "more"], 330).hash == train_unigram([TEXT, "more"], 330).hash
    assert train_words([TEXT, "more"], 330).hash == train_words(["more", TEXT], 330).hash


PROGRAM = """
import sys
from zhixing.tokens.tokenizer import train_unigram
print(*(train_unigram([sys.argv[1]], size).hash for size in (290, 400)))
"""


def test_unigram_pieces_are_the_same_in_every_process():
    """The library keeps words in tables of random order: the last bits of its sums are random, and so is its ranking of idle characters."""
    draw = random.Random(5)
    odd = [chr(0x4E00 + 7 * number) for number in range(60)]
    text = " ".join(draw.choice(["abab", "baba", "caca", "acac", "xyx", "yxy", *odd]) * draw.randint(1, 2) for _ in range(3000))
    runs = [subprocess.run([sys.executable, "-c", PROGRAM, text], capture_output=True, text=True, check=True).stdout for _ in range(3)]
    assert len(set(runs)) == 1 and len(set(runs[0].split())) == 2


def test_idle_characters_and_last_bits_are_settled():
    found = [("b", -9.0), ("ab", -1.00000000001), ("a", -8.9999), ("ba", -1.0), ("c", -5.0)]
    other = [("c", -5.00000000002), ("ba", -1.00000000001), ("a", -9.0), ("ab", -1.0), ("b", -8.9998)]
    assert settle(found) == settle(other) == [("ab", -1.0), ("ba", -1.0), ("c", -5.0), ("a", -9.0), ("b", -9.0)]


@pytest.mark.parametrize("train", [train_bpe, train_unigram])
def test_pieces_stay_within_chinese_words(train):
    found = train(["我们喜欢北京大学。他们也喜欢北京大学。"] * 50, 400)
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
    tokenizer.encode("中 a")  # dictionaries are read before the clock starts
    start = time.process_time()
    ids = tokenizer.encode(text)
    assert time.process_time() - start < 3  # 10 MB stay below 10 s only when the time is linear: see the bound in SPLIT
    assert tokenizer.decode(ids[:600]).rstrip("\ufffd").strip(letter) == "" and tokenizer.decode_bytes(ids) == text.encode()


def test_unigram_takes_no_typed_name_for_a_token():
    """The library would: with another split, the literal "<0x41>" of a text becomes the byte, and the file is refused."""
    made = train_unigram(["all of the 0x41 <end> <0x41> <|end|> <|user|>\n" * 30], 330)
    names = {made.token_bytes(id).decode() for id in range(FIRST_PIECE, made.vocabulary_size)}
    assert not names & {*SPECIALS, *layout.BYTES}
    for text in ("<0x41>", "x<0x0A>y", "<|end|>", "a <|user|>\n<|pad|>", "<0x41><0x42>"):
        ids = made.encode(text)
        assert made.decode(ids) == text and ids.min() >= FIRST_BYTE
    loose = json.loads(made.content)
    loose["pre_tokenizer"] = None
    library = Library.from_str(json.dumps(loose))
    library.encode_special_tokens = True
    assert library.encode("<0x41>", add_special_tokens=False).ids == [FIRST_BYTE + 0x41]  # what must not be
    with pytest.raises(DataError, match="typed"):
        Tokenizer(json.dumps(loose).encode())


def test_unigram_keeps_to_its_alphabet():
    made = train_unigram(["abc " * 5000 + "知行"], 300)
    names = {made.token_bytes(id).decode() for id in range(FIRST_PIECE, made.vocabulary_size)}
    assert {"a", "b", "c", " "} <= set("".join(names)) and not {"知", "行"} & set("".join(names))  # two of 20,002 characters are bytes
    assert made.encode("知").tolist() == [FIRST_BYTE + byte for byte in "知".encode()]
    assert len(made.encode("abc abc abc")) < 11
    assert train_unigram([TEXT], 275).vocabulary_size <= 275


def test_words_are_cut_at_their_boundaries():
    cut = words.cut
    assert cut("It didn't rain, O’Neill said: 3,5 a_b x...") == [
        *("It", " didn't", " rain", ",", " O’Neill", " said", ":", " 3", ",", "5", " a", "_", "b", " x", "...")
    ]
    assert cut("我们喜欢北京大学。  They\n\n   do\r\n！！") == [
        *("我们", "喜欢", "北京大学", "。", " ", " They", "\n\n", "  ", " do", "\r\n", "！！")
    ]
    assert cut("हिन्दी Ελληνικά ñandú") == ["हिन्दी", " Ελληνικά", " ñandú"]  # a mark belongs to its letter
    assert cut("\U00020001喜欢") == ["\U00020001", "喜欢"] and cut(" ") == [" "] and cut("") == []


def test_a_dictionary_makes_words():
    plain, own = words.cut, words.Dictionary(["知行合一观", "New York", "喜欢北京", "ban"])
    assert plain("知行合一观") != ["知行合一观"]
    assert words.cut("他喜欢北京，知行合一观", own) == ["他", "喜欢北京", "，", "知行合一观"]
    assert words.cut("in New York, New Yorkers ban bananas 喜欢北", own) == [
        *("in", " New York", ",", " New", " Yorkers", " ban", " bananas", " ", "喜欢", "北")
    ]
    made = train_words(["we saw New York once"], 300, ["New York", "never seen"])
    assert made.token_bytes(int(made.encode("we saw New York")[-1])) == b" New York"
    assert made.hash != train_words(["we saw New York once"], 300, ["New York"]).hash  # both files count


def test_words_outside_the_vocabulary_are_spelt():
    made = train_words(["the cat sat.\nthe cat ran.\n知行合一"], 300)
    assert [made.token_bytes(int(id)) for id in made.encode("the cat sat")] == [b"the", b" cat", *(letter.encode() for letter in " sat")]
    assert made.encode("é").tolist() == [FIRST_BYTE + 0xC3, FIRST_BYTE + 0xA9]
    few = train_words(["the cat sat. the cat ran. 知行合一"], 271)
    assert few.vocabulary_size == 271 and few.decode(few.encode(TEXT)) == TEXT


def test_a_dictionary_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff知行合一\r\n\n  New York  \n知行合一\n".encode())
    assert words.read_dictionary(path) == ["New York", "知行合一"]
    for content, code in ((b"\n \n", "tokens.no_dictionary"), (b"a\xff", "file.not_utf8"), (b"a\tb\n", "tokens.dictionary")):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            words.read_dictionary(path)
        assert caught.value.code == code
    with pytest.raises(DataError) as caught:
        words.read_dictionary(tmp_path / "none.txt")
    assert caught.value.code == "file.missing"


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
        (lambda: train_unigram([""], 300), DataError, "tokens.no_text"),
        (lambda: train_unigram(["a"], 261), UsageError, "tokens.size"),
        (lambda: train_unigram(["a"], 300).encode("b\udfff"), DataError, "tokens.surrogate"),
        (lambda: train_words([], 300), DataError, "tokens.no_text"),
        (lambda: train_words(["a"], 261), UsageError, "tokens.size"),
        (lambda: train_words(["a"], 300, minimum_count=0), UsageError, "tokens.settings"),
        (lambda: train_words(["a\udfff"], 300), DataError, "tokens.surrogate"),
        (lambda: train_words(["a"], 300).encode("b\udfff"), DataError, "tokens.surrogate"),
        (lambda: train_words(["a"], 300, ["<|end|>"]), DataError, "tokens.dictionary"),
        (lambda: train_words(["a"], 300, ["<0x41>"]), DataError, "tokens.dictionary"),
        (lambda: train_words(["a"], 300, ["a\nb"]), DataError, "tokens.dictionary"),
        (lambda: train_words(["a"], 300, [" a"]), DataError, "tokens.dictionary"),
        (lambda: Tokenizer(train_words(["a"], 300).content), DataError, "tokens.file"),
        (lambda: changed("words", rb'"probe": "..', b'"probe": "00'), DataError, "tokens.segmenter"),
        (lambda: changed("words", b'"rjieba"', b'"pkuseg"'), DataError, "tokens.segmenter"),
        (lambda: changed("words", rb'"dictionary": .*', b'"dictionary": [" "]}'), DataError, "tokens.dictionary"),
        (lambda: changed("words", rb'"probe".*', b""), DataError, "tokens.file"),
        (lambda: changed("content", b'"Words"', b'"WordLevel"'), DataError, "tokens.file"),
    ],
)
def test_what_cannot_be(make, error, code):
    with pytest.raises(error) as caught:
        make()
    assert caught.value.code == code and caught.value.text("en") and caught.value.text("zh")


@pytest.mark.parametrize("texts", [[], [""], ["", "ab", ""], ["ab", "b中a", "界"], ["a😀", "b"], ["中" * 300, "", "文b"]])
def test_characters_spelt_as_one_are_those_spelt_apart(texts: list[str]) -> None:
    tokenizer = train_characters(["ab中文\n"])  # 界 and the face are not in it: several bytes each
    together, apart = tokenizer.encode_batch(texts), [tokenizer.encode(each) for each in texts]
    assert [each.tolist() for each in together] == [each.tolist() for each in apart]
    with pytest.raises(DataError):
        tokenizer.encode_batch([*texts, "a\ud800"])
