"""The table of model families, and the way from a config and tensors to a model and back.

A family is one file and one line here a name, keyed by `model_type` as Hugging Face's config.json writes it. Its class offers
    from_config(config)              neural: a fresh model, initialised from torch's current generator
    from_tensors(config, tensors)    counted or linear: the fitted model itself; these have no fresh form. `arrays = True`: it is made of
                                     NumPy arrays, and torch is not imported for it
    to_dict()                        the JSON-able dict that leads back to the same model
and, when its tensors are not simply its state dict, `tensors()`. A family that the training loop trains offers as well
    PLANS                                        {name: {size: settings}}, the dial's frozen plans of each of its names
    configure(settings, vocabulary, longest)     the config of the model that settled settings describe
    kinds                                        what it serves as: "causal", "encoder", "masked", "encoder_decoder", "lexical",
                                                 "document" (an encoder of one state a text), "vision", "fusion", "towers",
                                                 "acoustic", "speech_seq2seq" (an encoder_decoder whose source is frames)
    TASK                                         {setting of the config: field of the task}: what only the task knows, where there is such
    PRETRAINED                                   settings of a training that begins with an imported one, over those of all families
    CARRIES                                      fields that a task keeps of a start that was trained for it: its weights rest on them
Nothing is imported until it is asked for, torch neither.
Leaves out: files and folders (tasks/artefact.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from zhixing.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

MODELS = {
    "qwen3": "zhixing.models.llama:Llama",
    "llama": "zhixing.models.llama:Llama",
    "gpt2": "zhixing.models.gpt2:GPT2",
    "convolution": "zhixing.models.convolution:Convolution",
    "feedforward": "zhixing.models.feedforward:FeedForward",
    "rnn": "zhixing.models.recurrent:TextGenerator",
    "gru": "zhixing.models.recurrent:TextGenerator",
    "lstm": "zhixing.models.recurrent:TextGenerator",
    "hashed": "zhixing.models.hashed:Hashed",
    "textcnn": "zhixing.models.textcnn:TextCNN",
    "bilstm": "zhixing.models.bidirectional:Bidirectional",
    "bigru": "zhixing.models.bidirectional:Bidirectional",
    "bert": "zhixing.models.bert:Bert",
    "fusion": "zhixing.models.fusion:Fusion",
    "vit": "zhixing.models.vision:ViT",
    "cnn2d": "zhixing.models.vision:CNN",
    "towers": "zhixing.models.towers:Towers",
    "mbart": "zhixing.models.seq2seq:Seq2Seq",
    "lstm_attention": "zhixing.models.attentive:Attentive",
    "bilstm_ctc": "zhixing.models.speech:BiLSTM",
    "conformer": "zhixing.models.speech:Conformer",
    "whisper": "zhixing.models.whisper:Whisper",
    "copy": "zhixing.models.copying:Copy",
    "grammar": "zhixing.models.grammar:Grammar",
    "ngram": "zhixing.models.ngram:NGram",
    "dirichlet": "zhixing.models.ngram:NGram",
    "additive": "zhixing.models.ngram:NGram",
    "bag": "zhixing.models.bag:Bag",
    "mixture": "zhixing.models.mixture:Mixture",
    "skipgram": "zhixing.models.embeddings:Embeddings",
    "cbow": "zhixing.models.embeddings:Embeddings",
    "crf": "zhixing.models.crf:CRF",
    "frequent_tag": "zhixing.models.crf:FrequentTag",
    "trees": "zhixing.models.trees:Trees",
    "table_logistic": "zhixing.models.tables:TableLogistic",
    "graph": "zhixing.models.graph:Graph",
    "session": "zhixing.models.session:Session",
    "overlap": "zhixing.models.overlap:Overlap",
    "majority": "zhixing.models.tables:Majority",
    "ridge": "zhixing.models.ridge:Ridge",
    "several": "zhixing.models.several:Several",
    "bag_each": "zhixing.models.each:BagEach",
    "frequent_set": "zhixing.models.each:FrequentSet",
    "popularity": "zhixing.models.items:Popularity",
    "item_neighbours": "zhixing.models.items:Neighbours",
    "item_followers": "zhixing.models.items:Neighbours",
    "ease": "zhixing.models.items:Ease",
    "pixels": "zhixing.models.pixels:Pixels",
    "practice": "zhixing.models.histories:Practice",
    "dtw": "zhixing.models.warping:Warping",
}


def find(config: Mapping[str, Any]) -> type:
    """Give the class of the family that a config names.

    Raises DataError when the config names no family, or one that is not in MODELS.
    """
    name = config.get("model_type")
    if name not in MODELS:
        raise DataError("model.unknown_type", name=name, among=sorted(MODELS))
    module, _, attribute = MODELS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def trained(kinds: Collection[str] | None = None) -> tuple[str, ...]:
    """List the names that the training loop can train, in the table's order: those that serve as one of the kinds, or as any."""
    families = {name: find({"model_type": name}) for name in MODELS}
    trainable = {name: family for name, family in families.items() if hasattr(family, "configure")}
    return tuple(name for name, family in trainable.items() if kinds is None or set(kinds) & set(family.kinds))


