"""The door: what is checked before any route sees a request, and the headers that every answer carries.

In order: the Host must be a name of this server (a page that rebinds its own name to this machine sends that name), the Origin, where a
browser sends one, must be this server or an allowed one, the key must be right where one is set, and the body is counted while it comes
in. Whatever escapes a route becomes an answer without details.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import ipaddress
import json
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from zhixing.core.errors import RunError, UsageError, ZhixingError
from zhixing.core.log import quiet
from zhixing.serving import problems
from zhixing.serving.door import Door
from zhixing.serving.limits import Limits
from zhixing.serving.meter import Meter
from zhixing.serving.replies import failing

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LAST_SECONDS, MOST_DRAINED = 1.0, 1 << 24  # for what a refused client still sends, and bytes of it
OPEN = ("/health",)  # needs no key
LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFETY = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


def name_of(host: str) -> str:
    """Give the name in a Host header, without its port and the brackets of IPv6."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


class Body:
    """A request's body as it comes in, counted."""

    def __init__(self, path: str, source: Receive, limits: Limits) -> None:
        self.path, self.source, self.limits = path, source, limits
        self.size, self.ended = 0, False
        self.deadline = asyncio.get_running_loop().time() + limits.body_seconds

    async def receive(self) -> Message:
        """Give the next message, but stop at the limit, whatever the request's head says, and do not wait for a body for ever.

        Raises UsageError beyond the limit of bytes and RunError beyond that of seconds.
        """
        if self.ended:
            return await self.source()
        try:
            async with asyncio.timeout_at(self.deadline):
                message = await self._next()
        except TimeoutError:
            raise RunError("serve.body_late", seconds=self.limits.body_seconds) from None
        if self.size > self.limits.body(self.path):
            raise UsageError("serve.body_large", size=self.size, limit=self.limits.body(self.path))
        return message

    async def drain(self) -> None:
        """Read what is still coming, for a moment, and keep none of it: a client that sends all before it reads sees why it was refused."""
        most = self.size + MOST_DRAINED
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                while not self.ended and self.size < most:
                    await self._next()

    async def _next(self) -> Message:
        message = await self.source()
        self.size += len(message.get("body", b""))
        self.ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message


