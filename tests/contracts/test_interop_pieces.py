"""Tokenizers of SentencePiece's sort beside transformers: the same ids and numbers, from a folder and from a GGUF file, there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pieces_maker import CONTROLS, FORMS, ODD, TEXTS, bpe, decoder, unigram
from transformers_maker import saved_encoder

from zhixing import export_model, import_model, load
from zhixing.layers.kinds import Inputs

transformers = pytest.importorskip("transformers", reason="transformers is not installed: there is nothing to compare with")
pytestmark = pytest.mark.interop

TOLERANCE = 1e-5
# Names that such a file's merges or pieces lead to are control tokens there, and text here.
NAMES = (*CONTROLS, "<pad>", "<mask>", "<0x")
ALL = [text for text in (*TEXTS, *ODD, " ".join(TEXTS)) if not any(name in text for name in NAMES)]


def same(here: torch.Tensor, there: torch.Tensor) -> None:
    assert float((here - there).abs().max() / there.abs().max()) < TOLERANCE


@pytest.mark.parametrize("form", FORMS)
def test_a_decoder_goes_the_whole_way(form: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed: transformers reads no such file without it")
    import_model(decoder(tmp_path / "theirs", form), tmp_path / "ours")
    opened = load(tmp_path / "ours")
    for place in ("theirs", "ours"):
        spoken = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / place)
        for text in ALL:
            ids = opened.tokenizer.encode(text).tolist()
            assert spoken(text, add_special_tokens=False)["input_ids"] == ids, text
            assert spoken.decode(ids) == opened.tokenizer.decode(ids) or form == "gemma"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    row = torch.tensor([[1, *opened.tokenizer.encode(TEXTS[0]).tolist()]])
    with torch.no_grad():
        same(opened.model.logits(opened.model.states(Inputs(row))), theirs(row).logits)
        written = theirs.generate(
            row,
            max_new_tokens=8,
            do_sample=False,
            bad_words_ids=[[each] for each in opened.tokenizer.barred],
            pad_token_id=2,
            eos_token_id=2,
        )
    assert opened.generate(TEXTS[0], temperature=0, max_tokens=8).tokens == written[0, row.shape[1] :].tolist()
    export_model(tmp_path / "ours", tmp_path / "a.gguf", "f32")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf", dtype=torch.float32).eval()
    with torch.no_grad():
        same(again(row).logits, theirs(row).logits)
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="a.gguf")
    for text in ALL:  # there every such file puts one space before a text, and none before one that begins with a space
        if form == "first" or (form == "legacy" and not text.startswith(" ")):
            assert spoken(text, add_special_tokens=False)["input_ids"] == opened.tokenizer.encode(text).tolist(), text
    assert spoken("the")["input_ids"][0] == 1 and spoken.eos_token_id == 2


def saved(kind: str, head: bool, where: Path) -> Any:
    """Let transformers save an encoder of random weights, and write a Unigram beside it."""
    value = unigram()
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 66}
    own = {"pad_token_id": 1, "type_vocab_size": 1} if kind == "xlm-roberta" else {"pad_token_id": 0}
    config = transformers.AutoConfig.for_model(kind, **shape, **own, vocab_size=len(value["model"]["vocab"]))
    model = saved_encoder(config, head, where)
    (where / "tokenizer.json").write_text(json.dumps(value, ensure_ascii=False))
    names = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "cls_token": "<s>",
    }
    (where / "tokenizer_config.json").write_text(json.dumps({**names, "sep_token": "</s>", "tokenizer_class": "XLMRobertaTokenizer"}))
    return model


@pytest.mark.parametrize("head", [True, False], ids=["masked", "bare"])
@pytest.mark.parametrize("kind", ["xlm-roberta", "bert"])
def test_encoders_of_many_languages_have_the_same_states(kind: str, head: bool, tmp_path: Path) -> None:
    theirs = saved(kind, head, tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    opened = load(tmp_path / "ours")
    spoken = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "theirs")
    body = getattr(opened.model, "body", opened.model)
    assert opened.task.name == ("masked" if head else "similar")
    for text in ALL:
        read = spoken(text, truncation=True, max_length=64, return_tensors="pt")["input_ids"]
        assert opened.tokenizer.framed(opened.tokenizer.encode(text), 64).tolist() == read[0].tolist(), text
        with torch.no_grad():
            states, there = body.states(Inputs(read)), theirs(read)
            same(body.logits(states), there.logits) if head else same(states, there.last_hidden_state)
    with torch.no_grad():  # rows of several lengths beside each other
        rows = spoken.pad({"input_ids": [spoken(text)["input_ids"] for text in TEXTS]}, return_tensors="pt")
        states = body.states(Inputs(rows["input_ids"], rows["attention_mask"].sum(1)))
        there = theirs(rows["input_ids"], attention_mask=rows["attention_mask"], output_hidden_states=True).hidden_states[-1]
        real = rows["attention_mask"].bool()
        same(states[real], there[real])
    if head:
        (answer,) = opened.predict(["The quiet [mask] river"])
        assert answer.value.startswith("The quiet") and answer.value.endswith(" river")
    else:
        assert opened.embed(TEXTS).shape == (3, 24)


def test_ids_are_sentencepiece_s_own(tmp_path: Path) -> None:
    """A file of SentencePiece's, turned into a tokenizer.json as transformers does, and read here."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed: there is nothing to compare with")
    import io

    from zhixing.importing import vocabulary
    from zhixing.tokens.gguf import by_scores
    from zhixing.tokens.tokenizer import Tokenizer

    made = io.BytesIO()
    settings = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 9), model_writer=made, vocab_size=380, minloglevel=2, max_sentencepiece_length=8, **settings
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    tokens = [theirs.id_to_piece(each) for each in range(theirs.vocab_size())]
    scores = [theirs.get_score(each) for each in range(len(tokens))]
    sorts = [2, 3, 3, *(6 if theirs.is_byte(each) else 1 for each in range(3, len(tokens)))]
    vocab = {name: place for place, name in enumerate(tokens)}
    value = bpe("legacy", vocab=vocab, merges=[list(pair) for pair in by_scores(tokens, sorts, scores)])
    content, about = vocabulary.settle("tokenizer.json", json.dumps(value).encode(), {"eos_token": "</s>"}, [], len(tokens))
    ours = Tokenizer(content, settings=about)
    for text in (*TEXTS, *ODD, *(text * 3 for text in TEXTS)):
        assert ours.encode(text).tolist() == theirs.encode(text), text
        assert ours.decode(ours.encode(text)) == text
