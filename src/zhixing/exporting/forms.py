"""Which task of which model can leave in which form: looked up before anything is written, and named where one is refused."""

from __future__ import annotations

from typing import Any

GGUF, NUMPY, ONNX, HUGGINGFACE, MERGED = "gguf", "numpy", "onnx", "huggingface", "merged"
FASTEST = "fastest"
VECTORS = "word2vec"
PROGRAMS = {ONNX: "F32", "int8": "INT8"}  # what ONNX Runtime computes, and the form of its weights
FOLDERS = (NUMPY, *PROGRAMS, FASTEST, HUGGINGFACE, MERGED)
# How far log p may lie from the model's, relative to the largest of a text, by the form of the weights: of eight bits only a sure answer
# must stay.
TOLERANCES = {"F32": 1e-4, "F16": 1e-2, "BF16": 3e-2, "Q8_0": 5e-2, "INT8": 0.5}
OF_GGUF = ("llama", "qwen3")
WRITERS = ("llama", "qwen3", "gpt2")  # which transformers has as they are
CAUSAL, MASKED, PAIRS = "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM"
HEARD = "AutoModelForSpeechSeq2Seq"
LABELS, TAGS, BODY = "AutoModelForSequenceClassification", "AutoModelForTokenClassification", "AutoModel"


def forms_of(task: Any, model: Any) -> tuple[str, ...]:
    """Name the forms that a model can leave in; none of one that is made of arrays, which needs nothing else as it is."""
    body = getattr(model, "body", model)
    if not (hasattr(body, "states") or "towers" in getattr(body, "kinds", ())):
        return ()
    if task.name == "embed":
        return (VECTORS,)
    found = []
    if writes(task) and "causal" in body.kinds:
        found += [GGUF] * (family_of(body) in OF_GGUF) + [ONNX]
    elif reads_rows(task, body):
        found += [NUMPY] if hasattr(task, "parts") else [NUMPY, ONNX]
    return (*found, *([HUGGINGFACE] if auto_of(task, model) else []))


def writes(task: Any) -> bool:
    """Say whether a task's models answer out of their own outputs over the vocabulary, token by token."""
    return task.reads == "text" and task.head(1) is None and task.name != "embed"


def reads_rows(task: Any, body: Any) -> bool:
    """Say whether all that an answer is read out of is what a model makes of rows, each read once."""
    if {"acoustic", "towers"} & {*body.kinds}:
        return True
    return task.head(1) is not None or (task.reads == "rows" and "causal" in body.kinds)


def family_of(body: Any) -> str:
    """Give the `model_type` of a model."""
    return str(body.to_dict().get("model_type", ""))


def auto_of(task: Any, model: Any) -> str:
    """Name the class of transformers that computes the same as a model; empty: none does."""
    from zhixing.layers.crf import Chain
    from zhixing.layers.heads import Direction, Pooled

    body, head = getattr(model, "body", model), getattr(model, "head", None)
    family = family_of(body)
    if head is None:
        if not writes(task):
            return ""
        if family == "whisper":  # one that was imported, or begun with one; transformers counts whole seconds
            return HEARD if task.opening and task.seconds == int(task.seconds) else ""
        if family == "bert":
            return MASKED if getattr(body, "mask_id", None) is not None else ""
        return CAUSAL if family in WRITERS else PAIRS if family == "mbart" else ""
    if family not in (*WRITERS, "bert"):
        return ""
    if isinstance(head, Chain):
        return TAGS if family == "bert" else ""
    if isinstance(head, Direction):
        return BODY
    if isinstance(head, Pooled) and list(task.schema.asked.fields) == ["text"]:
        return LABELS if family == "bert" and head.pooling == "first" else BODY
    return ""
