"""Make a training ready: task, streams of batches and a builder of the model; what depends on the machine is settled; its cost is tried.

Nothing here takes a step that counts, and nothing is written but the corpus's token cache.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from zhixing.core.config import Settings
from zhixing.core.errors import DataError, UsageError
from zhixing.core.random import key
from zhixing.data.corpus import Corpus
from zhixing.data.shards import shard
from zhixing.data.stream import ROW_WORDS, Masked, Mixture, Rows, Windows
from zhixing.data.stream import rows as rows_of
from zhixing.layers import lora, met
from zhixing.layers.kinds import Headed
from zhixing.layers.machine import fast_bf16, wait
from zhixing.metrics.checkers import CHECKERS
from zhixing.models import catalog
from zhixing.objectives.distil import Distill
from zhixing.objectives.policy import PolicyGradient
from zhixing.objectives.prior import PRIORS, Posterior
from zhixing.tasks.classify import known_rows
from zhixing.tasks.task import encoded, task_class
from zhixing.tokens.tokenizer import Tokenizer
from zhixing.training import budget, optim, private, start, teacher, trainer, vectors
from zhixing.training.gradients import Gradients, refuse_parts
from zhixing.training.rollouts import Rollouts
from zhixing.training.settings import TrainSettings, task_of

DROPOUTS = ((1.5, 0.0), (4.5, 0.05), (8.0, 0.1), (float("inf"), 0.2))  # passes over the text up to which dropout is this large
# Of 10.7 million parameters, in fp32: 4 x 4,096 tokens took 4.2 s, 1 x 16,384 took 4.9, 8 x 2,048 took 4.4 (two cores). In bf16 what is
# computed takes half the room: 2 x 8,192 took 1.54, 4 x 4,096 took 1.60.
MICRO_TOKENS = {"fp32": 4096, "bf16": 8192}
# Of an adapter's training, of which most that stands in memory is what a micro-batch computes. Of SmolLM2's 135 million parameters in fp32,
# 8 rows of 256 tokens: 2 x 1,024 tokens took 21.7 s and 3.2 GB a step, 4 x 512 took 22.5 and 2.0; training all weights takes 6.0 GB.
LOW_RANK_TOKENS = {"fp32": 512, "bf16": 1024}
TOKENS = ("tokens", "others", "lead")  # what an item calls its runs of tokens
Tell = Callable[..., None]


@dataclass
class Plan:
    """A training made ready: everything but the weights."""

    settled: Settings
    task: Any
    tokenizer: Tokenizer | None
    build: Callable[[TrainSettings], nn.Module]
    stream: Any
    held_out: Any
    tokens_a_step: int
    train_tokens: int
    units: int  # of the training split, whose mean is minimised: targets of a text, or rows

    @property
    def settings(self) -> TrainSettings:
        """The settled settings."""
        return self.settled.value

    @property
    def held_batches(self) -> int:
        """How many batches of validation there are."""
        return self.held_out.steps_per_epoch if self.held_out else 0

    def objective(self) -> Any:
        """Give what is minimised: the task's objective, beside a teacher and under a prior on the weights where these are asked for.

        Of texts that the model wrote itself it is what they earned.
        """
        settings = self.settings
        inner = PolicyGradient(settings.kl, self.tokenizer.barred) if settings.rollouts else self.task.objective()
        if settings.teacher:
            inner = Distill(inner, settings.teacher_weight, settings.teacher_temperature)
        return inner if settings.prior == "none" else Posterior(inner, PRIORS[settings.prior](settings.prior_strength), self.units)


def choose(settings: TrainSettings, task: str) -> TrainSettings:
    """Settle what depends on the machine: "auto" becomes bf16 where products are faster in it, and a step becomes micro-batches.

    On a CPU what a micro-batch computes should stay in the caches; a model that reads place by place has nothing to gain.
    """
    if settings.precision == "auto":
        settings = replace(settings, precision="bf16" if fast_bf16() else "fp32")
    if settings.accumulate:
        return settings
    split = task in ("language", "masked") and settings.heads and not torch.cuda.is_available()
    micro = (LOW_RANK_TOKENS if settings.lora else MICRO_TOKENS)[settings.precision]
    least = -(-settings.batch * settings.window // micro) if split else 1
    micros = next((k for k in range(least, settings.batch) if settings.batch % k == 0), settings.batch)
    return replace(settings, accumulate=micros)


def ready(corpus: Corpus, settled: Settings, tokenizer: Tokenizer | None, tell: Tell) -> Plan:
    """Make a neural training ready: task, streams and a builder of the model."""
    settings: TrainSettings = settled.value
    name = task_of(settings.model, corpus.task)
    if name == "embed":
        return ready_vectors(corpus, settled, tokenizer, tell)
    task = fit_task(corpus, name, settings)
    refuse_parts(task.objective(), settings.accumulate)
    if settings.lora:
        start.check_maps(settings.start)

    def build(chosen: TrainSettings) -> nn.Module:
        torch.manual_seed(key(chosen.seed, "init"))
        vocabulary = task.vocabulary if tokenizer is None else tokenizer.vocabulary_size
        body = start.body(chosen, vocabulary, chosen.window, task, tokenizer)
        head = task.head(body.width)
        if chosen.lora:
            lora.attach(body, chosen.lora, chosen.lora_alpha or 2.0 * chosen.lora)
            if chosen.lora_base == "int8":
                lora.squeeze(body)
            if chosen.precision == "bf16":
                lora.halve(body)
        return body if head is None else Headed(body, head)

    if settings.model == "mixture" and not corpus.counts.get("validation"):
        raise DataError("train.no_validation", path=str(corpus.path))
    if corpus.task == "language":
        tokens = shard(corpus, tokenizer, "train", tell).tokens
        if len(tokens) <= settings.window:
            raise DataError("train.short_corpus", tokens=len(tokens), window=settings.window)
        stream: Any = Windows(tokens, settings.batch, settings.window, settings.seed)
        held = shard(corpus, tokenizer, "validation", tell).tokens if corpus.counts.get("validation") else None
        held_out = None
        if held is not None:
            window = min(settings.window, len(held) - 1)  # a short validation text is read whole
            held_out = Windows(held, min(settings.batch, max(1, (len(held) - 1) // window)), window, 0)
        if name == "masked":
            mask, size = tokenizer.mask_id, tokenizer.vocabulary_size
            stream = Masked(stream, mask, size, settings.seed)
            held_out = held_out and Masked(held_out, mask, size, 0)
        return Plan(settled, task, tokenizer, build, stream, held_out, settings.batch * settings.window, len(tokens), len(tokens) - 1)
    reads = getattr(catalog.find({"model_type": settings.model}), "senses", None)
    senses = getattr(task, "senses", ())
    if reads is not None and not set(senses) <= set(reads):
        raise UsageError("train.senses", model=settings.model, reads=", ".join(reads), senses=", ".join(senses))
    items = list(encoded(task, corpus.examples("train"), tokenizer, "train"))
    judged = corpus.counts.get("validation") and not settings.epsilon
    held_rows = known_rows(task, corpus.examples("validation"), tell) if judged else []
    held_items = list(encoded(task, held_rows, tokenizer, "validation"))
    if settings.batch // max(1, settings.rollouts) > len(items) and not settings.epsilon:
        raise UsageError("train.batch_rows", batch=settings.batch, rows=len(items))
    if settings.teacher:
        teacher.taught(items, list(corpus.examples("train")), task, settings.teacher, tell)
    pad_id = 0 if tokenizer is None else tokenizer.pad_id
    if settings.rollouts:
        written = rollouts_of(task, list(corpus.examples("train")), tokenizer, settings)
        return Plan(settled, task, tokenizer, build, written, None, settings.batch, len(items) * settings.rollouts, len(items))
    if settings.epsilon:
        drawn = private.Poisson(items, private.rate_of(settings.batch, len(items)), pad_id)
        return Plan(settled, task, tokenizer, build, drawn, None, settings.batch, len(items), len(items))
    # Rows of which one answer is known are seen about as often as those of another.
    stream = rows_of(
        items, [frozenset(task.schema.told) & frozenset(row) for row in corpus.examples("train")], settings.batch, settings.seed, pad_id
    )
    held_out = rows_of(held_items, [None] * len(held_items), min(settings.batch, len(held_items)), 0, pad_id, 1.0) if held_items else None
    return Plan(settled, task, tokenizer, build, stream, held_out, settings.batch, len(items), len(items))


def rollouts_of(task: Any, examples: list[Any], tokenizer: Tokenizer, settings: TrainSettings) -> Rollouts:
    """Make the stream of texts that the model writes on the prompts of examples, rewarded by the task's checker."""
    check = CHECKERS[task.checker]
    prompts = [task.encode({"prompt": each["prompt"]}, tokenizer)["tokens"].tolist() for each in examples]

    def reward(place: int, text: str) -> float:
        return check(examples[place]["prompt"], examples[place]["answer"], text.strip())

    return Rollouts(prompts, reward, tokenizer, settings.batch, settings.rollouts, task.most, settings.seed)