def plan(name: str, size: str) -> dict[str, Any]:
    """Give the frozen plan of a family's size, as training settings; nothing for a family that the dial does not turn."""
    return dict(getattr(find({"model_type": name}), "PLANS", {}).get(name, {}).get(size, {}))


def configure(settings: Any, vocabulary: int, longest: int, task: Any = None) -> dict[str, Any]:
    """Give the config of the model that settled training settings describe.

    settings    has model, dropout and the form (layers, width and what else the family's plans set)
    vocabulary  int, tokens
    longest     int, tokens    of the texts that the model will read
    task        the task that it will sit below: the size of pictures, for one
    """
    family = find({"model_type": settings.model})
    told = {name: getattr(task, field) for name, field in getattr(family, "TASK", {}).items()}
    return {**family.configure(settings, vocabulary, longest), **told}


def build(config: Mapping[str, Any]) -> nn.Module:
    """Make a fresh model, initialised from torch's current generator.

    Raises UsageError for a counted or linear family, which is fitted, not built; DataError for a config it cannot read.
    """
    family = find(config)
    if not hasattr(family, "from_config"):
        raise UsageError("model.not_buildable", name=config["model_type"])
    return family.from_config(dict(config))


def restore(config: Mapping[str, Any], tensors: Mapping[str, Tensor | np.ndarray]) -> Any:
    """Make the model that a config and its tensors describe; a neural one takes the tensors as they are, without a copy.

    return  the model, ready to be read: a neural one without dropout until `train()` is called on it

    Raises DataError naming the tensor that is missing, unexpected or of another shape.
    """
    family = find(config)
    if hasattr(family, "from_tensors"):
        return family.from_tensors({name: value for name, value in config.items() if name != "architectures"}, dict(tensors))
    import torch

    with torch.device("meta"):
        model = family.from_config(dict(config))
    load(model, tensors)
    return model.eval()


def load(model: nn.Module, tensors: Mapping[str, Tensor | np.ndarray]) -> None:
    """Put tensors into a model, strictly: every name, every shape; the model's own tensors are replaced, not written to.

    Raises DataError naming the tensor that is missing, unexpected or of another shape.
    """
    import torch

    wanted = model.state_dict()
    for name, value in wanted.items():
        if name not in tensors:
            raise DataError("model.tensor_missing", name=name, among=sorted(set(tensors) - set(wanted))[:8])
        if tuple(tensors[name].shape) != tuple(value.shape):
            raise DataError("model.tensor_shape", name=name, shape=tuple(tensors[name].shape), wanted=tuple(value.shape))
    for name in tensors:
        if name not in wanted:
            raise DataError("model.tensor_unexpected", name=name, among=sorted(wanted))
    state = {name: value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value)) for name, value in tensors.items()}
    model.load_state_dict(state, strict=True, assign=True)


def tensors(model: Any) -> dict[str, Tensor | np.ndarray]:
    """Give a model's tensors by name; a tensor that is shared under two names stands under the first only."""
    if hasattr(model, "tensors"):
        return dict(model.tensors())
    found: dict[str, Tensor] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, value in model.state_dict().items():
        place = (value.untyped_storage().data_ptr(), tuple(value.stride()) + tuple(value.shape) + (value.storage_offset(),))
        if value.numel() and value.device.type != "meta":
            if place in seen:
                continue
            seen.add(place)
        found[name] = value.detach()
    return found


def config(model: Any) -> dict[str, Any]:
    """Give the JSON-able config that leads back to a model, with `model_type` and `architectures`."""
    return {"architectures": [type(model).__name__], **model.to_dict()}
