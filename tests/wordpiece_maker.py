"""A tokenizer of BERT's sort over the words of a few texts, and a folder of an encoder that a test can import."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def pieces(texts: list[str], size: int = 200) -> Library:
    """Make WordPiece of the commonest words and of every character; a text is framed by [CLS] and [SEP].

    Not learnt by the library: its trainer breaks ties by a random hash, so that two runs of one test would have two vocabularies.
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted({letter for word in words for letter in word})
    common = sorted((word for word in words if len(word) > 1), key=lambda word: (-words[word], word))
    vocabulary = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *common][:size]
    library = Library(models.WordPiece({piece: number for number, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    library.normalizer, library.pre_tokenizer = normalizer, splitter
    library.add_special_tokens(SPECIAL)
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    library.decoder = decoders.WordPiece()
    return library


def folder(where: Path, texts: list[str], head: bool = False, **config: Any) -> Path:
    """Write an encoder of random weights as another program would."""
    from zhixing.models import catalog

    library = pieces(texts)
    form = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 48}
    told = {"model_type": "bert", "vocab_size": library.get_vocab_size(), **form, "type_vocab_size": 2, "hidden_act": "gelu", **config}
    torch.manual_seed(0)
    model = catalog.build({**{name: value for name, value in told.items() if name not in config}, "masked_head": head})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    where.mkdir(parents=True, exist_ok=True)
    tensors = {name.removeprefix("bert."): value.contiguous() for name, value in model.state_dict().items()}
    beside = {"pooler.dense.weight": torch.eye(16), "embeddings.position_ids": torch.arange(48)[None]}
    save_file({**tensors, **beside}, where / "model.safetensors")
    (where / "config.json").write_text(json.dumps(told))
    (where / "tokenizer_config.json").write_text(json.dumps({"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}))
    library.save(str(where / "tokenizer.json"))
    return where
