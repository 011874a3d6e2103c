"""From a request that has the right form to the work that it means: what depends on the server's bounds or on the model is checked here."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from zhixing.core.errors import UsageError
from zhixing.data.media import Unreadable, bounds
from zhixing.data.schema import Image, Record, Sound
from zhixing.decoding.asking import SEEDS, Sampling, open_text
from zhixing.evaluation.predict import find_threshold
from zhixing.serving.decoder import DECODER
from zhixing.serving.limits import Limits
from zhixing.serving.problems import show
from zhixing.serving.queue import Ask
from zhixing.serving.schema import ChatRequest, CompletionRequest, EmbeddingRequest, PredictRequest
from zhixing.serving.served import Served
from zhixing.tokens import chat

COMPLETION_TOKENS, CHAT_TOKENS = 16, 200  # when a request does not say; 16 is OpenAI's
CHARACTERS_A_TOKEN = 64  # more than any text has on average: what is longer has too many tokens
MEDIA = {Sound: "sound", Image: "image"}
# By exact type: true is no number.
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def find(models: dict[str, Served], name: str, route: str) -> Served:
    """Give the model that a request names.

    route  where it was asked
    Raises UsageError when there is none, or it does not answer there.
    """
    if name not in models:
        raise UsageError("serve.model", name=name[:100], among=list(models), param="model")
    served = models[name]
    if route not in served.routes:
        raise UsageError("serve.wrong_route", name=name, task=served.artefact.task.name, routes=", ".join(served.routes), param="model")
    return served


def bounded(name: str, value: int, limit: int) -> int:
    """Give back a number that is within its bound; raises UsageError otherwise."""
    if value > limit:
        raise UsageError("serve.limit", name=name, value=value, limit=limit, param=name)
    return value


def sampling_of(asked: CompletionRequest | ChatRequest, limits: Limits) -> Sampling:
    """Give how a request wants its tokens chosen; without a seed, one is drawn."""
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    bounded("stop", len(stop), limits.stops)
    bounded("stop", max(map(len, stop), default=0), limits.stop_characters)
    if isinstance(asked, ChatRequest):
        if asked.max_tokens is not None and asked.max_completion_tokens is not None:
            raise UsageError("serve.twice", first="max_tokens", second="max_completion_tokens", param="max_tokens")
        name = "max_tokens" if asked.max_tokens is not None else "max_completion_tokens"
        wanted = asked.max_tokens or asked.max_completion_tokens or min(CHAT_TOKENS, limits.max_tokens)
    else:
        name, wanted = "max_tokens", asked.max_tokens or min(COMPLETION_TOKENS, limits.max_tokens)
    given = {
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": None if asked.top_k is None else max(asked.top_k, 0),
        "min_p": asked.min_p,
        "repetition_penalty": asked.repetition_penalty,
        "seed": secrets.randbelow(SEEDS) if asked.seed is None else asked.seed,
    }
    settled = {key: value for key, value in given.items() if value is not None}
    return Sampling(max_tokens=bounded(name, wanted, limits.max_tokens), stop=stop, **settled)


def asks_of_completion(asked: CompletionRequest, served: Served, limits: Limits) -> tuple[list[Ask], list[str], int]:
    """Give the texts to write, prompt by prompt and `n` for each, what is echoed before each, and the tokens of the prompts.

    Text k draws from the seed's random stream k, as `zhixing generate` does with these prompts and --count n.
    """
    prompts = _prompts(asked.prompt)
    bounded("prompt", len(prompts), limits.prompts)
    top = bounded("logprobs", asked.logprobs or 0, limits.logprobs)
    if asked.echo and asked.logprobs is not None:
        raise UsageError("serve.echo_logprobs", param="echo")
    echo = []
    if asked.echo:
        echo = [each if isinstance(each, str) else served.artefact.tokenizer.decode(_checked(each, served)) for each in prompts]
    tokenizer = served.artefact.tokenizer
    ids = [open_text(tokenizer, each) if isinstance(each, str) else _opened(each, served) for each in prompts]
    return _spread(ids, asked.n, sampling_of(asked, limits), limits, top, echo)


def asks_of_chat(asked: ChatRequest, served: Served, limits: Limits) -> tuple[list[Ask], list[str], int]:
    """Give the answers to write; the same three things as for completions."""
    if asked.top_logprobs is not None and not asked.logprobs:
        raise UsageError("serve.top_logprobs", param="top_logprobs")
    top = bounded("top_logprobs", asked.top_logprobs or 0, limits.logprobs)
    bounded("messages", sum(len(each.text()) for each in asked.messages), CHARACTERS_A_TOKEN * limits.prompt_tokens)
    read = chat.ids(served.artefact.tokenizer, [{"role": each.role, "content": each.text()} for each in asked.messages])
    return _spread([read], asked.n, sampling_of(asked, limits), limits, top, [])


def texts_of(asked: EmbeddingRequest, served: Served, limits: Limits) -> tuple[list[str], int, list[int]]:
    """Give the texts of which vectors are wanted, how many tokens are read of them, with what stands around each, and of each are not."""
    texts = [asked.input] if isinstance(asked.input, str) else list(asked.input)
    bounded("input", len(texts), limits.predict_rows)
    for place, each in enumerate(texts):
        if not each.strip():
            raise UsageError("texts.empty", place=place, name="input", param="input")
        bounded("input", len(each), CHARACTERS_A_TOKEN * limits.prompt_tokens)
    sizes = [len(served.artefact.read(each)) for each in texts]
    for each in sizes:
        bounded("input", each, limits.prompt_tokens)
    return texts, sum(sizes), [served.artefact.unread(text, count) for text, count in zip(texts, sizes, strict=True)]


def _prompts(given: Any) -> list[str | list[int]]:
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    return list(given) or [""]


def _opened(ids: Sequence[int], served: Served) -> list[int]:
    tokenizer = served.artefact.tokenizer
    return [*tokenizer.opening, *_checked(ids, served)] or [tokenizer.end_id]


def _checked(ids: Sequence[int], served: Served) -> Sequence[int]:
    tokenizer = served.artefact.tokenizer
    size = tokenizer.vocabulary_size
    wrong = next((each for each in ids if not 0 <= each < size or each in tokenizer.controls), None)
    if wrong is not None:
        first = next(each for each in range(size) if each not in tokenizer.controls)
        raise UsageError("serve.token", token=wrong, first=first, last=size - 1, param="prompt")
    return ids


def _spread(
    prompts: list[list[int]], n: int | None, sampling: Sampling, limits: Limits, top: int, echo: list[str]
) -> tuple[list[Ask], list[str], int]:
    count = bounded("n", n or 1, limits.choices)
    bounded("prompt", len(prompts) * count, limits.prompts)
    for each in prompts:
        bounded("prompt", len(each), limits.prompt_tokens)
    asks = [Ask(each, sampling, place * count + copy, top) for place, each in enumerate(prompts) for copy in range(count)]
    return asks, [each for each in echo for _ in range(count)], sum(map(len, prompts))


def unfolds(served: Served) -> bool:
    """Say whether a model's rows may hold sounds or pictures, which take their time."""
    return any(type(kind) in MEDIA for kind in served.artefact.task.schema.asked.fields.values())


