"""A route, what it is asked with and answers with; its body is read here, and of all of them the OpenAPI page is written.

The types are pydantic's, the routing Starlette's. FastAPI, which joins the two, takes longer to import than a small model to open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from zhixing.core.errors import UsageError
from zhixing.serving import problems

JSON = "application/json"
IS_JSON = re.compile(r"application/([^/\s,]+\+)?json")
OPENAPI = "3.1.0"
PLACE = "#/components/schemas/{model}"
ASKED, TOLD = "validation", "serialization"  # the two sides of a type, as pydantic names them
Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True)
class Way:
    """A route with what is known of it.

    work     does it: given the request, after its body where `asked` has a type; its docstring is what the page says
    asked    type of the body, which is JSON
    replies  content type to the type or JSON Schema of what it holds; None where nothing is said of it
    form     content type to JSON Schema of a body that the work reads by itself
    refuses  further statuses with which it refuses
    """

    method: str
    path: str
    work: Callable[..., Awaitable[Response]]
    asked: type[BaseModel] | None
    replies: dict[str, Any]
    form: dict[str, Any] | None = None
    refuses: tuple[int, ...] = ()

    def route(self) -> Route:
        """Give it as Starlette's."""
        return Route(self.path, self._answer, methods=[self.method])

    async def _answer(self, request: Request) -> Response:
        if self.asked is None:
            return await self.work(request)
        return await self.work(await body_of(request, self.asked), request)


async def body_of(request: Request, sort: type[Body]) -> Body:
    """Read a request's body as a type; raises UsageError for another content type, for what is no JSON, and for fields that are wrong."""
    content = await request.body()
    if not content:
        raise UsageError("serve.field_missing", name="body", param=None)
    told = request.headers.get("content-type", "")
    if not IS_JSON.fullmatch(told.partition(";")[0].strip().lower()):
        raise UsageError("serve.content_type", sort=told[:100])
    try:
        return sort.model_validate(json.loads(content))
    except ValidationError as fault:
        raise problems.from_validation(fault.errors(include_url=False), sort) from None
    except json.JSONDecodeError as fault:
        raise UsageError("serve.json", problem=fault.msg[: problems.SHOWN]) from None
    except (ValueError, RecursionError) as fault:  # no UTF-8, a number of thousands of digits, brackets within brackets without end
        raise UsageError("serve.json", problem=str(fault)[: problems.SHOWN]) from None


def described(ways: Sequence[Way], title: str, version: str, refusals: Sequence[int], refusal: type[BaseModel]) -> dict[str, Any]:
    """Write the OpenAPI page of routes.

    refusals  statuses with which every route refuses
    refusal   type of what is then told
    """
    from pydantic.json_schema import models_json_schema

    replies = [each for way in ways for each in way.replies.values() if isinstance(each, type)]
    sides = [*((way.asked, ASKED) for way in ways if way.asked), *((each, TOLD) for each in (*replies, refusal))]
    found, whole = models_json_schema(list(dict.fromkeys(sides)), ref_template=PLACE)
    paths: dict[str, Any] = {}
    for way in ways:
        content = {sort: _schema(each, found) for sort, each in way.replies.items()}
        answers = {"200": {"description": "Successful Response"} | ({"content": content} if content else {})}
        for number in (*refusals, *way.refuses):
            answers[str(number)] = {"description": HTTPStatus(number).phrase, "content": {JSON: _schema(refusal, found)}}
        name = way.work.__name__
        place = "".join(each if each.isalnum() else "_" for each in way.path)
        told: dict[str, Any] = {
            "summary": name.replace("_", " ").title(),
            "description": way.work.__doc__,
            "operationId": f"{name}{place}_{way.method.lower()}",
        }
        if names := [each[1:-1] for each in way.path.split("/") if each.startswith("{")]:
            told["parameters"] = [{"name": each, "in": "path", "required": True, "schema": {"type": "string"}} for each in names]
        body = {JSON: {"schema": found[way.asked, ASKED]}} if way.asked else way.form
        if body is not None:
            told["requestBody"] = {"required": True, "content": body}
        paths.setdefault(way.path, {})[way.method.lower()] = told | {"responses": answers}
    return {"openapi": OPENAPI, "info": {"title": title, "version": version}, "paths": paths, "components": {"schemas": whole["$defs"]}}


def _schema(each: Any, found: dict[Any, Any]) -> dict[str, Any]:
    if each is None:
        return {}
    return {"schema": found[each, TOLD] if isinstance(each, type) else each}
