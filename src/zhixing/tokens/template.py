"""Chat templates that come with a model: messages become ids, and nothing that a user writes becomes a control token.

A template is a stranger's program, if a small one: Jinja renders it sandboxed, in a process of its own whose time and memory are bounded.
Before that, every sign in a message that a name of a control token is made of (such as < and |) is written as a character of private use
that no message has; names are looked for in what was rendered, and only then do the signs come back. So whatever a template does with what
users wrote, no name can be made of it: each needs a sign of the template's own. A tag that the template itself asks for, such as </think>,
is left as it is. Imports nothing heavy: the process begins with it.
Source of the template's surroundings: Hugging Face's `apply_chat_template`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from zhixing.core.apart import command, environment, limit
from zhixing.core.errors import UsageError

SECONDS, MEMORY_BYTES, MOST_CHARACTERS = 3, 1 << 28, 1 << 20
PRIVATE, SPREAD = 0xF0000, 0x100  # characters of private use, of which a run of so many is free
TAG = re.compile(r"</?[a-z_]{2,20}>")
FILES = 16  # open at once; what renders may load parts of itself late


def chat_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Give the ids that a model goes on from, by its own template.

    tokenizer  an imported one, with a chat_template

    Raises UsageError when the template refuses the messages, is broken, or does not end within its bounds.
    """
    source = tokenizer.settings["chat_template"]
    # What was added without being special is a control token too, where the template writes it.
    names = {name: place for place, name in tokenizer.added.items() if place in tokenizer.controls or name in source}
    contents = [each["content"] for each in messages]
    signs = hidden(names, contents)
    tags = sorted({each for each in TAG.findall(source) if each not in names})
    given = [{"role": each["role"], "content": hide(each["content"], signs, tags)} for each in messages]
    text = render(source, given, tokenizer.told_name("bos"), tokenizer.told_name("eos"))
    back = {ord(private): sign for sign, private in signs.items()}
    ids: list[int] = []
    every = "|".join(re.escape(each) for each in sorted(names, key=len, reverse=True))
    for piece in re.split(f"({every})", text) if names else [text]:
        begins = not ids or tokenizer.prefixed
        ids += [names[piece]] if piece in names else tokenizer.encode(piece.translate(back), guarded=True, begins=begins).tolist()
    return ids or [tokenizer.end_id]


def hidden(names: Iterable[str], contents: Sequence[str]) -> dict[str, str]:
    """Choose for each sign that names are made of a character of private use that none of the contents has.

    Of a name without signs all characters count as such.
    """
    signs = sorted({letter for name in names for letter in ([each for each in name if not each.isalnum() and not each.isspace()] or name)})
    base = PRIVATE
    while any(chr(base + place) in content for place in range(len(signs)) for content in contents):
        base += SPREAD
    return {sign: chr(base + place) for place, sign in enumerate(signs)}


def hide(content: str, signs: Mapping[str, str], tags: Sequence[str]) -> str:
    """Write signs as characters of private use, but in tags that stand there whole."""
    table = {ord(sign): private for sign, private in signs.items()}
    parts = re.split("(" + "|".join(map(re.escape, tags)) + ")", content) if tags else [content]
    return "".join(each if place % 2 else each.translate(table) for place, each in enumerate(parts))


def render(source: str, messages: Sequence[Mapping[str, str]], begin: str, end: str) -> str:
    """Render a template, in a process of its own.

    begin, end  names of the control tokens that begin and end a text

    Raises UsageError with what the template said, or which bound it broke.
    """
    asked = {"source": source, "messages": list(messages), "bos_token": begin, "eos_token": end}
    process = command("from zhixing.tokens import template; template.answer()")
    try:
        done = subprocess.run(
            process, input=json.dumps(asked).encode(), capture_output=True, env=environment(), timeout=2 * SECONDS, check=False
        )
        ended = f"it did not end within {SECONDS} s or its memory" if done.returncode < 0 else f"its process ended with {done.returncode}"
        found = json.loads(done.stdout) if done.returncode == 0 else {"problem": ended}
    except (subprocess.TimeoutExpired, ValueError):
        found = {"problem": f"it did not end within {SECONDS} s"}
    if "problem" in found:
        raise UsageError("chat.template", problem=found["problem"])
    return found["text"]


def answer() -> None:
    """Be the process: read a question from stdin, write the answer to stdout."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    asked = json.loads(sys.stdin.buffer.read())
    limit(MEMORY_BYTES, FILES, SECONDS)

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    def as_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Generation(Extension):
        """`{% generation %}` marks what a model learns to write; it is rendered as if the marks were not there."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    try:
        room = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
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
