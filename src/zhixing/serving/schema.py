"""What the routes read and write, as types: OpenAI's names and meanings, vLLM's names for the settings that OpenAI lacks.

A field that is not here is refused by name; a field of OpenAI's that is not offered is refused unless it has the value that changes
nothing. The types are also the OpenAPI page. This border is the one place with classes that inherit: they are pydantic's models. Each is
built when it is first needed, not while a server starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictStr, model_validator

from zhixing.core.errors import UsageError
from zhixing.decoding.asking import SEEDS
from zhixing.serving.limits import ROWS, SOUNDS, VECTORS, Limits

# OpenAI's fields that are not offered, and the values with which each changes nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "metadata": (None, {}),
    "modalities": (None, ["text"]),
    "parallel_tool_calls": (None, True, False),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "prompt_cache_key": (None,),
    "prompt_cache_retention": (None,),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "safety_identifier": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
MESSAGE_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "annotations": (None, []),
    "audio": (None,),
    "function_call": (None,),
    "name": (None,),
    "refusal": (None,),
    "tool_calls": (None, []),
}


def take_out(body: Any, neutral: dict[str, tuple[Any, ...]]) -> Any:
    """Remove the fields that change nothing; raises UsageError for one that would change something and is not offered."""
    if not isinstance(body, dict):
        return body
    for name in body.keys() & neutral.keys():
        # 0 == False and 1 == True: the type must be a neutral one's too.
        if not any(type(body[name]) is type(each) and body[name] == each for each in (*neutral[name], *_floats(neutral[name]))):
            raise UsageError("serve.unsupported", name=name)
    return {name: value for name, value in body.items() if name not in neutral}


def _floats(values: tuple[Any, ...]) -> list[float]:
    return [float(each) for each in values if type(each) is int]


class Strict(BaseModel):
    """Exact types, finite numbers, no unknown names."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


def check_letters(value: Any, place: tuple[str, ...] = ()) -> None:
    """Refuse lone surrogates, which JSON can spell and which are no characters: no tokenizer and no answer can hold them."""
    if isinstance(value, dict):
        for name, each in value.items():
            check_letters(name, place)
            check_letters(each, (*place, name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            check_letters(each, (*place, str(number)))
    elif isinstance(value, str) and not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as problem:
            shown, name = ascii(value[problem.start]), ".".join(place)
            raise UsageError("serve.field_value", name=name or "body", value=shown, wanted="Unicode", param=name or None) from None


class Asked(Strict):
    """A request: whole characters everywhere, and nothing that is not offered."""

    @model_validator(mode="before")
    @classmethod
    def _check(cls, body: Any) -> Any:
        check_letters(body)
        return take_out(body, NEUTRAL)


class StreamOptions(Strict):
    """How a stream ends: with a last piece that holds the usage, or not."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


def whole(value: Any) -> Any:
    """Take 2.0 for 2, as JSON Schema does."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(whole)
Quick = Field(fail_fast=True)  # the first wrong item of a list is enough: a body can hold half a million
Word = Annotated[str, Field(min_length=1)]
Natural = Annotated[int, Field(ge=0), Whole]
Naturals = Annotated[list[Natural], Quick]
Count = Annotated[int, Field(ge=1), Whole]
Seed = Annotated[int, Field(ge=0, lt=SEEDS, description="equal seeds, equal texts; without one, each request differs"), Whole]
Most = Annotated[int, Field(ge=-1, description="-1 or 0: all tokens"), Whole]


class Choosing(Asked):
    """What completions and chats have in common; None is the default."""

    model: str
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Most | None = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=10)] = None
    n: Count | None = None
    seed: Seed | None = None
    stop: Word | Annotated[list[Word], Quick] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str | None, Field(description="accepted and not used")] = None


class CompletionRequest(Choosing):
    """A text to continue."""

    prompt: Annotated[
        str | Annotated[list[str], Quick] | Naturals | Annotated[list[Naturals], Quick],
        Field(description="a text, texts, or token ids of a text; control tokens cannot be given"),
    ] = ""
    max_tokens: Count | None = None
    logprobs: Natural | None = None
    echo: bool | None = None


class Part(Strict):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Quick]

    @model_validator(mode="before")
    @classmethod
    def _known(cls, body: Any) -> Any:
        return take_out(body, MESSAGE_NEUTRAL)

    def text(self) -> str:
        """Give the content as one text."""
        return self.content if isinstance(self.content, str) else "".join(each.text for each in self.content)


class ChatRequest(Choosing):
    """Messages to answer; a model that has not learnt to chat continues their texts."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Natural | None = None


class PredictRequest(Asked):
    """Rows to answer, each an object with the fields that the model's `input_schema` names."""

    model: str
    rows: Annotated[list[dict[StrictStr, Any]], Field(min_length=1, fail_fast=True)]
    precision: Annotated[float | None, Field(description="abstain below the confidence that reached this precision on validation")] = None


