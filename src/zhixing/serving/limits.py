"""What one request may ask of the server, and how much work may wait: every bound in one frozen value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from zhixing.core.errors import UsageError

SOUNDS, ROWS, VECTORS = "/v1/audio/transcriptions", "/v1/predict", "/v1/embeddings"


@dataclass(frozen=True)
class Limits:
    """The bounds of a server.

    rows              texts that one model writes side by side
    queue             requests that may wait for a place; one more is refused with 429
    requests          requests under way at once, of whatever sort; one more is refused with 429
    body_bytes        largest body of a request
    sound_bytes       the same, where a sound file is sent
    predict_bytes     the same, where rows are sent, if that is more than body_bytes; a server whose models read sounds or pictures sets it
    prompt_tokens     longest prompt
    max_tokens        most new tokens of one text
    prompts, choices  prompts of one request, and texts of one prompt (`n`)
    stops             stop strings of one request, each at most stop_characters long
    logprobs          most alternatives beside a token
    predict_rows      rows of one request to `/v1/predict`
    idle_seconds      time that a connection may rest without a whole request
    body_seconds      time for a request's body to arrive
    request_seconds   time for a whole request, its answer taken by the client included
    drain_seconds     time that requests under way are given after SIGTERM
    """

    rows: int = 32
    queue: int = 64
    requests: int = 512
    body_bytes: int = 1 << 20
    sound_bytes: int = 16 << 20
    predict_bytes: int = 1
    prompt_tokens: int = 8192
    max_tokens: int = 4096
    prompts: int = 64
    choices: int = 16
    stops: int = 8
    stop_characters: int = 200
    logprobs: int = 20
    predict_rows: int = 1024
    idle_seconds: float = 20.0
    body_seconds: float = 30.0
    request_seconds: float = 600.0
    drain_seconds: float = 30.0

    def body(self, path: str) -> int:
        """Give the most bytes of a body that is sent to a route."""
        return max(self.body_bytes, {SOUNDS: self.sound_bytes, ROWS: self.predict_bytes}.get(path, 0))

    def __post_init__(self) -> None:
        """Check that every bound lets something through; only the drain may take no time. Raises UsageError naming the first."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if not value >= (0 if each.name == "drain_seconds" else 1):
                raise UsageError("serve.limit_setting", name="--" + each.name.replace("_", "-"), value=value)
