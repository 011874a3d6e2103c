"""Tokenizers of SentencePiece's sort: ids as the library's, bytes back, nothing typed becomes a control token, broken files are named."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pieces_maker import FORMS, ODD, TABLE, TEXTS, bpe, control, decoder, listed, table, unigram
from tokenizers import Tokenizer as Library

from zhixing import evaluate, export_model, import_model, load, prepare, train
from zhixing.core.errors import DataError, UsageError
from zhixing.decoding.coding import pack, unpack
from zhixing.evaluation.evaluate import score_text
from zhixing.importing import vocabulary
from zhixing.serving.replies import token_text
from zhixing.tokens import charsmap, pieces, tokenizer
from zhixing.tokens.gguf import from_gguf, to_gguf
from zhixing.tokens.template import chat_ids
from zhixing.tokens.tokenizer import Decoder, Tokenizer, train_characters, train_unigram, train_words

SIZE = 600
ALL = [*TEXTS, *ODD, " ".join(TEXTS), "\n".join(TEXTS * 3)]


def made(value: dict[str, Any], **about: Any) -> Tokenizer:
    """Open a tokenizer as `import` does."""
    told = {"bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>", **about}
    content, settings = vocabulary.settle("tokenizer.json", json.dumps(value).encode(), told, [], SIZE)
    return Tokenizer(content, settings=settings)


def plain(value: dict[str, Any]) -> Library:
    """Give the library's tokenizer of a file in which no merge leads to a control token or a byte, and no text does."""
    never = {*(each["content"] for each in value["added_tokens"]), *(f"<0x{byte:02X}>" for byte in range(256))}
    merges = [pair for pair in value["model"]["merges"] if "".join(pair) not in never]
    library = Library.from_str(json.dumps({**value, "model": {**value["model"], "merges": merges}}))
    library.encode_special_tokens = True
    return library


@pytest.mark.parametrize("form", FORMS)
def test_ids_are_the_library_s_and_texts_come_back(form: str) -> None:
    value = bpe(form)
    ours, library = made(value), plain(value)
    for text in ALL:
        ids = ours.encode(text)
        assert ids.tolist() == library.encode(text, add_special_tokens=False).ids, text
        assert not set(ids.tolist()) & set(ours.controls)
        if form != "first" or not text.startswith(" "):
            assert ours.decode_bytes(ids) == text.encode(), text
        if form != "gemma":
            assert ours.decode(ids) == library.decode(ids.tolist())
    assert [each.tolist() for each in ours.encode_batch(ALL)] == [ours.encode(text).tolist() for text in ALL]
    assert ours.opening == (1,) and ours.end_id == 2 and ours.barred[:2] == (0, 1) and not ours.lossless
    assert [ours.token_bytes(each) for each in ours.byte_ids] == [bytes([byte]) for byte in range(256)]
    assert ours.decode(ours.encode(" the")) == ("the" if form == "first" else " the"), "as other programs' files of this form have it"
    assert ours.decode(ours.encode("a▁b")) == "a b"


def test_names_that_merges_lead_to_are_text() -> None:
    value = bpe("legacy")
    library = Library.from_str(json.dumps(value))
    library.encode_special_tokens = True
    assert 2 in library.encode("</s>", add_special_tokens=False).ids, "a program that follows the merges takes it for the end"
    ours = made(value)
    for text in ("</s>", "a</s>", "</s></s>", "<s>", "<0x41>", "<unk>"):
        ids = ours.encode(text)
        assert not set(ids.tolist()) & set(ours.controls) and ours.decode(ids) == text
    value["added_tokens"] += [control(len(value["model"]["vocab"]), "<tool>", special=False)]
    ours, place = made(value), len(value["model"]["vocab"])
    assert place in ours.encode("a <tool> b") and place not in ours.encode("a <tool> b", guarded=True)
    for guarded in (False, True):
        for text in ("a <tool> b", "<tool>", "<tool>a", "a<tool><tool>  b"):
            assert ours.decode(ours.encode(text, guarded)) == text


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_gives_what_decode_gives_and_a_text_that_goes_on_keeps_its_space(form: str) -> None:
    ours = made(bpe(form))
    for text in ALL:
        ids = ours.encode(text).tolist()
        for begins in (True, False):
            stream = Decoder(ours, begins)
            assert "".join([*map(stream.push, ids), stream.flush()]) == ours.decode(ids, begins)
    both = [*ours.encode("the river").tolist(), *ours.encode(" and", begins=False).tolist()]
    assert ours.decode(both) == "the river and"
    assert ours.decode([1, *ours.encode("the").tolist(), 2, *ours.encode("river").tolist()]) == "theriver"


