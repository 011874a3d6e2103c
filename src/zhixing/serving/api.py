"""The routes: OpenAI's completions, chats, transcriptions and models, `/v1/predict`, health, metrics, and the page.

A route checks, makes a ticket, hands it to the engine and tells what comes back; it does no arithmetic of its own. A client that leaves,
or that is too slow, has its ticket given up at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import zhixing
from zhixing.core.errors import RunError, UsageError, ZhixingError
from zhixing.core.log import quiet
from zhixing.serving import asks, problems, schema, sounds
from zhixing.serving.door import Door
from zhixing.serving.engine import Engine
from zhixing.serving.guard import Guard
from zhixing.serving.limits import ROWS, VECTORS, Limits
from zhixing.serving.meter import Meter
from zhixing.serving.queue import Ask, Ticket
from zhixing.serving.replies import Form, failing, vectors_told
from zhixing.serving.routes import JSON, Way, described
from zhixing.serving.served import Served

PAGE = Path(__file__).with_name("web")
LONG = 20_000  # characters of a body from which encoding is left to another thread, so that it holds up nobody
REFUSALS = (400, 401, 403, 404, 408, 413, 429, 500, 503, 504)  # statuses with which every route may refuse
EVENTS = "text/event-stream"
T = TypeVar("T")
Work = Callable[..., Awaitable[Response]]
Answer = Callable[[Request], Awaitable[Response]]


def make_app(
    models: dict[str, Served], engine: Engine, door: Door, limits: Limits, meter: Meter, tell: Callable[..., None] = quiet
) -> Guard:
    """Give the whole application, behind its door."""
    return Guard(make_routes(models, engine, limits, meter), door, limits, meter, tell)


def make_routes(models: dict[str, Served], engine: Engine, limits: Limits, meter: Meter) -> Starlette:
    """Give the routes without the door; the door's key is what protects them."""
    ways: list[Way] = []
    decoder = sounds.Decoder()

    def way(method: str, path: str, replies: dict[str, Any], asked: type[BaseModel] | None = None, **more: Any) -> Callable[[Work], Work]:
        def keep(work: Work) -> Work:
            ways.append(Way(method, path, work, asked, replies, **more))
            return work

        return keep

    @way("GET", "/health", {JSON: schema.Health})
    async def health(request: Request) -> Response:
        """Say whether requests are taken."""
        state = "failed" if not engine.alive else "draining" if engine.draining else "ok"
        number = 200 if state == "ok" else 503
        return JSONResponse({"status": state}, number, problems.headers(number))

    @way("GET", "/metrics", {})
    async def metrics(request: Request) -> Response:
        """Give the server's figures in the text form of Prometheus."""
        return Response(meter.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @way("GET", "/v1/models", {JSON: schema.ModelList})
    async def list_models(request: Request) -> Response:
        """List the models that are served."""
        return JSONResponse({"object": "list", "data": [each.entry() for each in models.values()]})

    @way("GET", "/v1/models/{name}", {JSON: schema.ModelEntry})
    async def one_model(request: Request) -> Response:
        """Describe one model."""
        name = request.path_params["name"]
        if name not in models:
            raise UsageError("serve.model", name=name[:100], among=list(models), param="model")
        return JSONResponse(models[name].entry())

    @way("POST", "/v1/completions", {JSON: schema.CompletionReply, EVENTS: None}, schema.CompletionRequest)
    async def completions(asked: schema.CompletionRequest, request: Request) -> Response:
        """Continue a text; with `stream`, piece by piece as server-sent events."""
        served = asks.find(models, asked.model, "/v1/completions")
        wanted, echo, prompt_tokens = await spare(request, asks.asks_of_completion, asked, served, limits)
        told = asked.logprobs is not None
        form = Form("completion", served.name, served.fingerprint, served.artefact.tokenizer, len(wanted), told, asked.logprobs or 0)
        return await write(engine, meter, request, asked, form, wanted, echo, prompt_tokens)

    @way("POST", "/v1/chat/completions", {JSON: schema.ChatReply, EVENTS: None}, schema.ChatRequest)
    async def chat_completions(asked: schema.ChatRequest, request: Request) -> Response:
        """Answer messages, by the model's own template; without one it is given their contents, each followed by a line end."""
        served = asks.find(models, asked.model, "/v1/chat/completions")
        apart = served.artefact.tokenizer.templated  # another process renders, which is waited for
        wanted, echo, prompt_tokens = await spare(request, asks.asks_of_chat, asked, served, limits, apart=apart)
        told, top = bool(asked.logprobs), asked.top_logprobs or 0
        form = Form("chat", served.name, served.fingerprint, served.artefact.tokenizer, len(wanted), told, top)
        return await write(engine, meter, request, asked, form, wanted, echo, prompt_tokens)

    @way("POST", ROWS, {JSON: schema.PredictReply}, schema.PredictRequest)
    async def predict(asked: schema.PredictRequest, request: Request) -> Response:
        """Answer rows, each with its confidence; with `precision`, those below its threshold are marked as abstained."""
        served = asks.find(models, asked.model, ROWS)
        threshold = asks.threshold_of(asked, served)
        ticket = Ticket(served.name, items=await spare(request, asks.items_of, asked, served, limits, apart=asks.unfolds(served)))
        answers = await answered(engine, request, ticket)
        told = [
            {
                "answer": each.value,
                "confidence": None if each.confidence is None else round(each.confidence, 6),
                "scores": each.scores,
                "reasons": each.reasons,
                "abstained": threshold is not None and each.confidence is not None and each.confidence < threshold,
            }
            for each in answers
        ]
        return JSONResponse({"model": served.name, "system_fingerprint": served.fingerprint, "answers": told})

    @way("POST", VECTORS, {JSON: schema.EmbeddingReply}, schema.EmbeddingRequest)
    async def embeddings(asked: schema.EmbeddingRequest, request: Request) -> Response:
        """Give texts as vectors: of a model of likeness of length one, of any other the mean of its states."""
        served = asks.find(models, asked.model, VECTORS)
        texts, tokens, unread = await spare(request, asks.texts_of, asked, served, limits)
        found = await answered(engine, request, Ticket(served.name, items=texts, vectors=True))
        return JSONResponse(vectors_told(served.name, found, tokens, asked.encoding_format, unread))

    @way("POST", sounds.ROUTE, sounds.REPLY, form=copy.deepcopy(sounds.BODY), refuses=(422,))
    async def transcriptions(request: Request) -> Response:
        """Write what is said in a sound file."""
        heard = await sounds.read(request)
        served = asks.find(models, heard.model, sounds.ROUTE)
        pieces, items, seconds = await decoder.items_of(served.artefact, heard.content, heard.language)
        answers = await answered(engine, request, Ticket(served.name, items=items)) if items else []
        return sounds.reply(heard.form, pieces, answers, served.artefact.task.rate, seconds)

    page: dict[str, Any] = {}

    async def description(request: Request) -> Response:
        if not page:
            plainly = described(ways, "zhixing", zhixing.__version__, REFUSALS, schema.ErrorReply)
            page.update(schema.bound(plainly, limits, {name: each.entry() for name, each in models.items()}))
        return JSONResponse(page)

    files = [file_route(path) for path in sorted(PAGE.rglob("*")) if path.is_file()]
    known = [*(each.route() for each in ways), Route("/openapi.json", description), *files, Route("/", file(PAGE / "index.html"))]
    return Starlette(routes=known, exception_handlers=handlers([each.path for each in known]))


def file(path: Path) -> Answer:
    """Give what answers with a file."""

    async def answer(request: Request) -> Response:
        return FileResponse(path)

    return answer


def file_route(path: Path) -> Route:
    """Give a file of the page a route of its own: what is not listed cannot be asked for, however the path is written."""
    return Route("/" + path.relative_to(PAGE).as_posix(), file(path))


def handlers(paths: list[str]) -> dict[Any, Callable[[Request, Any], Awaitable[Response]]]:
    """Give what turns every error into an answer in OpenAI's form.

    paths  those of the routes that there are
    """

    def answer(request: Request, error: ZhixingError, more: dict[str, str] | None = None) -> Response:
        number = problems.status(error)
        headers = {**problems.headers(number), **(more or {})}
        return JSONResponse(problems.body(error, problems.tongue(request.headers)), number, headers)

    async def ours(request: Request, error: ZhixingError) -> Response:
        return answer(request, error)

    async def other(request: Request, error: HTTPException) -> Response:
        path = request.url.path[:100]
        if error.status_code == 405:
            return answer(request, UsageError("serve.method", method=request.method, path=path), dict(error.headers or {}))
        if error.status_code == 404:
            return answer(request, UsageError("serve.route", name=path, among=sorted(paths)))
        return answer(request, UsageError("serve.json", problem=str(error.detail)))

    async def left(request: Request, error: ClientDisconnect) -> Response:
        return answer(request, RunError("serve.left"))

    async def fault(request: Request, error: Exception) -> Response:  # it is raised again behind this answer, and the guard tells of it
        return answer(request, RunError("serve.fault"))

    return {ZhixingError: ours, HTTPException: other, ClientDisconnect: left, Exception: fault}


async def spare(request: Request, function: Callable[..., T], *given: Any, apart: bool = False) -> T:
    """Call a function that encodes rows: of a long body, or apart where it may take long, in another thread, so that the loop goes on."""
    if not apart and int(request.headers.get("content-length", LONG)) < LONG:
        return function(*given)
    return await asyncio.to_thread(function, *given)


async def answered(engine: Engine, request: Request, ticket: Ticket) -> list[Any]:
    """Have a ticket's items answered, all of them."""
    answers: list[Any] = []

    async def collect() -> None:
        while len(answers) < len(ticket.items):
            answers.extend(await ticket.take())

    with working(engine, ticket):
        await while_connected(request, collect())
    return answers


@contextlib.contextmanager
def working(engine: Engine, ticket: Ticket) -> Any:
    """Have the engine work on a ticket for as long as the block runs."""
    engine.submit(ticket)
    try:
        yield
    finally:
        engine.give_up(ticket)


async def while_connected(request: Request, work: Coroutine[Any, Any, None]) -> None:
    """Do work for as long as the client is there; raises RunError, which nobody hears, when it leaves first."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise RunError("serve.left")
        doing.result()
    finally:
        doing.cancel()
        leaving.cancel()


async def write(
    engine: Engine,
    meter: Meter,
    request: Request,
    asked: schema.CompletionRequest | schema.ChatRequest,
    form: Form,
    wanted: list[Ask],
    echo: list[str],
    prompt_tokens: int,
) -> Response:
    """Have texts written, and give them whole or piece by piece."""
    ticket = Ticket(asked.model, wanted)
    if asked.stream_options is not None and not asked.stream:
        raise UsageError("serve.stream_options", param="stream_options")
    if asked.stream:
        engine.submit(ticket)  # here, where it can still be refused with a status
        meter.prompt_tokens.labels(asked.model).inc(prompt_tokens)
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        pieces = stream(engine, ticket, form, echo, prompt_tokens, with_usage, problems.tongue(request.headers))
        # Begun here, it ends with giving the ticket up even when the client leaves before anything was sent.
        await anext(pieces)
        return StreamingResponse(pieces, media_type="text/event-stream")

    async def collect() -> None:
        while not form.done:
            for place, event in await ticket.take():
                form.keep(place, event)

    with working(engine, ticket):
        meter.prompt_tokens.labels(asked.model).inc(prompt_tokens)
        await while_connected(request, collect())
    return JSONResponse(form.whole(prompt_tokens, echo))


async def stream(
    engine: Engine, ticket: Ticket, form: Form, echo: list[str], prompt_tokens: int, with_usage: bool, language: str | None
) -> AsyncIterator[bytes]:
    """Give nothing, then the pieces of a stream, all that came since the last one at once; when the reader stops, so does the work."""
    try:
        yield b""
        if opening := form.opening(echo):
            yield opening
        while not form.done:
            pieces = []
            for place, event in await ticket.take():
                form.add(place, event)
                pieces.append(form.piece(place, event))
            if content := b"".join(pieces):
                yield content
        yield form.closing(prompt_tokens, with_usage)
    except ZhixingError as error:
        yield failing(problems.body(error, language))
    finally:
        engine.give_up(ticket)