def fit_task(corpus: Corpus, name: str, settings: TrainSettings) -> Any:
    """Let a task read what it must know from the training split; one that cuts what is too long is told the window.

    What the weights of a start of the same task rest on is kept of it.
    """
    cls = task_class(name)
    names = {each.name for each in fields(cls)}
    family = catalog.find({"model_type": settings.model})
    told = {"longest": settings.window, "checker": settings.checker, "written": "speech_seq2seq" in family.kinds}
    told |= start.carried(settings.start, name, getattr(family, "CARRIES", ())) if settings.start else {}
    return cls.fit(corpus.examples("train"), **{name: value for name, value in told.items() if name in names})


def ready_vectors(corpus: Corpus, settled: Settings, tokenizer: Tokenizer, tell: Tell) -> Plan:
    """Make a training of word vectors ready; its corpus may be of any task, since only texts are read."""
    settings: TrainSettings = settled.value
    if settings.window > ROW_WORDS // 2:
        raise UsageError("train.wide_window", window=settings.window, most=ROW_WORDS // 2, row=ROW_WORDS)
    form = {name: getattr(settings, name) for name in ("window", "negatives", "subsample", "minimum")}
    task = task_class("embed").fit(corpus.examples("train"), method=settings.model, **form)
    learnt, stream, held_out = vectors.streams(corpus, tokenizer, task, settings, tell)

    def build(chosen: TrainSettings) -> nn.Module:
        torch.manual_seed(key(chosen.seed, "init"))
        config = catalog.configure(chosen, tokenizer.vocabulary_size, chosen.window)
        return catalog.build({**config, "word_count": len(learnt[-1])}).know(*learnt)

    places = stream.rows * ROW_WORDS
    units = places * (settings.window + 1) if settings.model == "skipgram" else places  # the weights of a place's pairs
    epoch = max(places, vectors.LEAST_WORDS)
    return Plan(settled, task, tokenizer, build, stream, held_out, settings.batch * ROW_WORDS, epoch, units)


def narrows(plan: Plan) -> bool:
    """Say whether rows of a table that the training split does not meet stay as they are: something is begun with, and nothing decays."""
    settings = plan.settings
    moved = settings.epsilon or settings.table_decay or settings.lora or settings.prior != "none"
    return bool(settings.start) and not moved and type(plan.stream) is Rows


def narrow(model: nn.Module, plan: Plan) -> None:
    """Train only the rows of its tables that the training split meets, where the others stay as they are and a head alone reads states."""
    if not narrows(plan) or not isinstance(model, Headed) or not (tables := met.tables(model)):
        return
    seen = np.zeros(max(each.num_embeddings for each in tables), bool)
    seen[plan.stream.pad_id] = True
    for item in plan.stream.items:
        for name in TOKENS:
            if name in item:
                seen[item[name]] = True
    met.narrow(model, torch.from_numpy(np.flatnonzero(seen)))


def dropout_for(settings: TrainSettings, steps: int, plan: Plan) -> float:
    """Give the dropout that the number of passes over the training text calls for, unless one was given."""
    if settings.dropout >= 0:
        return settings.dropout
    passes = steps * plan.tokens_a_step / plan.train_tokens
    return next(value for most, value in DROPOUTS if passes <= most)


def estimate(plan: Plan, settings: TrainSettings) -> budget.Estimate:
    """Time a few steps of a throwaway copy of the model on real batches; of a long step of text, a piece stands for all."""
    model = plan.build(replace(settings, dropout=max(0.0, settings.dropout))).to(device())
    narrow(model, plan)
    if hasattr(plan.stream, "bind"):
        plan.stream.bind(model, plan.build(settings))
    gradients: Any = Gradients(model, plan.objective(), settings.precision, settings.seed)
    if settings.epsilon:
        own = {"clip": settings.example_clip, "noise": 0.0, "expected": float(settings.batch)}
        gradients = private.PrivateGradients(model, plan.objective(), settings.precision, settings.seed, **own)
    optimizer = optim.build(model, settings, settings.precision == "bf16")
    pace = trainer.Pace(1 << 20, clip=settings.clip)
    alike = not isinstance(plan.stream, Rows | Mixture | Rollouts | private.Poisson)
    pieces = settings.accumulate
    if alike:
        parameters = sum(p.numel() for p in model.parameters())
        operations = budget.TRIAL_OPERATIONS * (budget.GPU_CORES if torch.cuda.is_available() else 1)
        long = (k for k in range(pieces, settings.batch) if settings.batch % k == 0 and k % pieces == 0)
        pieces = next((k for k in long if 6 * parameters * plan.tokens_a_step / k < operations), settings.batch)

    def one_step(step: int) -> None:
        model.train()
        if isinstance(plan.stream, Rollouts):
            plan.stream.forget()  # writing is part of a step
        each = range(1) if alike else range(pieces)
        batches = [trainer.to_tensors(plan.stream.batch(step, m, pieces)) for m in each]
        trainer.update(gradients, model, optimizer, batches, step, pace)
        wait()

    if not alike:  # batches hold rows of like length: try some from the whole of an epoch
        spread = [place * plan.stream.steps_per_epoch // budget.TRIALS_OF_ROWS for place in range(budget.TRIALS_OF_ROWS)]
        return budget.try_steps(one_step, spread, statistics.fmean)
    if pieces == settings.accumulate == 1:
        return budget.try_steps(one_step, list(range(budget.TRIALS)))
    model.train()
    gradients.begin([batch := trainer.to_tensors(plan.stream.batch(0, 0, pieces))])
    held = budget.resident_bytes()
    piece = budget.try_steps(lambda step: (gradients.add(batch, step, 0), wait()), [0])
    grown = max(0, piece.memory_bytes - held) * (pieces // settings.accumulate - 1)
    whole = budget.try_steps(one_step, [0], warm=True)
    return budget.Estimate(
        max(whole.step_seconds, piece.step_seconds) + (pieces - 1) * piece.step_seconds,
        max(whole.step_core_seconds, piece.step_core_seconds) + (pieces - 1) * piece.step_core_seconds,
        max(whole.memory_bytes, piece.memory_bytes) + grown,
    )


def device() -> torch.device:
    """Give the place where trainings compute."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
