"""The one generator: rows of text that a model writes side by side, each admitted and retired whenever its reader likes.

`admit` begins a row; `step` reads a bounded piece of the prompts that wait, chooses one token for every row that can go on, all at once,
and reads those together; `retire` drops rows. `generate` is admit all, step until done. A row's random numbers depend on its seed and lane
only, so that a row alone and the same row among others give the same text (where their logits, equal to about 1e-6, leave one choice).
Every model that gives next-token distributions can write: trained, counted or mixed.

A text that outgrows a model's window slides: the last half window of it is kept and read again, and `forgotten` counts what was dropped.
Source: the admit, step, retire form is continuous batching, Yu et al. 2022 (Orca). Leaves out: beam search.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zhixing.core.errors import UsageError
from zhixing.core.random import key
from zhixing.decoding.asking import Sampling, open_text
from zhixing.decoding.sampling import choose_rows
from zhixing.layers.kinds import Inputs, next_log_probabilities
from zhixing.tokens.tokenizer import Decoder, Tokenizer

READ = 128  # tokens of prompts that one step reads: what rows under way may have to wait for


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
    """A text under way.

    unread  int, tokens      how much at the end of the context the model has still to read before it can go on
    cache                    what it has read of a context that is longer than one step reads; the machine's cache holds all others
    seen    (1, V) bool      the tokens of the text so far; None where no penalty asks
    """

    number: int
    sampling: Sampling
    generator: torch.Generator
    context: list[int]
    decoder: Decoder
    holder: Holder
    top: int
    seen: Tensor | None
    unread: int
    forgotten: int = 0
    written: int = 0
    cache: Any = None


class Machine:
    """Rows of text that one model writes side by side.

    Those that can go on stand in the order of the cache's rows and of the log-probabilities of their next tokens; the others have
    something to read first: their prompt, or what is kept of a text that outgrew the window.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.window: int | None = getattr(model, "window", None)
        self.device = next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")
        self._rows: list[Row] = []
        self._reading: deque[Row] = deque()
        self._cache: Any = None
        self._log_probs = torch.empty(0)  # (B, V)
        self._admitted = 0

    @property
    def rows(self) -> list[int]:
        """The rows under way."""
        return [row.number for row in (*self._rows, *self._reading)]

    def admit(self, prompt: Sequence[int], sampling: Sampling, lane: int = 0, top: int = 0) -> int:
        """Begin a row; allowed at any time between steps.

        prompt  list of int, tokens    the end token first when it opens a text
        lane    int                    which of the seed's random streams the row draws from
        top     int                    how many of the likeliest tokens its events tell
        return  int                    the row

        Raises UsageError when the prompt is empty: there is nothing to go on from.
        """
        if len(prompt) == 0:
            raise UsageError("generate.empty_prompt")
        if sampling.forbidden is None:
            sampling = replace(sampling, forbidden=self.tokenizer.barred)
        context = list(prompt)
        if self.window is not None and len(context) > self.window:
            context = self._half(context)
        seen = None
        if sampling.repetition_penalty != 1:
            seen = torch.zeros(1, self.model.vocabulary, dtype=torch.bool)
            seen[0, list(prompt)] = True
        row = Row(
            number=self._admitted,
            sampling=sampling,
            generator=torch.Generator().manual_seed(key(sampling.seed, "lane", lane)),
            context=context,
            decoder=Decoder(self.tokenizer, self.tokenizer.begins_after(prompt[-1])),
            holder=Holder(sampling.stop),
            top=top,
            seen=seen,
            unread=len(context),
            forgotten=len(prompt) - len(context),
        )
        self._admitted += 1
        self._reading.append(row)
        return row.number

    def step(self) -> list[Event]:
        """Read some of what is to be read, choose a token for every row that can go on, and read those of the rows that do.

        return  one event a row that could go on, perhaps none; finished rows are retired
        """
        if self._reading:
            self._begin()
        if not self._rows:
            return []
        seen = None
        if any(row.seen is not None for row in self._rows):
            none = torch.zeros(1, self._log_probs.shape[1], dtype=torch.bool)
            seen = torch.cat([none if row.seen is None else row.seen for row in self._rows])  # (B, V)
        tokens = choose_rows(self._log_probs, [row.sampling for row in self._rows], [row.generator for row in self._rows], seen)
        chosen = self._log_probs.gather(1, torch.tensor(tokens)[:, None]).squeeze(1).tolist()
        tops = self._tops()
        events = [self._write(*each) for each in zip(self._rows, tokens, chosen, tops, strict=True)]
        going = [place for place, event in enumerate(events) if not event.finished]
        self._keep(going)
        self._read([tokens[place] for place in going])
        return events

    def retire(self, *rows: int) -> None:
        """Drop rows before they are finished.

        Raises UsageError when no such row is under way.
        """
        for row in set(rows).difference(self.rows):
            raise UsageError("generate.no_row", row=row)
        self._reading = deque(each for each in self._reading if each.number not in rows)
        self._keep([place for place, each in enumerate(self._rows) if each.number not in rows])

    def _tops(self) -> list[tuple[tuple[int, float], ...]]:
        """Give each row's likeliest tokens, as many as it asks for."""
        most = min(max(row.top for row in self._rows), self._log_probs.shape[1])
        if not most:
            return [()] * len(self._rows)
        best = self._log_probs.topk(most)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [tuple(zip(ids[: row.top], values[: row.top], strict=True)) for row, (ids, values) in zip(self._rows, pairs, strict=True)]

    def _write(self, row: Row, token: int, log_probability: float, top: tuple[tuple[int, float], ...]) -> Event:
        if row.seen is not None:
            row.seen[0, token] = True
        row.written += 1
        finished = ""
        if token in self.tokenizer.ends:
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
        chosen = torch.tensor(places, dtype=torch.long)
        self._rows = [self._rows[place] for place in places]
        self._log_probs = self._log_probs[chosen]
        self._cache = self._cache.rows(chosen) if places else None

    def _read(self, tokens: list[int]) -> None:
        """Read one token a row; rows that would outgrow the window have the last half window to read anew."""
        for row, token in zip(self._rows, tokens, strict=True):
            row.context.append(token)
        full = [row for row in self._rows if self.window is not None and len(row.context) > self.window]
        if full:
            self._keep([place for place, row in enumerate(self._rows) if len(row.context) <= self.window])
        for row in full:
            kept = self._half(row.context)
            row.forgotten += len(row.context) - len(kept)
            row.context, row.unread = kept, len(kept)
        self._reading.extendleft(reversed(full))  # they came before those that wait
        if self._rows:
            last = torch.tensor([[row.context[-1]] for row in self._rows], device=self.device)  # (B, 1)
            self._log_probs = self._ask(Inputs(last), self._cache)

    def _half(self, context: list[int]) -> list[int]:
        return context[-max(self.window // 2, 1) :]

    def _begin(self) -> None:
        """Read contexts that are still to be read, the first come first, at most READ tokens in all; those read whole can go on.

        A context of more than READ tokens is read alone and in pieces of READ, whoever else is there, so that every row is read in the
        pieces in which it would be read alone.
        """
        group = [self._reading.popleft()]
        longest = group[0].unread
        while self._reading and group[0].cache is None and self._reading[0].cache is None:
            longest = max(longest, self._reading[0].unread)
            if longest * (len(group) + 1) > READ:
                break
            group.append(self._reading.popleft())
        pieces = [row.context[len(row.context) - row.unread :][:READ] for row in group]
        cache = self.model.cache(len(group)) if group[0].cache is None else group[0].cache
        log_probs = self._ask(batch(pieces, self.device), cache)  # (B, V)
        for row, piece in zip(group, pieces, strict=True):
            row.unread -= len(piece)
        if group[0].unread:
            group[0].cache = cache
            self._reading.appendleft(group[0])
            return
        group[0].cache = None
        self._log_probs = torch.cat([self._log_probs, log_probs]) if self._rows else log_probs
        self._cache = self._cache.join(cache) if self._rows else cache
        self._rows += group

    def _ask(self, inputs: Inputs, cache: Any) -> Tensor:
        return next_log_probabilities(self.model, inputs, cache).cpu()  # (B, V)


def batch(texts: Sequence[list[int]], device: torch.device) -> Inputs:
    """Lay texts side by side, the shorter ones filled up on the right."""
    lengths = [len(each) for each in texts]
    longest = max(lengths)
    tokens = torch.tensor([[*each, *[0] * (longest - len(each))] for each in texts], device=device)  # (B, T)
    return Inputs(tokens, None if min(lengths) == longest else torch.tensor(lengths, device=device))


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
