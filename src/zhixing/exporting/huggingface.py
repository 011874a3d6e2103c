"""A trained model leaves as a folder that transformers opens with nothing of ours, and that transformers answers the golden answers from.

Config, weights and tokenizer have Hugging Face's names already; here the head gets them too, where one of its classes computes the same:

    what writes (Llama's, Qwen3's, GPT-2's layout)      AutoModelForCausalLM
    what fills gaps in (BERT's)                         AutoModelForMaskedLM
    what translates (mBART's)                           AutoModelForSeq2SeqLM
    what writes down a sound (Whisper's)                AutoModelForSpeechSeq2Seq
    a label, or several, by BERT's first state          AutoModelForSequenceClassification
    a tag a token (BERT's)                              AutoModelForTokenClassification; `transitions`, `start` in config.json
    a vector; a label by the mean of states             AutoModel, and pooling, length or head as sentence-transformers reads them

A temperature is in the head's weights; labels, thresholds and all else that the task settled are in task.json beside.
transformers' BERT has a layer with tanh before its head. Where ours has none it is a map so small that tanh does nothing, and the head is
as much larger. Of translations transformers divides log p by length ** alpha, ours by
((5 + length) / 6) ** alpha: of several beams another may be the best there.
Leaves out: heads of other models, which no class of transformers computes from the mean of states.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import read_json, write_bytes, write_json
from zhixing.decoding.search import Beam, limit
from zhixing.exporting import hearing
from zhixing.exporting.forms import BODY, CAUSAL, HEARD, LABELS, MASKED, PAIRS, TAGS, auto_of
from zhixing.exporting.replay import Answering, Translator, Writer
from zhixing.layers.kinds import Headed, Inputs
from zhixing.models import catalog
from zhixing.tasks import golden
from zhixing.tasks.artefact import CONFIG, GENERATION, TASK, WEIGHTS, Artefact
from zhixing.tasks.masked import GAP
from zhixing.tasks.task import to_dict
from zhixing.tokens.layout import Parts
from zhixing.tokens.tokenizer import SETTINGS, TOKENIZER

SMALL = 2.0**-10  # what stands for tanh's place in BERT's head: states of 8 come back to 2e-5 of their size
OURS = ("mask_token_id", "masked_head", "pooling")  # settings of BERT's that transformers has no use for
POOLING, NORMALISE, DENSE = "1_Pooling", "2_Normalize", "2_Dense"
MODULES = "sentence_transformers.models"
ARCHITECTURES = {
    LABELS: "BertForSequenceClassification",
    TAGS: "BertForTokenClassification",
    MASKED: "BertForMaskedLM",
}
BASES = {"qwen3": "Qwen3Model", "llama": "LlamaModel", "gpt2": "GPT2Model", "bert": "BertModel"}


def write(opened: Artefact, path: Path) -> tuple[str, dict[str, str]]:
    """Write a model's files into a folder, ask transformers what it answers; give the class that opens it, and the versions that did.

    Raises UsageError where transformers is not installed; DataError when it opens other tensors, cuts texts otherwise or answers otherwise.
    """
    try:
        import transformers
    except ImportError:
        raise UsageError("extra.missing", package="transformers", extra="interop") from None
    auto = auto_of(opened.task, opened.model)
    body = getattr(opened.model, "body", opened.model)
    config, tensors = catalog.config(body), dict(catalog.tensors(body))
    config = {name: value for name, value in config.items() if name not in OURS}
    task = dataclasses.replace(opened.task, temperature=1.0) if hasattr(opened.task, "temperature") else opened.task
    if isinstance(opened.model, Headed):
        more, changes = headed(opened, auto, path)
        tensors = {name: value for name, value in tensors.items() if not name.startswith(("cls.", "lm_head."))} | more
        config |= changes
    from safetensors.torch import save

    write_bytes(path / WEIGHTS, save({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, {"format": "pt"}))
    write_json(path / CONFIG, config)
    write_json(path / TASK, to_dict(task))
    tokenizer(opened, auto, path)
    if auto == HEARD:
        hearing.write(opened, path)
    check(opened, task, auto, path, transformers)
    return auto, {"transformers": transformers.__version__, "torch": torch.__version__}


def headed(opened: Artefact, auto: str, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Give a head's tensors under transformers' names, and what the config says of it; write what sentence-transformers reads beside."""
    head, task, body = opened.model.head, opened.task, opened.model.body
    family = catalog.config(body)["model_type"]
    names = list(getattr(task, "labels", None) or getattr(task, "tags", ()))
    told: dict[str, Any] = {"architectures": [ARCHITECTURES.get(auto, BASES[family])]}
    if names:
        told |= {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
        several = "cuts" in to_dict(task)
        told |= {"problem_type": "multi_label_classification" if several else "single_label_classification"} if head_pools(head) else {}
    if auto == TAGS:
        transitions, start = (each.detach().tolist() for each in head.chain())
        return {"classifier.weight": head.weight, "classifier.bias": head.bias}, {**told, "transitions": transitions, "start": start}
    scale = 1 / getattr(task, "temperature", 1.0)
    if auto == LABELS:
        pooler = {"weight": SMALL * torch.eye(body.width), "bias": torch.zeros(body.width)}
        tensors = {f"bert.pooler.dense.{name}": value.to(head.weight.dtype) for name, value in pooler.items()}
        return {**tensors, "classifier.weight": head.weight * (scale / SMALL), "classifier.bias": head.bias * scale}, told
    steps = [("", "Transformer"), (POOLING, "Pooling"), (DENSE, "Dense") if head_pools(head) else (NORMALISE, "Normalize")]
    modules = [{"idx": n, "name": str(n), "path": where, "type": f"{MODULES}.{kind}"} for n, (where, kind) in enumerate(steps)]
    write_json(path / "modules.json", modules)
    write_json(path / "sentence_bert_config.json", {"max_seq_length": longest_of(opened), "do_lower_case": False})
    for where, _ in steps[1:]:
        (path / where).mkdir()
    ways = {"cls_token": "first", "mean_tokens": "mean", "max_tokens": "max"}
    pooling = {f"pooling_mode_{name}": way == head.pooling for name, way in ways.items()}
    write_json(path / POOLING / CONFIG, {"word_embedding_dimension": body.width, **pooling, "pooling_mode_mean_sqrt_len_tokens": False})
    if head_pools(head):
        from safetensors.torch import save

        held = {"linear.weight": head.weight.detach() * scale, "linear.bias": head.bias.detach() * scale}
        shape = {"in_features": body.width, "out_features": len(head.bias), "bias": True}
        write_json(path / DENSE / CONFIG, {**shape, "activation_function": "torch.nn.modules.linear.Identity"})
        write_bytes(path / DENSE / WEIGHTS, save({name: value.contiguous().cpu() for name, value in held.items()}, {"format": "pt"}))
    return {}, told


def longest_of(opened: Artefact) -> int:
    """Give how many tokens of a text a model with a head, or one that translates, reads."""
    longest: int = opened.task.longest
    return min(longest, getattr(opened.model, "body", opened.model).window or longest)


def head_pools(head: nn.Module) -> bool:
    """Say whether a head has weights of its own over one state a text."""
    from zhixing.layers.heads import Pooled

    return isinstance(head, Pooled)


def tokenizer(opened: Artefact, auto: str, path: Path) -> None:
    """Write the tokenizer; it puts around a text what the model reads there, and knows the mask where the model fills gaps in."""
    given = opened.tokenizer
    assert given is not None
    given.save(path)
    settings, content = read_json(path / SETTINGS), json.loads(given.content)
    settings.pop("zhixing", None)
    if isinstance(opened.model, Headed) or auto == PAIRS:
        settings["model_max_length"] = longest_of(opened)
    ends = sorted(given.ends)
    generation: dict[str, Any] = {"eos_token_id": ends if len(ends) > 1 else given.end_id, "pad_token_id": given.pad_id}
    generation |= {"suppress_tokens": list(given.barred), "do_sample": auto == CAUSAL}
    if auto == PAIRS:
        task, most = opened.task, limit(opened.model, Beam(), 1, longest_of(opened))
        generation |= {"decoder_start_token_id": given.end_id, "max_new_tokens": most, "num_beams": task.beam, "length_penalty": task.alpha}
    library, before, after = Parts(given.content, content, []).library(), *beside(given, auto)
    plain, whole = (library.encode("a", add_special_tokens=each).ids for each in (False, True))
    if whole != [*before, *plain, *after]:
        content["post_processor"] = around(content if whole == plain else {}, library, before, after)
    if auto == MASKED and given.mask_id == given.vocabulary_size:
        words = given.sort != "characters"  # then a space before a gap is the gap's own, as the task has it
        mask = {"id": given.mask_id, "content": GAP, "single_word": False, "lstrip": words, "rstrip": False, "normalized": False}
        content["added_tokens"] = [*content.get("added_tokens", []), {**mask, "special": True}]
        settings |= {"mask_token": GAP, "split_special_tokens": False}
    write_bytes(path / TOKENIZER, json.dumps(content, ensure_ascii=False).encode())
    write_json(path / SETTINGS, settings)
    if auto in (CAUSAL, PAIRS):
        write_json(path / GENERATION, generation)


def beside(given: Any, auto: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give what a model reads before a text and after it: two runs of control tokens."""
    found: tuple[tuple[int, ...], tuple[int, ...]] = {PAIRS: ((), (given.end_id,)), CAUSAL: (given.opening, ())}.get(auto, given.frame)
    return found


def around(content: dict[str, Any], library: Any, before: tuple[int, ...], after: tuple[int, ...]) -> dict[str, Any]:
    """Give the last step of a tokenizer.json with control tokens around a text; between two texts stands nothing."""
    first, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    names = {each: library.id_to_token(each) or str(each) for each in (*before, *after)}
    opens, closes = ([{"SpecialToken": {"id": names[each], "type_id": 0}} for each in ids] for ids in (before, after))
    made: dict[str, Any] = {"type": "TemplateProcessing", "single": [*opens, first, *closes], "pair": [*opens, first, *closes, second]}
    made["special_tokens"] = {name: {"id": name, "ids": [id], "tokens": [name]} for id, name in names.items()}
    had = content.get("post_processor")
    return {"type": "Sequence", "processors": [had, made]} if had else made


def check(opened: Artefact, task: Any, auto: str, path: Path, transformers: Any) -> None:
    """Hold what transformers makes of a folder against the model's golden answers."""
    transformers.utils.logging.set_verbosity_error()
    theirs, about = getattr(transformers, auto).from_pretrained(path, output_loading_info=True)
    again = ("lm_head.", "proj_out.", "cls.predictions.decoder.")  # the table, a second time
    second = {name for name in about["missing_keys"] if name.startswith(again) or "embed_tokens" in name}
    kept = {"pooler.dense.weight", "pooler.dense.bias"} if auto == BODY else set()  # which nothing of ours reads
    for names in (set(about["missing_keys"]) - second - kept, about["unexpected_keys"], about["mismatched_keys"]):
        if names:
            raise DataError("golden.differs", path=str(path), text=auto, difference=f"tensor {sorted(map(str, names))[0]}", tolerance=0)
    theirs.eval()
    cutter = transformers.AutoTokenizer.from_pretrained(path)
    for text in (each["text"] for each in read_json(opened.folder.path / golden.GOLDEN)["answers"]):
        same_ids(opened, auto, cutter, text, path)
    run = runner(theirs, auto, opened, path)
    body = getattr(opened.model, "body", opened.model)
    found: Any
    if auto == HEARD:
        return heard(opened, Translator(run, body.window, body.senses), path, hearing.same_frames(opened, path, transformers))
    if auto in (CAUSAL, PAIRS):
        found = (Writer if auto == CAUSAL else Translator)(run, body.window)
    else:
        found = Filling(theirs, body) if auto == MASKED else Answering(run, body.width)
    golden.check(opened.folder.path, task, found, opened.tokenizer)


def heard(opened: Artefact, found: Any, path: Path, gap: float) -> None:
    """Hold what is written of sounds against the model's own answers, to sounds of the length that transformers always reads.

    gap  how far its frames lie from ours
    """
    task = dataclasses.replace(opened.task, filled=0.0)
    before = golden.ask(task, opened.model, opened.tokenizer)
    tolerance = golden.TOLERANCES[golden.form_of(opened.model)]
    if not gap <= tolerance:
        raise DataError("golden.differs", path=str(path), text=before[0]["text"][:40], difference=f"frames: {gap:.2g}", tolerance=tolerance)
    for one, two in zip(before, golden.ask(task, found, opened.tokenizer, before), strict=True):
        if difference := golden.differ(one, two, tolerance):
            raise DataError("golden.differs", path=str(path), text=one["text"][:40], difference=difference, tolerance=tolerance)


def same_ids(opened: Artefact, auto: str, cutter: Any, text: str, path: Path) -> None:
    """Cut a text by transformers' tokenizer and by ours; raises DataError where the ids differ."""
    given = opened.tokenizer
    assert given is not None
    if not cutter.split_special_tokens and any(name in text for name in given.controls.values()):
        return  # to transformers a control token's name is that token, unless it is told to split them
    if auto == TAGS:
        words = list(opened.task.schema.asked.fields["tokens"].probe(text))
        wanted = given.framed(np.concatenate([given.encode(each) for each in words] or [[]])).tolist()
        found = cutter(words, is_split_into_words=True)["input_ids"] if words else wanted
    else:
        framed = auto != HEARD  # around what it hears that tokenizer's own class puts Whisper's tokens
        before, after = beside(given, auto) if framed else ((), ())
        wanted = [*before, *given.encode(text).tolist(), *after]
        found = cutter(text, add_special_tokens=framed)["input_ids"]
    if found != wanted:
        raise DataError("golden.differs", path=str(path), text=text[:40], difference="token ids", tolerance=0)


def runner(theirs: Any, auto: str, opened: Artefact, path: Path) -> Callable[..., dict[str, np.ndarray]]:
    """Give transformers' model as a function of arrays, as the replay reads one."""
    told = read_json(path / CONFIG)
    width = opened.model.head if isinstance(opened.model, Headed) else None

    def masked(tokens: np.ndarray, lengths: np.ndarray) -> dict[str, Tensor]:
        real = np.arange(tokens.shape[1]) < lengths[:, None]
        return {"input_ids": torch.from_numpy(np.asarray(tokens)), "attention_mask": torch.from_numpy(real.astype(np.int64))}

    @torch.no_grad()
    def run(tokens: np.ndarray, lengths: np.ndarray, *source: np.ndarray) -> dict[str, np.ndarray]:
        if source:
            given = masked(*source) if auto == PAIRS else {"input_features": torch.from_numpy(source[0]).mT}
            return {"next": theirs(**given, decoder_input_ids=torch.from_numpy(tokens)).logits.float().numpy()}
        read = masked(tokens, lengths)
        made = theirs(**read)
        if auto == BODY:
            return {"answers": pooled(made.last_hidden_state.float().numpy(), read["attention_mask"].numpy(), path)}
        logits = made.logits.float().numpy()
        if auto == TAGS:
            return {"tags": logits, "transitions": np.array(told["transitions"]), "start": np.array(told["start"])}
        return {"next" if width is None else "answers": logits}

    return run


def pooled(states: np.ndarray, real: np.ndarray, path: Path) -> np.ndarray:
    """Do with states (B, T, D) what the files of a folder tell sentence-transformers to do: real (B, T) int; to (B, outputs)."""
    told = read_json(path / POOLING / CONFIG)
    if told["pooling_mode_cls_token"]:
        found = states[:, 0]
    else:
        found = (states * real[..., None]).sum(1) / real.sum(1, keepdims=True)
    if (path / NORMALISE).exists():
        return found / np.linalg.norm(found, axis=1, keepdims=True)
    from safetensors.numpy import load_file

    held = load_file(path / DENSE / WEIGHTS)
    return found @ held["linear.weight"].T + held["linear.bias"]


class Filling(nn.Module):
    """transformers' BERT that fills gaps in, as the task asks one of ours."""

    def __init__(self, theirs: Any, body: Any) -> None:
        super().__init__()
        self.theirs, self.window, self.mask_id, self.vocabulary = theirs, body.window, body.mask_id, body.vocabulary

    def states(self, inputs: Inputs) -> Tensor:
        """Give (B, T, D) states."""
        assert inputs.tokens is not None
        T = inputs.tokens.shape[1]
        real = None if inputs.lengths is None else (torch.arange(T) < inputs.lengths[:, None]).long()
        return self.theirs.bert(inputs.tokens, attention_mask=real).last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        """Give (..., V) from (..., D) states."""
        return self.theirs.cls(states)
