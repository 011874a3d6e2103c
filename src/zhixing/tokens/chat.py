"""Chats as text: what a model that was not trained to chat is given of a list of messages.

Every message's content, each followed by a line end; roles are checked and change nothing, and no control token is made: to such a model
a control token is noise. The same rule stands as a Jinja template in `tokenizer_config.json`, so that other programs render the same text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zhixing.core.errors import UsageError

ROLES = ("system", "developer", "user", "assistant")
TEMPLATE = "{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}"


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
