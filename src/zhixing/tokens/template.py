"""Chat templates that come with a model: messages become ids, and nothing that a user writes becomes a control token.

A template is a stranger's program, if a small one: Jinja renders it sandboxed, in a process of its own whose time and memory are bounded.
Names of control tokens in what users write are parted by a sign that no message has; control tokens are then looked for in what was
rendered, the sign is taken out, and everything between them is text like any other. Imports nothing heavy: the process begins with it.
Source of the template's surroundings: Hugging Face's `apply_chat_template`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from zhixing.core.errors import UsageError

SECONDS, MEMORY_BYTES, MOST_CHARACTERS = 3, 1 << 28, 1 << 20
SIGNS = "".join(map(chr, range(0xFDD0, 0xFDF0)))  # noncharacters of Unicode
FILES = 16  # open at once; what renders may load parts of itself late
KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "SYSTEMROOT")  # of the environment


def chat_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Give the ids that a model goes on from, by its own template.

    tokenizer  an imported one, with a chat_template

    Raises UsageError when the template refuses the messages, is broken, or does not end within its bounds.
    """
    names = sorted(tokenizer.controls.values(), key=len, reverse=True)
    sign = next((each for each in SIGNS if not any(each in message["content"] for message in messages)), None)
    if sign is None:
        raise UsageError("chat.template", problem="the messages hold every noncharacter of Unicode")
    given = [{"role": each["role"], "content": parted(each["content"], names, sign)} for each in messages]
    named = {name: tokenizer.controls.get(place, "") for name, place in (("bos", tokenizer.begin_id), ("eos", tokenizer.last_id))}
    text = render(tokenizer.settings["chat_template"], given, named["bos"], named["eos"])
    ids: list[int] = []
    places = {name: place for place, name in tokenizer.controls.items()}
    for piece in re.split("(" + "|".join(map(re.escape, names)) + ")", text) if names else [text]:
        ids += [places[piece]] if piece in places else tokenizer.encode(piece.replace(sign, "")).tolist()
    return ids or [tokenizer.end_id]


def parted(content: str, names: Sequence[str], sign: str) -> str:
    """Put a sign into every control token's name in a text, and into what may become one together with what comes after the text."""
    firsts = {name[0] for name in names}
    longest = max(map(len, names), default=0)
    made = []
    for place, letter in enumerate(content):
        made.append(letter)
        rest = content[place : place + longest] if letter in firsts else ""
        if rest and any(rest.startswith(name) or (name.startswith(rest) and place + len(rest) == len(content)) for name in names):
            made.append(sign)
    return "".join(made)


def render(source: str, messages: Sequence[Mapping[str, str]], begin: str, end: str) -> str:
    """Render a template, in a process of its own.

    begin, end  names of the control tokens that begin and end a text

    Raises UsageError with what the template said, or which bound it broke.
    """
    asked = {"source": source, "messages": list(messages), "bos_token": begin, "eos_token": end}
    kept = {name: value for name, value in os.environ.items() if name in KEPT}
    command = [sys.executable, "-c", "from zhixing.tokens import template; template.answer()"]
    try:
        done = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, env=kept, timeout=2 * SECONDS, check=False)
        found = json.loads(done.stdout) if done.returncode == 0 else {"problem": f"it did not end within {SECONDS} s or its memory"}
    except (subprocess.TimeoutExpired, ValueError):
        found = {"problem": f"it did not end within {SECONDS} s"}
    if "problem" in found:
        raise UsageError("chat.template", problem=found["problem"])
    return found["text"]


def answer() -> None:
    """Be the process: read a question from stdin, write the answer to stdout."""
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    asked = json.loads(sys.stdin.buffer.read())
    bound()

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    def as_json(value: Any, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    try:
        room = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        room.filters["tojson"] = as_json
        room.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
        values = {"messages": asked["messages"], "add_generation_prompt": True, "tools": None, "documents": None}
        written: list[str] = []
        size = 0
        for piece in room.from_string(asked["source"]).generate(**values, bos_token=asked["bos_token"], eos_token=asked["eos_token"]):
            written.append(piece)
            size += len(piece)
            if size > MOST_CHARACTERS:
                raise TemplateError(f"it writes more than {MOST_CHARACTERS} characters")
        told = {"text": "".join(written)}
    except MemoryError:
        told = {"problem": "it asks for too much memory"}
    except RecursionError:
        told = {"problem": "it calls itself for ever"}
    except Exception as problem:  # whatever a stranger's template may raise
        told = {"problem": f"{problem or type(problem).__name__}"[:300]}
    sys.stdout.write(json.dumps(told))


def bound() -> None:
    """Bound this process: its time, its memory, few files open, none written."""
    for what, most in (
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (least, least))
