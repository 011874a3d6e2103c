"""Errors as answers: our three sentences in OpenAI's form, and nothing of what lies inside the machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from zhixing.core.errors import RunError, UsageError, ZhixingError

# Where an error's class does not say the right status.
STATUSES = {
    "serve.body_late": 408,
    "serve.body_large": 413,
    "serve.busy": 429,
    "serve.draining": 503,
    "serve.failed": 500,
    "serve.fault": 500,
    "serve.host": 403,
    "serve.key": 401,
    "serve.late": 504,
    "serve.left": 499,  # as nginx counts it; nobody reads it
    "serve.method": 405,
    "serve.model": 404,
    "serve.origin": 403,
    "serve.queue_full": 429,
    "serve.route": 404,
}
SORTS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
RETRY_SECONDS = {429: 1, 503: 5}
# What was wanted instead, in words of JSON, by pydantic's name of the fault.
WANTED = {
    "bool_type": "true | false",
    "dict_type": 'object, {{"FIELD": value, ...}}',
    "finite_number": "-inf < number < inf",
    "float_type": "number",
    "greater_than": "> {gt}",
    "greater_than_equal": ">= {ge}",
    "int_type": "integer",
    "less_than": "< {lt}",
    "less_than_equal": "<= {le}",
    "list_type": "array",
    "literal_error": "{expected}",
    "model_type": "object",
    "string_too_short": "length >= {min_length}",
    "string_type": "string",
    "string_unicode": "Unicode string",
    "too_short": "length >= {min_length}",
}
SHOWN = 80  # characters of a wrong value that are given back


def status(error: ZhixingError) -> int:
    """Give the HTTP status of an error."""
    return STATUSES.get(error.code, error.http_status)


def headers(number: int) -> dict[str, str]:
    """Give the headers that belong to a status: when to come again."""
    return {"retry-after": str(RETRY_SECONDS[number])} if number in RETRY_SECONDS else {}


def body(error: ZhixingError, language: str | None = None) -> dict[str, Any]:
    """Give an error in OpenAI's form; a fault of ours is told by its code alone, for its details may hold what is nobody's business."""
    number = status(error)
    known = error if number < 500 or error.code in STATUSES else RunError("serve.fault")
    sort = SORTS.get(number, "invalid_request_error" if number < 500 else "server_error")
    param = error.values.get("param")
    return {"error": {"message": plain(known.text(language)), "type": sort, "param": param and plain(param), "code": known.code}}


def plain(words: str) -> str:
    """Spell out what cannot be sent: lone surrogates, which a client may have put into a name."""
    return words.encode("utf-8", "backslashreplace").decode()


def tongue(headers: Mapping[str, str]) -> str | None:
    """Give the language that a request asks for, when it is one of ours."""
    wanted = headers.get("accept-language", "")[:2].lower()
    return wanted if wanted in ("en", "zh") else None


def from_validation(faults: Sequence[Mapping[str, Any]], model: type[BaseModel]) -> UsageError:
    """Turn what pydantic found wrong with a body into the first error of ours that it means.

    model  the type that the body was to be; its names help to correct a wrong one
    """
    first = [each for each in faults if each["loc"][:1] == faults[0]["loc"][:1]]
    # Of a union's branches the one that came furthest is the one that was meant.
    fault = max(first, key=lambda each: dotted(each["loc"]).count("."))
    fault = next((each for each in faults if each["type"] == "extra_forbidden"), fault)
    place = fault["loc"]
    sort, name = fault["type"], dotted(place)
    if sort == "missing":
        return UsageError("serve.field_missing", name=name or "body", param=name or None)
    if sort == "extra_forbidden":
        among = sorted(names(model, place[:-1]))
        return UsageError("serve.field_unknown", name=str(place[-1])[:SHOWN], among=among, param=name[:SHOWN])
    branches = {read(each) for each in faults if dotted(each["loc"]) == name}
    values = {"name": name or "body", "value": show(fault.get("input")), "wanted": " | ".join(sorted(branches))}
    return UsageError("serve.field_value", **values, param=name or None)


def read(fault: Mapping[str, Any]) -> str:
    """Say what a fault of pydantic's wanted."""
    form = WANTED.get(fault["type"])
    return form.format(**fault.get("ctx", {})) if form else str(fault["type"]).replace("_", " ")


def show(value: Any) -> str:
    """Write a value as the client would, shortened; a body that cannot be written is named only."""
    try:
        words = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        words = type(value).__name__
    return words if len(words) <= SHOWN else words[:SHOWN] + "..."


def dotted(place: Sequence[Any]) -> str:
    """Name a place in a body, messages.0.role; branches of a union are no part of it."""
    return ".".join(str(each) for each in place if isinstance(each, int) or (str(each).isidentifier() and not _branch(str(each))))


def _branch(word: str) -> bool:
    return word in ("str", "int", "constrained_str") or word.startswith(("list[", "function-"))


def names(model: type[BaseModel], place: Sequence[Any]) -> Iterator[str]:
    """Name the fields that a body may have at a place inside it."""
    for each in place:
        if isinstance(each, str) and each in model.model_fields:
            model = next((kind for kind in _kinds(model.model_fields[each].annotation) if issubclass(kind, BaseModel)), model)
    yield from model.model_fields


def _kinds(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for each in get_args(annotation):
        yield from _kinds(each)
