"""Chats as text: what a model is given of a list of messages.

A model that came with a template is given what that makes of them (`template`). Any other: every message's content, each followed by a line
end; roles are checked and change nothing, and no control token is made: to a model that was not trained to chat a control token is noise.
The same rule stands as a Jinja template in `tokenizer_config.json`, so that other programs render the same text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zhixing.core.errors import UsageError
from zhixing.tokens.template import chat_ids

ROLES = ("system", "developer", "user", "assistant")
TEMPLATE = "{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}"


def ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Give the ids that a model goes on from: by the template that came with it or, where none did, by `render`.

    Raises UsageError as `render` does, and for a template that cannot be used.
    """
    text = render(messages)
    if tokenizer.templated:
        return chat_ids(tokenizer, [{**each, "role": "system" if each["role"] == "developer" else each["role"]} for each in messages])
    return [*tokenizer.opening, *tokenizer.encode(text).tolist()] or [tokenizer.end_id]


def render(messages: Sequence[Mapping[str, str]]) -> str:
    """Turn messages, {"role": ..., "content": ...}, into the text that a model goes on from.

    Raises UsageError for a role that is none, or when there are no messages.
    """
    if not messages:
        raise UsageError("chat.empty")
    for place, message in enumerate(messages):
        if message.get("role") not in ROLES:
            raise UsageError("chat.role", name=str(message.get("role"))[:80], among=ROLES, place=place)
    return "".join(message["content"] + "\n" for message in messages)
