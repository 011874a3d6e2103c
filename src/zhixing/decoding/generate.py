"""The one generator: rows of text that a model writes side by side, each admitted and retired whenever its reader likes.

`admit` reads a prompt alone and joins it to the rows under way; `step` chooses one token for every row and reads those that go on,
together; `retire` drops a row. `generate` is admit all, step until done. A row's random numbers depend on its seed and lane only, so
that a row alone and the same row among others give the same text (where their logits, equal to about 1e-6, leave one choice). Every
model that gives next-token distributions can write: trained, counted or mixed.

A text that outgrows a model's window slides: the last half window of it is kept and read again, and `forgotten` counts what was dropped.
Source: the admit, step, retire form is continuous batching, Yu et al. 2022 (Orca). Leaves out: beam search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zhixing.core.errors import UsageError
from zhixing.core.random import key
from zhixing.decoding.sampling import Sampling, choose
from zhixing.layers.kinds import Inputs, next_log_probabilities
from zhixing.tokens.tokenizer import Decoder, Tokenizer


@dataclass(frozen=True)
class Event:
    """One token of one row.

    row              int      what `admit` returned
    token            int      the token that was chosen
    text             str      what may be shown now; the start of a possible stop string is held back
    log_probability  float    the model's own log p(token), before any filter, in nats
    finished         str      "end", "stop" or "length" with the row's last token; "" before
    forgotten        int      tokens of the row's context dropped so far, because it outgrew the model's window
    top              tuple    the likeliest (token, log p), as many as were asked for, the likeliest first; before any filter, too
    """

    row: int
    token: int
    text: str
    log_probability: float
    finished: str
    forgotten: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Generation:
    """A finished row; tokens and log_probabilities include the end token where one was chosen, text does not."""

    text: str
    tokens: list[int]
    finish_reason: str
    log_probabilities: list[float]
    forgotten: int = 0


class Holder:
    """Text on its way out, which holds back whatever may still become a stop string."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stop = stop
        self.held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """Take a piece; give what may be shown, and whether a stop string was met."""
        self.held += piece
        met = [place for place in (self.held.find(each) for each in self.stop) if place >= 0]
        if met:
            shown, self.held = self.held[: min(met)], ""
            return shown, True
        keep = max((self._overlap(each) for each in self.stop), default=0)
        cut = len(self.held) - keep
        shown, self.held = self.held[:cut], self.held[cut:]
        return shown, False

    def flush(self) -> str:
        """Give what is still held back; no more text will come."""
        shown, self.held = self.held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        longest = min(len(stop) - 1, len(self.held))
        return next((size for size in range(longest, 0, -1) if self.held.endswith(stop[:size])), 0)


@dataclass
class Row:
    """A text under way."""

    number: int
    sampling: Sampling
    generator: torch.Generator
    context: list[int]
    decoder: Decoder
    holder: Holder
    log_probs: Tensor
    top: int = 0
    written: int = 0
    history: list[int] = field(default_factory=list)
    forgotten: int = 0