def items_of(asked: PredictRequest, served: Served, limits: Limits) -> list[Any]:
    """Give a request's rows as the task encodes them.

    Raises UsageError naming the row and the field that is wrong, DataError naming the row whose cells cannot be.
    """
    bounded("rows", len(asked.rows), limits.predict_rows)
    task = served.artefact.task
    fields = task.schema.asked.fields
    for place, row in enumerate(asked.rows):
        for name in row:
            if name not in fields:
                raise UsageError("serve.field_unknown", name=name[:80], among=list(fields), param=f"rows.{place}")
        for name, kind in fields.items():
            param = f"rows.{place}.{name}"
            if name not in row:
                if getattr(kind, "optional", False):
                    continue
                raise UsageError("serve.field_missing", name=param, param=param)
            if problem := mismatch(row[name], kind.form()):
                raise UsageError("serve.field_value", name=param, value=show(row[name]), wanted=problem, param=param)
            if isinstance(kind, Record):
                cells, reason = kind.read(row[name])
                if reason:
                    raise UsageError("texts.field", place=place, name=name, reason=reason, fields=", ".join(fields), param=param)
                asked.rows[place] = row = {**row, name: cells}
            if (sort := MEDIA.get(type(kind))) is not None and row[name]:
                asked.rows[place] = row = {**row, name: cleaned(row[name], sort, getattr(task, "size", None), param)}
        if (empty := task.schema.void(row)) is not None:
            param = f"rows.{place}.{empty}"
            raise UsageError("serve.field_empty", name=param, param=param)
    return [served.artefact.encode(row, at=f"rows.{place}", param=f"rows.{place}") for place, row in enumerate(asked.rows)]


def cleaned(url: str, sort: str, size: int | None, param: str) -> str:
    """Give a sound or a picture as one that we wrote; raises UsageError naming the field when it cannot be used."""
    try:
        return DECODER.clean(url, sort, size)
    except Unreadable as reason:
        raise UsageError("serve.medium", name=param, sort=sort, reason=str(reason), **bounds(), param=param) from None


def mismatch(value: Any, form: dict[str, Any]) -> str | None:
    """Say what a value should have been by the JSON Schema of its field, of which only what `data/schema.py` uses is read; None: it is."""
    sorts = form["type"] if isinstance(form["type"], list) else [form["type"]]
    if not any(type(value) in TYPES[sort] for sort in sorts):
        return " | ".join(sorts)
    if isinstance(value, list):
        if len(value) < form.get("minItems", 0):
            return f"array of {form['minItems']} or more"
        return next((f"array of {wrong}" for each in value if (wrong := mismatch(each, form["items"]))), None)
    if isinstance(value, dict):
        return next((f"object of {wrong}" for each in value.values() if (wrong := mismatch(each, form["additionalProperties"]))), None)
    if isinstance(value, str) and len(value) < form.get("minLength", 0):
        return "string that is not empty"
    return None


def threshold_of(asked: PredictRequest, served: Served) -> float | None:
    """Give the confidence below which to abstain; None: never.

    Raises UsageError when the model has no threshold for the precision that is asked for.
    """
    if asked.precision is None:
        return None
    known = getattr(served.artefact.task, "thresholds", {})
    if str(asked.precision) not in known:
        among = sorted(known) or ["-"]
        raise UsageError("predict.precision", name=asked.precision, among=among, path=served.name, param="precision")
    return find_threshold(served.artefact, asked.precision)