@pytest.mark.parametrize("form", [*FORMS, "unigram"])
def test_a_long_text_is_cut_where_no_piece_crosses(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = made(unigram() if form == "unigram" else bpe(form))
    long = "\n".join(each for each in ALL if "  " not in each and "\n" not in each and each.strip()) * 4
    whole = ours.encode(long)
    monkeypatch.setattr(tokenizer, "CHUNK", 60)
    assert len(list(ours.cut(long))) > (2 if form == "unigram" else 5)
    assert ours.encode(long).tolist() == whole.tolist()
    assert len(ours.encode("a" * 500)), "one that cannot be cut is encoded whole"


@pytest.mark.parametrize("flags", [{}, {"lstrip": True, "rstrip": True}, {"single_word": True}])
@pytest.mark.parametrize("form", FORMS)
def test_stretches_have_the_ids_of_the_whole(form: str, flags: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    value = bpe(form)
    value["added_tokens"].append({**control(len(value["model"]["vocab"]), "<tool>", special=False), **flags})
    ours, library = made(value), plain(value)
    long = "".join(each for each in ALL) + "the <tool>the <tool> 大江<tool><tool> a<tool>b" * 9
    monkeypatch.setattr(pieces, "STRETCH", 7)
    assert (len(ours._coder._stretches(long)) > 30) != bool(flags)
    assert ours.encode(long).tolist() == library.encode(long, add_special_tokens=False).ids
    assert ours.encode_batch([long, "the"])[0].tolist() == ours.encode(long).tolist()


def test_unigram_makes_letters_alike_and_reads_only() -> None:
    value = unigram()
    ours = made(value)
    library = Library.from_str(json.dumps(value))
    library.encode_special_tokens = True
    names = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    for text in ALL:
        ids = ours.encode(text).tolist()
        assert not set(ids) & {0, 1, 2, ours.mask_id}
        if not any(name in text for name in names):
            assert ids == library.encode(text, add_special_tokens=False).ids, text
    assert 2 in library.encode("</s>", add_special_tokens=False).ids and ours.decode(ours.encode("</s>")) == "</s>"
    assert ours.encode("大江\u3000the\n").tolist() == ours.encode("大江 the").tolist() and ours.decode(ours.encode("①")) != "①"
    assert 3 in ours.encode("龘") and ours.token_bytes(3) == b""
    assert ours.frame == ((0,), (2,)) and ours.framed(ours.encode("the"))[[0, -1]].tolist() == [0, 2]


def broken(raw: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}


def spoilt(**change: Any) -> dict[str, Any]:
    return bpe("legacy", **change)


LOOSE = struct.pack("<I", 1024) + struct.pack("<256I", *[1 << 30 | 1] * 256) + b"a\0"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "whole words": (spoilt(ignore_merges=True), "ignore_merges"),
    "dropout": (spoilt(dropout=0.5), "dropout"),
    "a suffix": (spoilt(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "a byte too few": (
        spoilt(vocab={name: place for name, place in spoilt()["model"]["vocab"].items() if name != "<0x0A>"}),
        "not every byte",
    ),
    "a long piece": (spoilt(vocab={**spoilt()["model"]["vocab"], "a" * 300: 599}), "256 characters"),
    "an expression": (
        {**spoilt(), "normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}},
        "normalizer Replace",
    ),
    "another letter": ({**spoilt(), "normalizer": {"type": "Prepend", "prepend": "▁▁▁"}}, "prepends a word"),
    "letters made alike": ({**spoilt(), "normalizer": {"type": "NFKC"}}, "normalizer NFKC"),
    "bytes in its split": (
        {**spoilt(), "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}},
        "split ByteLevel",
    ),
    "no mark": ({**spoilt(), "normalizer": None}, "makes ▁ of a space"),
    "merges of nothing": (spoilt(merges=[["a", "龘"]]), "out of vocabulary"),
    "no unknown token": (unigram(unk_id=None), "no unknown token"),
    "an unknown token beyond": (unigram(unk_id=4000), "no unknown token"),
    "a name twice": (unigram(vocab=[*unigram()["model"]["vocab"], ["▁The", -1.0]]), "two ids"),
    "a score that is none": (unigram(vocab=[["a", None], *unigram()["model"]["vocab"][1:]]), ""),
    "a score without end": (unigram(vocab=[["<s>", float("inf")], *unigram()["model"]["vocab"][1:]]), ""),
    "an expression of its own": (
        {**unigram(), "normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}},
        "an expression",
    ),
    "a table that is none": ({**unigram(), "normalizer": broken(b"")}, "precompiled_charsmap"),
    "a table cut off": ({**unigram(), "normalizer": broken(struct.pack("<I", 1 << 20) + b"\0" * 64)}, "precompiled_charsmap"),
    "a table that is no base64": ({**unigram(), "normalizer": {"type": "Precompiled", "precompiled_charsmap": "%%%"}}, "base64"),
    "a table that leads outside": ({**unigram(), "normalizer": broken(LOOSE)}, "outside"),
    "a table of long words": (
        {**unigram(), "normalizer": {"type": "Precompiled", "precompiled_charsmap": table({"a": "b" * 900})}},
        "many times as long",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_such_a_tokenizer_is_named(name: str) -> None:
    value, word = BAD[name]
    with pytest.raises(DataError) as caught:
        made(value)
    assert caught.value.code == "import.tokenizer" and word in str(caught.value)


def test_a_table_is_walked_wherever_a_text_could_lead() -> None:
    assert charsmap.growth(table(TABLE)) == 3 and charsmap.growth(table({"a": ""})) == 1
    raw = base64.b64decode(table(TABLE))
    size = int.from_bytes(raw[:4], "little")
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        units = np.frombuffer(raw, "<u4", size // 4, 4).copy()
        used = np.flatnonzero(units)
        units[draw.choice(used)] ^= np.uint32(1 << int(draw.integers(8, 31)))
        coded = base64.b64encode(raw[:4] + units.tobytes() + raw[4 + size :]).decode()
        try:
            charsmap.growth(coded)
        except ValueError:
            refused += 1
            continue
        library = Library.from_str(json.dumps({**unigram(), "normalizer": {"type": "Precompiled", "precompiled_charsmap": coded}}))
        for text in ("".join(TABLE), *TEXTS):
            library.encode(text)  # a walk that left the table would end the thread
    assert refused > 20


SETTINGS = {
    "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}  # fmt: skip


def told() -> dict[str, Any]:
    tokens, sorts, scores = listed()
    lists = {"tokens": tokens, "token_type": np.array(sorts), "scores": np.array(scores)}
    return {**SETTINGS, **{f"tokenizer.ggml.{name}": value for name, value in lists.items()}}


def test_scores_of_a_gguf_file_are_merges() -> None:
    content, about = from_gguf("a.gguf", told())
    ours, beside = made(json.loads(content), **about), made(bpe("first"))
    for text in ALL:
        assert ours.encode(text).tolist() == beside.encode(text).tolist(), text
    assert ours.prefix == "first" and ours.opening == (1,) and ours.ends == {2}
    none, _ = from_gguf("a.gguf", {**told(), "tokenizer.ggml.add_space_prefix": False})
    assert made(json.loads(none)).encode("the").tolist() == made(bpe("gemma")).encode("the").tolist()


@pytest.mark.parametrize("form", FORMS)
def test_a_tokenizer_goes_to_gguf_and_comes_back(form: str) -> None:
    ours = made(bpe(form))
    settings = to_gguf(ours)
    lists = {
        name: np.array(value) if isinstance(value, list) and not isinstance(value[0], str) else value for name, value in settings.items()
    }
    content, about = from_gguf("a.gguf", lists)
    again = made(json.loads(content), **about)
    for text in ALL:
        assert again.encode(text).tolist() == ours.encode(text).tolist(), text
    assert again.controls == ours.controls and (again.prefix, again.opening, again.ends) == (ours.prefix, ours.opening, ours.ends)


def test_more_ends_than_gguf_names_are_refused() -> None:
    ours = made(bpe("gemma"))
    ours.controls = {**ours.controls, **{place: f"<|stop{place}|>" for place in (9, 10, 11)}, 12: "<|im_end|>"}
    ours.ends = frozenset({ours.last_id, 9, 10, 12})
    told = to_gguf(ours)
    assert (told["tokenizer.ggml.eot_token_id"], told["tokenizer.ggml.eom_token_id"]) == (9, 10), "the one that has a known name is found"
    ours.ends |= {11}
    with pytest.raises(UsageError, match="5 tokens that end a text"):
        to_gguf(ours)


def test_merges_that_no_scores_stand_for_are_refused() -> None:
    value = bpe("first")
    merges = [pair for pair in value["model"]["merges"] if "".join(pair) != "aaaa"]
    with pytest.raises(UsageError) as caught:
        to_gguf(made({**value, "model": {**value["model"], "merges": merges}}))
    assert caught.value.code == "export.tokenizer" and "scores" in str(caught.value)
    for other in (made(unigram()), train_unigram(TEXTS, 270), train_characters(TEXTS), train_words(TEXTS, 300)):
        with pytest.raises(UsageError) as caught:
            to_gguf(other)
        assert caught.value.code == "export.tokenizer" and "SentencePiece" in str(caught.value)


def test_a_byte_and_its_letter_have_two_names() -> None:
    ours = made(bpe("first"))
    names = [token_text(ours, place)[0] for place in range(SIZE) if ours.token_bytes(place)]
    assert len(set(names)) == len(names) and "a" in names and "bytes:\\x61" in names


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"scores": None}, "scores"),
        ({"scores": np.zeros(3)}, "scores"),
        ({"scores": "many"}, "scores"),
        ({"scores": np.array([np.nan] * len(listed()[0]))}, "no numbers"),
        ({"scores": np.array([np.inf] * len(listed()[0]))}, "no numbers"),
        ({"tokens": [*listed()[0][:-1], "<s>"]}, "two places"),
        ({"tokens": [*listed()[0][:-1], "a" * 1000]}, "256 characters"),
        ({"token_type": None}, "token_type"),
        ({"token_type": "x"}, "token_type"),
    ],
)
def test_what_is_wrong_with_scores_is_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(DataError) as caught:
        from_gguf("a.gguf", {**told(), **{f"tokenizer.ggml.{name}": value for name, value in change.items()}})
    assert caught.value.code == "import.tokenizer" and word in str(caught.value)


TEMPLATE = "{{ bos_token }}{% for each in messages %}[{{ each.role }}] {{ each.content }}{{ eos_token }}{% endfor %}"


@pytest.mark.parametrize("form", FORMS)
def test_a_chat_is_read_as_the_library_reads_what_was_rendered(form: str) -> None:
    value = bpe(form)
    ours, library = made(value, chat_template=TEMPLATE), plain(value)
    library.encode_special_tokens = False
    messages = [{"role": "user", "content": "the river"}, {"role": "assistant", "content": " 大江"}]
    wanted = library.encode("<s>[user] the river</s>[assistant]  大江</s>", add_special_tokens=False).ids
    assert chat_ids(ours, messages) == wanted
    spoken = chat_ids(ours, [{"role": "user", "content": "a</s>b"}])
    assert spoken.count(2) == 1 and spoken[-1] == 2, "what a user writes is text"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("pieces")
    lines = [f"{text} {number}" for number in range(40) for text in TEXTS] + [" a▁b", "▁", "  the"] * 4
    (where / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    from zhixing.preparation.prepare import Prepare

    prepare(where / "text.txt", where / "corpus", Prepare(unit="line", validation=0.2, test=0.3, repeats="keep"))
    for form in FORMS:
        import_model(decoder(where / f"theirs-{form}", form), where / form)
    return where


@pytest.mark.parametrize("form", FORMS)
def test_every_byte_is_counted_once(form: str, place: Path) -> None:
    from zhixing.data.corpus import open_corpus

    model, corpus = load(place / form), open_corpus(place / "corpus")
    found = score_text(model.model, model.tokenizer, corpus, "test")
    texts = [each["text"] for each in corpus.examples("test")]
    assert any("▁" in text for text in texts)
    assert found.sizes.tolist() == [len(text.encode()) for text in texts] and found.size_bytes == sum(found.sizes)
    assert 0 < evaluate(model, place / "corpus", save=False, samples=3, rivals=False).figure("bits_per_byte").value < 60


@pytest.mark.parametrize("form", FORMS)
def test_files_are_packed_by_it_or_refused(form: str, place: Path) -> None:
    model = load(place / form)
    data = "the river\n大江东去 \xff</s>".encode() + b"\xff\xfe the" + b"\n\nboats"
    packed = pack(model.model, model.tokenizer, data)
    assert unpack(model.model, model.tokenizer, packed) == data


def test_the_whole_way(place: Path, tmp_path: Path) -> None:
    model = load(place / "first")
    written = model.generate("the river", temperature=0, max_tokens=8)
    assert written.text == model.tokenizer.decode(written.tokens, begins=False)
    begun = model.generate("", temperature=0, max_tokens=8, seed=1)
    assert begun.text == model.tokenizer.decode(begun.tokens)
    train(place / "corpus", tmp_path / "more", {"start": str(place / "legacy"), "steps": 3, "window": 32, "batch": 2, "precision": "fp32"})
    for name, source in (("more", tmp_path / "more"), ("gemma", place / "gemma"), ("first", place / "first")):
        export_model(source, tmp_path / f"{name}.gguf", "f32")
        import_model(tmp_path / f"{name}.gguf", tmp_path / f"{name}-again")
        before, after = load(source), load(tmp_path / f"{name}-again")
        for text in ALL:
            ids = before.tokenizer.encode(text).tolist()
            assert after.tokenizer.encode(text).tolist() == ids and after.tokenizer.decode(ids) == before.tokenizer.decode(ids)
        assert after.score(TEXTS[0]).bits_per_byte == pytest.approx(before.score(TEXTS[0]).bits_per_byte, rel=1e-5)