class Guard:
    """An ASGI application around another."""

    def __init__(self, app: App, door: Door, limits: Limits, meter: Meter, tell: Callable[..., None] = quiet) -> None:
        self.app, self.door, self.limits, self.meter, self.tell = app, door, limits, meter, tell
        self.under_way = self.draining = 0
        self.hosts = {*LOOPBACK, door.host.lower(), *(each.lower() for each in door.hosts)} - set(EVERYWHERE)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        began: list[int] = []
        streams, refused = False, False
        body = Body(scope["path"], receive, self.limits)
        extra: list[tuple[bytes, bytes]] = []

        async def answer(message: Message) -> None:
            nonlocal streams
            if message["type"] == "http.response.start":
                began.append(message["status"])
                streams = any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"])
                own = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(each for each in SAFETY if each[0] not in own), *extra]
            await send(message)

        self.under_way += 1
        try:
            try:
                allowed = self.admit(scope, headers)
                if allowed:
                    extra += [(b"access-control-allow-origin", allowed.encode()), (b"vary", b"Origin")]
                if allowed and scope["method"] == "OPTIONS":
                    await preflight(answer)
                else:
                    async with asyncio.timeout(self.limits.request_seconds):
                        await self.app(scope, body.receive, answer)
            except TimeoutError:
                raise RunError("serve.late", seconds=self.limits.request_seconds) from None
        except ZhixingError as error:
            refused = not began
            if refused:
                await self.refuse(error, headers, scope, answer)
            elif streams:
                await last_word(error, headers, answer)
        except Exception as fault:
            where = traceback.extract_tb(fault.__traceback__)[-1]
            self.tell("serve.fault", problem=f"{type(fault).__name__}: {fault} ({where.name}, line {where.lineno})")
            refused = not began
            if refused:
                await self.refuse(RunError("serve.fault"), headers, scope, answer)
        finally:
            self.under_way -= 1
            route = getattr(scope.get("route"), "path", "other")
            self.meter.requests.labels(route, str(began[0]) if began else "none").inc()
        if refused:
            # Who asks first whether to send a body sends none now; and where many are refused at once, few are listened to.
            if "expect" not in headers and self.draining < self.limits.requests:
                self.draining += 1
                try:
                    await body.drain()
                finally:
                    self.draining -= 1
            await send({"type": "http.response.body", "body": b""})

    def admit(self, scope: Message, headers: dict[str, str]) -> str | None:
        """Check a request's head; gives the other server's origin that is allowed, if it comes from one.

        Raises UsageError or RunError for what is not let in.
        """
        host = headers.get("host", "")
        if not self._known(host):
            raise UsageError("serve.host", host=host[:100])
        origin = headers.get("origin")
        foreign = origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}")
        if foreign and origin.lower() not in {each.lower() for each in self.door.origins}:
            raise UsageError("serve.origin", origin=origin[:100])
        if self.under_way > self.limits.requests:
            raise RunError("serve.busy", requests=self.limits.requests)
        asks = scope["method"] == "OPTIONS" and foreign
        if self.door.key and scope["path"] not in OPEN and not asks and not self._keyed(headers.get("authorization", "")):
            raise UsageError("serve.key")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self.limits.body(scope["path"]):
            raise UsageError("serve.body_large", size=length[:20], limit=self.limits.body(scope["path"]))
        return origin if foreign else None

    def _known(self, host: str) -> bool:
        name = name_of(host)
        if name in self.hosts:
            return True
        # A server that listens everywhere has addresses it does not know; no page can make its own name look like an address.
        try:
            return self.door.host in EVERYWHERE and bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _keyed(self, given: str) -> bool:
        """Tell whether an Authorization header holds the key: as a bearer token or, for browsers, as the password of Basic."""
        sort, _, value = given.partition(" ")
        shown = value.strip()
        if sort.lower() == "basic":
            try:
                shown = base64.b64decode(shown, validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif sort.lower() != "bearer":
            return False
        return hmac.compare_digest(shown.encode(), str(self.door.key).encode())

    async def refuse(self, error: ZhixingError, headers: dict[str, str], scope: Message, send: Send) -> None:
        """Answer with an error, all but the answer's end: with that the connection ends, for not all of the request may have been read."""
        number = problems.status(error)
        content = json.dumps(problems.body(error, problems.tongue(headers)), ensure_ascii=False).encode()
        found = {"content-type": "application/json", "content-length": str(len(content)), "connection": "close", **problems.headers(number)}
        pairs = [(name.encode(), value.encode()) for name, value in found.items()]
        if number == 401:
            pairs.append((b"www-authenticate", b"Bearer"))
            if not scope["path"].startswith(("/v1/", "/metrics", "/openapi.json")):
                # A person's browser then asks for the key, as the password, and shows it with everything it asks of this server.
                pairs.append((b"www-authenticate", b'Basic realm="zhixing", charset="UTF-8"'))
        await send({"type": "http.response.start", "status": number, "headers": pairs})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content, "more_body": True})


async def last_word(error: ZhixingError, headers: dict[str, str], send: Send) -> None:
    """End a stream that was cut off with a piece that says why; a client that reads no more is not waited for."""
    content = failing(problems.body(error, problems.tongue(headers)))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_SECONDS):
            await send({"type": "http.response.body", "body": content})


async def preflight(send: Send) -> None:
    """Tell a browser what an allowed page of another server may send."""
    allowed = [(b"access-control-allow-methods", b"GET, POST"), (b"access-control-allow-headers", b"authorization, content-type")]
    await send({"type": "http.response.start", "status": 204, "headers": [*allowed, (b"access-control-max-age", b"600")]})
    await send({"type": "http.response.body", "body": b""})