class Machine:
    """Rows of text that one model writes side by side."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.window: int | None = getattr(model, "window", None)
        self.device = next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")
        self._rows: list[Row] = []
        self._cache: Any = None
        self._admitted = 0

    @property
    def rows(self) -> list[int]:
        """The rows under way."""
        return [row.number for row in self._rows]

    def admit(self, prompt: Sequence[int], sampling: Sampling, lane: int = 0, top: int = 0) -> int:
        """Read a prompt and begin a row; allowed at any time between steps.

        prompt  list of int, tokens    the end token first when it opens a text
        lane    int                    which of the seed's random streams the row draws from
        top     int                    how many of the likeliest tokens its events tell
        return  int                    the row

        Raises UsageError when the prompt is empty: there is nothing to go on from.
        """
        if len(prompt) == 0:
            raise UsageError("generate.empty_prompt")
        context, forgotten = list(prompt), 0
        if self.window is not None and len(context) > self.window:
            context, forgotten = self._half(context), len(context) - len(self._half(context))
        log_probs, cache = self._prefill(context)
        generator = torch.Generator().manual_seed(key(sampling.seed, "lane", lane))
        row = Row(
            number=self._admitted,
            sampling=sampling,
            generator=generator,
            context=context,
            decoder=Decoder(self.tokenizer),
            holder=Holder(sampling.stop),
            log_probs=log_probs,
            top=top,
            history=list(prompt),
            forgotten=forgotten,
        )
        self._admitted += 1
        self._rows.append(row)
        self._cache = cache if self._cache is None else self._cache.join(cache)
        return row.number

    def step(self) -> list[Event]:
        """Choose a token for every row, then read those of the rows that go on; finished rows are retired."""
        events, going, tokens = [], [], []
        for place, row in enumerate(self._rows):
            history = torch.tensor(row.history if row.sampling.repetition_penalty != 1 else [], dtype=torch.long)
            token = choose(row.log_probs, row.sampling, history, row.generator)
            event = self._write(row, token)
            events.append(event)
            if not event.finished:
                going.append(place)
                tokens.append(token)
        self._keep(going)
        self._read(tokens)
        return events

    def retire(self, *rows: int) -> None:
        """Drop rows before they are finished.

        Raises UsageError when no such row is under way.
        """
        for row in rows:
            if row not in self.rows:
                raise UsageError("generate.no_row", row=row)
        self._keep([place for place, each in enumerate(self._rows) if each.number not in rows])

    def _write(self, row: Row, token: int) -> Event:
        log_probability = float(row.log_probs[token])
        best = row.log_probs.topk(min(row.top, len(row.log_probs)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        row.history.append(token)
        row.written += 1
        finished = ""
        if token == self.tokenizer.end_id:
            finished, text = "end", ""
        else:
            text, stopped = row.holder.push(row.decoder.push(token))
            if stopped:
                finished = "stop"
            elif row.written >= row.sampling.max_tokens:
                finished = "length"
        if finished in ("end", "length"):
            rest, stopped = row.holder.push(row.decoder.flush())
            text += rest
            if stopped:
                finished = "stop"
            else:
                text += row.holder.flush()
        return Event(row.number, token, text, log_probability, finished, row.forgotten, top)

    def _keep(self, places: list[int]) -> None:
        if len(places) == len(self._rows):
            return
        self._rows = [self._rows[place] for place in places]
        self._cache = self._cache.rows(torch.tensor(places, dtype=torch.long)) if places else None

    def _read(self, tokens: list[int]) -> None:
        """Read one token a row; rows that would outgrow the window are read anew, from the last half window."""
        if not self._rows:
            return
        for row, token in zip(self._rows, tokens, strict=True):
            row.context.append(token)
        full = {row.number for row in self._rows if self.window is not None and len(row.context) > self.window}
        slid = [row for row in self._rows if row.number in full]
        if slid:
            self._keep([place for place, row in enumerate(self._rows) if row.number not in full])
        if self._rows:
            last = torch.tensor([[row.context[-1]] for row in self._rows], device=self.device)  # (B, 1)
            log_probs = self._ask(Inputs(last), self._cache)  # (B, V)
            for row, each in zip(self._rows, log_probs, strict=True):
                row.log_probs = each
        for row in slid:
            kept = self._half(row.context)
            row.forgotten += len(row.context) - len(kept)
            row.context = kept
            row.log_probs, cache = self._prefill(kept)
            self._rows.append(row)
            self._cache = cache if self._cache is None else self._cache.join(cache)

    def _half(self, context: list[int]) -> list[int]:
        return context[-max(self.window // 2, 1) :]

    def _prefill(self, context: list[int]) -> tuple[Tensor, Any]:
        cache = self.model.cache(1)
        tokens = torch.tensor([context], device=self.device)  # (1, T)
        return self._ask(Inputs(tokens), cache)[0], cache

    def _ask(self, inputs: Inputs, cache: Any) -> Tensor:
        return next_log_probabilities(self.model, inputs, cache).cpu()  # (B, V)


def generate(
    model: Any, tokenizer: Tokenizer, prompts: Sequence[str | Sequence[int]], sampling: Sampling, rows: int = 64, lane: int = 0
) -> list[Generation]:
    """Write on from each prompt; a prompt of text opens one, after the end token; a prompt of ids is taken as it stands.

    prompts  list           str or ids; prompt i draws from the random stream `lane` + i
    rows     int            how many are under way at once; changes the time, not the texts
    return   list of Generation, one a prompt, in their order
    """
    machine = Machine(model, tokenizer)
    waiting = list(enumerate(prompts))[::-1]
    place: dict[int, int] = {}
    events: list[list[Event]] = [[] for _ in prompts]
    while waiting or machine.rows:
        while waiting and len(machine.rows) < max(rows, 1):
            number, prompt = waiting.pop()
            place[machine.admit(open_text(tokenizer, prompt), sampling, lane + number)] = number
        for event in machine.step():
            events[place[event.row]].append(event)
    return [
        Generation(
            text="".join(event.text for event in each),
            tokens=[event.token for event in each],
            finish_reason=each[-1].finished,
            log_probabilities=[event.log_probability for event in each],
            forgotten=each[-1].forgotten,
        )
        for each in events
    ]


def stream(model: Any, tokenizer: Tokenizer, prompt: str | Sequence[int], sampling: Sampling, lane: int = 0) -> Iterator[Event]:
    """Write on from one prompt, token by token: the same text as `generate` gives for one prompt, as it is made."""
    machine = Machine(model, tokenizer)
    machine.admit(open_text(tokenizer, prompt), sampling, lane)
    while machine.rows:
        yield from machine.step()


def open_text(tokenizer: Tokenizer, prompt: str | Sequence[int]) -> list[int]:
    """Give the ids that a row begins with: of a text, the end token and then the text's; ids as they stand."""
    if not isinstance(prompt, str):
        return [int(each) for each in prompt]
    return [tokenizer.end_id, *[int(each) for each in tokenizer.encode(prompt)]]