class EmbeddingRequest(Asked):
    """Texts to give as vectors."""

    model: str
    input: Annotated[
        Word | Annotated[list[Word], Field(min_length=1, fail_fast=True)],
        Field(description="a text or texts; token ids are another model's as a rule, and are not taken"),
    ]
    encoding_format: Annotated[Literal["float", "base64"], Field(description="base64: of little-endian float32")] = "float"
    user: Annotated[str | None, Field(description="accepted and not used")] = None


class Told(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(defer_build=True)


class Problem(Told):
    """What went wrong, in three sentences: what is wrong, what was expected, what to do."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(Told):
    """Every error, in OpenAI's form."""

    error: Problem


class Usage(Told):
    """Tokens: of the prompts, the end token that opens each included, and those that were chosen, the end token included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LegacyLogprobs(Told):
    """The chosen tokens and, of each, the model's own log-probability in nats and the likeliest alternatives."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(Told):
    """One text; `forgotten` counts the tokens that were no longer read because the text outgrew the model's window."""

    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: Literal["stop", "length"]
    forgotten: int


class CompletionReply(Told):
    """Texts that continue the prompts: prompt by prompt, `n` for each."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class Alternative(Told):
    """A token, its log-probability in nats, and the bytes it stands for; a control token has none."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChosenToken(Alternative):
    """The token that was chosen, with the likeliest ones."""

    top_logprobs: list[Alternative]


class ChatLogprobs(Told):
    """The chosen tokens."""

    content: list[ChosenToken]
    refusal: None = None


class ReplyMessage(Told):
    """The answer's text."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(Told):
    """One answer."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]
    forgotten: int


class ChatReply(Told):
    """Answers to the messages."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class RowAnswer(Told):
    """The model's answer to one row; `abstained`: its confidence lies below the threshold that was asked for; `reasons`: the columns of
    a table that speak most for the answer, where the model can say."""

    answer: Any
    confidence: float | None
    scores: dict[str, float] | None
    reasons: dict[str, float] | None
    abstained: bool


class PredictReply(Told):
    """An answer for each row, in their order."""

    model: str
    system_fingerprint: str
    answers: list[RowAnswer]


class Embedding(Told):
    """One text as a vector; `forgotten` counts the tokens at its end that were not read because the model reads no more."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    forgotten: int


class EmbeddingUsage(Told):
    """Tokens of the texts, with what the model reads around each."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingReply(Told):
    """A vector for each text, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ModelEntry(Told):
    """A model that is served: `routes` says where it answers; the schemas are JSON Schemas of one row and one answer of `/v1/predict`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: str
    family: str
    system_fingerprint: str
    routes: list[str]
    window: int | None
    vocabulary: int | None
    parameters: int | None
    input_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None
    precisions: list[float]
    scores: dict[str, Any]


class ModelList(Told):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelEntry]


class Health(Told):
    """`ok`, or `draining` with status 503 when the server is about to stop."""

    status: Literal["ok", "draining", "failed"]


def bound(page: dict[str, Any], limits: Limits, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Write a server's own bounds, and the names of its models, into the OpenAPI page.

    models  the entries of the models that are served, by name
    """
    requests = page["components"]["schemas"]
    for request, route in (
        ("CompletionRequest", "/v1/completions"),
        ("ChatRequest", "/v1/chat/completions"),
        ("EmbeddingRequest", VECTORS),
        ("PredictRequest", ROWS),
    ):
        fields = requests[request]["properties"]
        names = [name for name, entry in models.items() if route in entry["routes"]]
        fields["model"] |= {"enum": names} if names else {"description": "no model is served here"}
    heard = [name for name, entry in models.items() if SOUNDS in entry["routes"]]
    fields_of_form = page["paths"][SOUNDS]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    fields_of_form["model"] |= {"enum": heard} if heard else {"description": "no model is served here"}
    rows = [entry["input_schema"] for entry in models.values() if entry["input_schema"]]
    fields["rows"] |= {"maxItems": limits.predict_rows} | ({"items": rows[0] if len(rows) == 1 else {"anyOf": rows}} if rows else {})
    largest = {
        "max_tokens": limits.max_tokens,
        "max_completion_tokens": limits.max_tokens,
        "n": limits.choices,
        "logprobs": limits.logprobs,
        "top_logprobs": limits.logprobs,
    }
    for request in ("CompletionRequest", "ChatRequest"):
        fields = requests[request]["properties"]
        for name, most in largest.items():
            for branch in fields.get(name, {}).get("anyOf", ()):
                if branch.get("type") == "integer":
                    branch["maximum"] = most
        for branch in fields["stop"]["anyOf"]:
            if branch.get("type") == "string":
                branch["maxLength"] = limits.stop_characters
            if branch.get("type") == "array":
                branch["maxItems"] = limits.stops
                branch["items"]["maxLength"] = limits.stop_characters
    for branch in requests["CompletionRequest"]["properties"]["prompt"]["anyOf"]:
        if branch.get("type") == "array" and branch["items"].get("type") != "integer":
            branch["maxItems"] = limits.prompts
    return page
