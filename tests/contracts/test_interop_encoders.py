"""Encoders that transformers saves open as our BERT: the same logits at masked places, the same states, the same ids, framed as there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers_maker import saved_encoder
from wordpiece_maker import pieces

from zhixing import import_model, load
from zhixing.layers.kinds import Inputs

transformers = pytest.importorskip("transformers", reason="transformers is not installed: there is nothing to compare with")
pytestmark = pytest.mark.interop

TOLERANCE = 1e-5
TEXTS = ["The quiet old river carries 12 small boats.", "大江东去，浪淘尽。", "unaffable NAÏVE [CLS] [MASK] <mask> </s>", "x" * 120]
SHAPE = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 66}


def saved(kind: str, head: bool, where: Path) -> tuple[Any, Any]:
    """Let transformers save an encoder of random weights and its tokenizer; gives both."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers, processors, trainers

    if kind == "bert":
        names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
        library = pieces(TEXTS)
    else:
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
        library = Library(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        library.train_from_iterator(TEXTS * 4, trainers.BpeTrainer(vocab_size=290, special_tokens=special, initial_alphabet=alphabet))
        library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    spoken = transformers.PreTrainedTokenizerFast(tokenizer_object=library, **names)
    spoken.save_pretrained(where)
    padding = {"pad_token_id": 1, "type_vocab_size": 1} if kind == "roberta" else {"pad_token_id": 0}
    config = transformers.AutoConfig.for_model(kind, **SHAPE, vocab_size=library.get_vocab_size(), **padding)
    model = saved_encoder(config, head, where)
    return model, spoken


@pytest.mark.parametrize("head", [True, False], ids=["masked", "bare"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_states_and_logits_are_the_same(kind: str, head: bool, tmp_path: Path) -> None:
    theirs, spoken = saved(kind, head, tmp_path / "theirs")
    folder = import_model(tmp_path / "theirs", tmp_path / "ours")
    opened = load(tmp_path / "ours")
    assert folder.card["task"] == opened.task.name == ("masked" if head else "similar")
    body = getattr(opened.model, "body", opened.model)
    for text in TEXTS:
        read = spoken(text, truncation=True, max_length=64, return_tensors="pt", split_special_tokens=True)["input_ids"]
        ids = opened.tokenizer.framed(opened.tokenizer.encode(text), 64)
        assert ids.tolist() == read[0].tolist(), "what a user writes is no control token here"
        with torch.no_grad():
            states = body.states(Inputs(read))
            there = theirs(read)
            mine, other = (body.logits(states), there.logits) if head else (states, there.last_hidden_state)
        assert float((mine - other).abs().max() / other.abs().max()) < TOLERANCE
    with torch.no_grad():  # rows of several lengths beside each other
        rows = [spoken(text, truncation=True, max_length=64)["input_ids"] for text in TEXTS]
        both = spoken.pad({"input_ids": rows}, return_tensors="pt")
        lengths = both["attention_mask"].sum(1)
        states = body.states(Inputs(both["input_ids"], lengths))
        there = theirs(both["input_ids"], attention_mask=both["attention_mask"], output_hidden_states=True).hidden_states[-1]
        real = both["attention_mask"].bool()
        assert float((states - there)[real].abs().max() / there[real].abs().max()) < TOLERANCE


def test_what_is_imported_opens_in_transformers(tmp_path: Path) -> None:
    theirs, _ = saved("roberta", True, tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    assert type(again).__name__ == "BertForMaskedLM"
    tokens = torch.arange(5, 45)[None]
    with torch.no_grad():
        assert torch.allclose(again(tokens).logits, theirs(tokens).logits, atol=1e-4)
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert spoken.mask_token == "<mask>" and spoken(TEXTS[0])["input_ids"][0] == 0


def test_a_gap_is_filled_as_transformers_fills_it(tmp_path: Path) -> None:
    theirs, spoken = saved("bert", True, tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    (answer,) = load(tmp_path / "ours").predict(["The quiet old [mask] carries boats."])
    read = spoken("The quiet old [MASK] carries boats.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logs = theirs(read).logits[0, read[0].tolist().index(spoken.mask_token_id)].log_softmax(-1)
    for special in spoken.all_special_ids:
        logs[special] = -torch.inf
    best = spoken.convert_ids_to_tokens(int(logs.argmax())).removeprefix("##")
    assert answer.confidence == pytest.approx(float(logs.max().exp()), rel=1e-4) and best in next(iter(answer.scores))
