"""Evaluation of a Model folder on a split of a Corpus folder: figures with intervals, and the cheap rivals beside each.

Bits per byte: total bits over the whole held-out text, every byte once, context carried from the text before it, end tokens paid for,
over the UTF-8 bytes of the raw text. Intervals come from documents or, in few long texts, from stretches, which are drawn with replacement.

Figures are evidence only of text that the model has not seen: a split that it was fitted on or chosen on, or texts that stand in its
training corpus, are scored, but then nobody is declared better.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.config import fingerprint
from zhixing.core.errors import DataError, UsageError, ZhixingError
from zhixing.core.files import sha256, write_json
from zhixing.core.folder import MANIFEST
from zhixing.core.log import quiet
from zhixing.data.corpus import Corpus, open_corpus
from zhixing.data.schema import Image, Schema, Sound
from zhixing.data.shards import shard
from zhixing.evaluation.baselines import Reader, answered, asked, language_models, language_rivals, row_rivals
from zhixing.evaluation.masked import judge_masked
from zhixing.evaluation.matches import judge_matches
from zhixing.evaluation.partners import judge_partners
from zhixing.evaluation.report import Figure, Report, decide, unsure
from zhixing.evaluation.samples import SAMPLES, judge_samples
from zhixing.evaluation.vectors import judge_vectors
from zhixing.metrics import intervals
from zhixing.metrics import labels as judged
from zhixing.metrics import text as texts
from zhixing.metrics.figures import WHOLE_ROUNDS, Figures, known
from zhixing.tasks.artefact import Artefact, load
from zhixing.tasks.classify import PRECISIONS
from zhixing.tasks.many import part_of
from zhixing.tasks.similar import SCORE
from zhixing.tasks.task import task_class

STRETCH = 512  # tokens of one unit of the bootstrap when there are few documents, at most
SHORT_STRETCH = 64  # and at least: shorter ones depend on their neighbours
FEW_DOCUMENTS = 30
SEED = 20231
ANY_CORPUS = ("embed",)  # tasks that only read texts
# How a model of a task is judged on a corpus of another.
PAIRED = {("language", "judge"): "judge", ("masked", "judge"): "judge", ("masked", "language"): "masked"}
Tell = Callable[..., None]


def evaluate(
    model: str | Path | Artefact,
    corpus: str | Path,
    split: str = "test",
    tell: Tell = quiet,
    rivals: bool = True,
    save: bool = True,
    samples: int | None = None,
    reader: Reader | None = None,
) -> Report:
    """Score a model on a split, with intervals, and the cheap rivals beside each figure.

    model    a Model folder
    corpus   a Corpus folder of the model's task; of any, for vectors of words, which read its texts
    rivals   fit the cheap rivals too and compare in pairs
    save     write the report to <model>/evaluation/<corpus>-<split>-<hash>.json
    samples  how many texts a language model writes, to be measured beside real ones (`samples.py`); 0: none; None: 64
    reader   how a language model and its rivals read a text to be scored, `Dynamic` for one; None: as they are

    Raises UsageError when model and corpus are of different tasks, DataError when the model knows none of the split's labels.
    """
    if samples is not None and samples < 0:
        raise UsageError("evaluate.samples", value=samples)
    artefact = model if isinstance(model, Artefact) else load(model)
    if samples and artefact.task.name != "language":
        raise UsageError("evaluate.samples_task", task=artefact.task.name)
    samples = (0 if reader else SAMPLES) if samples is None else samples
    opened = open_corpus(corpus)
    both = (artefact.task.name, opened.task)
    judge = PAIRED.get(both, artefact.task.name)
    if both not in PAIRED and judge not in (opened.task, *ANY_CORPUS):
        raise UsageError(
            "evaluate.other_task", model=str(artefact.folder.path), task=artefact.task.name, corpus=str(opened.path), other=opened.task
        )
    if reader is not None and judge != "language":
        raise UsageError("evaluate.reader_task", task=judge)
    more = () if reader is None else (reader,)
    report = JUDGES.get(judge, judge_rows)(artefact, opened, split, tell, rivals, *more)
    if judge == "language" and samples:
        report = add_samples(report, artefact, opened, split, tell, samples)
    if report.details.get("units", report.examples) < intervals.ENOUGH:
        report = unsure(report)
    report = doubt(report, artefact, opened, split)
    if save:
        where = artefact.folder.path / "evaluation"
        where.mkdir(exist_ok=True)
        asked = [sha256(opened.path / MANIFEST), split, rivals, samples, *([asdict(reader)] if reader else [])]
        identity = fingerprint(asked)[:8]
        write_json(where / f"{opened.path.name}-{split}-{identity}.json", report.to_dict())
    return report


def doubt(report: Report, artefact: Artefact, corpus: Corpus, split: str) -> Report:
    """Take back a verdict on what the model has seen: the split it was fitted on or chosen on, or texts of another corpus that it was."""
    card = artefact.folder.card
    if card.get("corpus", {}).get("manifest_sha256") == sha256(corpus.path / MANIFEST):
        if split in card.get("fitted_on", ()):
            return replace(report, verdict="seen")
        settled = artefact.task.fitted or (card.get("training") or {}).get("best_step") is not None
        return replace(report, verdict="chosen") if split == "validation" and settled else report
    overlap = count_overlap(card.get("corpus", {}), corpus, split)
    details = {**report.details, "overlap": overlap, **({"withheld": True} if "private" in card else {})}
    return replace(report, verdict="overlap" if overlap else report.verdict, details=details)


def open_origin(origin: dict[str, Any]) -> Corpus | None:
    """Open the corpus that a model was made from.

    origin  what the model's card says of that corpus
    return  None when the corpus does not lie there any more, or is another by now
    """
    try:
        learned = open_corpus(origin["path"])
        return learned if sha256(learned.path / MANIFEST) == origin["manifest_sha256"] else None
    except (ZhixingError, OSError, KeyError):
        return None


def count_overlap(origin: dict[str, Any], corpus: Corpus, split: str) -> int | None:
    """Count the texts of a split that stand, character by character, in the train or validation split of a model's training corpus.

    return  None when there is no such corpus (`open_origin`)
    """

    def mark(example: dict[str, Any], schema: Schema) -> bytes:
        media = any(isinstance(field, Sound | Image) for field in schema.fields.values())  # of which a text says too little
        whole = ("" if media else "\n".join(schema.texts(example))) or json.dumps(example, ensure_ascii=False)
        return hashlib.blake2b(whole.encode("utf-8"), digest_size=16).digest()

    learned = open_origin(origin)
    if learned is None:
        return None
    wanted = Counter(mark(example, corpus.schema) for example in corpus.examples(split))
    parts = [part for part in ("train", "validation") if learned.counts.get(part)]
    found = {each for part in parts for example in learned.examples(part) if (each := mark(example, learned.schema)) in wanted}
    return sum(wanted[each] for each in found)


def token_bytes(tokenizer: Any, tokens: np.ndarray) -> np.ndarray:
    """Give the UTF-8 bytes of the raw text behind each token; the end token stands for none.

    tokens  (N,) int
    return  (N,) int
    """
    sizes = np.array([len(tokenizer.token_bytes(each)) for each in range(tokenizer.vocabulary_size)])
    sizes[tokenizer.end_id] = 0
    return sizes[np.asarray(tokens)]


def settled(sizes: np.ndarray, tokens: np.ndarray, tokenizer: Any, corpus: Corpus, split: str) -> np.ndarray:
    """Let the bytes of each document's tokens add up to its own, where a tokenizer puts a space before it or writes a letter as another.

    What is too much or too little is put right at its first token.

    sizes   (N,) int    of the tokens, (N,), after an end token; each document is closed by one
    return  (N,) int
    """
    closes = np.flatnonzero(tokens == tokenizer.end_id)
    starts = np.concatenate([[0], closes[:-1] + 1]).astype(np.int64)
    raw = np.array([len(each["text"].encode("utf-8")) for each in corpus.examples(split)])
    found = sizes.copy()
    found[starts] += raw - texts.blocks(sizes, starts).astype(np.int64)
    return found


@dataclass(frozen=True)
class Scored:
    """A text scored by a model.

    logs    (N,) float64       log p of each token, in nats
    bits    (units,) float64   bits of each unit of the bootstrap; sizes: (units,) int, its bytes
    starts  (units,) int       where each unit begins among the tokens
    """

    tokens: np.ndarray
    logs: np.ndarray
    bits: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray
    size_bytes: int
    documents: int

    def unit_bits(self, logs: np.ndarray) -> np.ndarray:
        """Give another model's bits in the same units, from its (N,) log-probabilities."""
        return texts.blocks(-logs, self.starts) / math.log(2)


def score_text(model: Any, tokenizer: Any, corpus: Corpus, split: str, tell: Tell = quiet, reader: Reader | None = None) -> Scored:
    """Score a split's whole text, every byte exactly once; raises DataError when the bytes do not add up."""
    from zhixing.layers.scoring import score

    piece = shard(corpus, tokenizer, split, tell)
    tokens = np.asarray(piece.tokens)
    sizes = token_bytes(tokenizer, tokens[1:])
    if not tokenizer.lossless:
        sizes = settled(sizes, tokens[1:], tokenizer, corpus, split)
    if sizes.sum() != piece.size_bytes:
        raise DataError("evaluate.bytes", path=str(corpus.path), counted=int(sizes.sum()), wanted=piece.size_bytes)
    tell("evaluate.learning" if reader else "evaluate.scoring", tokens=len(tokens) - 1)
    logs = reader(model, tokens, tokenizer.end_id, tell) if reader else score(model, tokens)
    closes = np.flatnonzero(tokens[1:] == tokenizer.end_id)
    if piece.documents >= FEW_DOCUMENTS:
        starts = np.concatenate([[0], closes[:-1] + 1])
    else:
        starts = texts.stretches(len(logs), texts.stretch_length(len(logs), FEW_DOCUMENTS, SHORT_STRETCH, STRETCH))
    bits = texts.blocks(-logs, starts) / math.log(2)
    return Scored(tokens, logs, bits, texts.blocks(sizes, starts), starts, piece.size_bytes, piece.documents)


def judge_language(artefact: Artefact, corpus: Corpus, split: str, tell: Tell, rivals: bool, reader: Reader | None = None) -> Report:
    """Score a language model over a split's whole text; the rivals learn from it as it is read where the model does."""
    found = score_text(artefact.model, artefact.tokenizer, corpus, split, tell, reader)
    others = language_rivals(corpus, artefact.tokenizer, found.tokens, split, artefact.family, tell, reader) if rivals else {}
    logs, size_bytes = found.logs, found.size_bytes
    spread = intervals.interval_of_ratio(found.bits, found.sizes, SEED)
    counts = texts.blocks(np.ones_like(logs), found.starts)
    nats = intervals.interval_of_ratio(found.bits * math.log(2), counts, SEED)
    figures = (
        Figure("bits_per_byte", spread.value, spread.low, spread.high, {n: texts.bits_per_byte(o, size_bytes) for n, o in others.items()}),
        Figure("nats_per_token", nats.value, nats.low, nats.high, {n: texts.nats_per_token(o) for n, o in others.items()}),
        Figure("perplexity", texts.perplexity(logs), rivals={n: texts.perplexity(o) for n, o in others.items()}),
    )
    comparisons = {n: intervals.paired(found.bits, found.unit_bits(o), SEED, found.sizes).to_dict() for n, o in others.items()}
    details = {"tokens": len(logs), "bytes": size_bytes, "documents": found.documents, "units": len(found.starts)}
    if reader:
        details["reader"] = asdict(reader)
    verdict = decide(comparisons, False)
    return Report(str(artefact.folder.path), str(corpus.path), split, "language", found.documents, figures, comparisons, verdict, details)


def add_samples(report: Report, artefact: Artefact, corpus: Corpus, split: str, tell: Tell, count: int) -> Report:
    """Add what a language model writes, measured beside the split's own text."""
    tokens = np.asarray(shard(corpus, artefact.tokenizer, split, tell).tokens)
    card = artefact.folder.card
    learned = open_origin(card.get("corpus", {}))
    known = (each["text"] for part in card.get("fitted_on", ("train",)) for each in learned.examples(part)) if learned else None
    apart = report.details["documents"] >= FEW_DOCUMENTS
    figures, settings = judge_samples(artefact.model, artefact.tokenizer, tokens, apart, known, count, tell)
    if not figures:
        return report
    return replace(report, figures=(*report.figures, *figures), details={**report.details, "samples": settings})


def judge_pairs(artefact: Artefact, corpus: Corpus, split: str, tell: Tell, rivals: bool) -> Report:
    """Judge a language model on pairs of sentences, and beside it n-grams that are counted on the text that it learnt from."""
    task = task_class(corpus.task)()
    examples = list(corpus.examples(split))
    tell("evaluate.answering", rows=len(examples))
    items = [task.encode(each, artefact.tokenizer) for each in examples]

    def read(model: Any) -> dict[str, np.ndarray]:
        return task.metrics(list(task.answers(model, items, artefact.tokenizer)), examples)

    values, learned = read(artefact.model), open_origin(artefact.folder.card.get("corpus", {}))
    counted = language_models(learned, artefact.tokenizer, artefact.family, tell) if rivals and learned else {}
    others = {name: read(model) for name, model in counted.items()}
    figures, comparisons, verdict = weigh(task.figures, values, others, task.name)
    groups = sorted({each["label"] for each in examples if each.get("label")})
    apart = {
        group: float(np.mean([c for c, e in zip(values["correct"], examples, strict=True) if e.get("label") == group])) for group in groups
    }
    where = (str(artefact.folder.path), str(corpus.path))
    details = {"accuracy_by_label": apart} if apart else {}
    return Report(*where, split, task.name, len(examples), tuple(figures), comparisons, verdict, details)


def weigh(wanted: Figures, values: dict[str, np.ndarray], others: dict[str, Any], task: str) -> tuple[list[Figure], dict[str, Any], str]:
    """Make figures of a model's and its rivals' values, compare them in the first, and say who is better.

    wanted  the figures of a task, of that name
    A figure that nothing can be made of is left out, and so is a rival in it.
    """
    figures: list[Figure] = []
    for name, figure in wanted.items():
        value = figure(values)
        if math.isnan(value):
            continue
        spread = figure.interval(values, SEED)
        beside = {n: found for n, each in others.items() if not math.isnan(found := figure(each))}
        ends = (None, None) if math.isnan(spread.low) else (spread.low, spread.high)
        figures.append(Figure(name, value, *ends, beside))
    if not figures:
        raise DataError("evaluate.nothing", task=task)
    first = wanted[figures[0].name]
    comparisons = {name: first.paired(values, others[name], SEED).to_dict() for name in figures[0].rivals}
    return figures, comparisons, decide(comparisons, not first.lower)


def judge_rows(artefact: Artefact, corpus: Corpus, split: str, tell: Tell, rivals: bool) -> Report:
    """Score a model that answers over a split's rows, by its task's figures, and each of the task's counted models beside it.

    A row whose label the model never saw counts as wrong.
    """
    task = artefact.task
    examples = list(corpus.examples(split))
    unseen = unseen_labels(task, examples)
    if unseen:
        tell("evaluate.unseen", rows=sum(unseen.values()), of=len(examples), labels=", ".join(unseen))
    tell("evaluate.answering", rows=len(examples))
    values = answered(task, artefact.model, artefact.tokenizer, examples)
    others = row_rivals(corpus, task, examples, split, artefact.family, tell) if rivals else {}
    figures, comparisons, verdict = weigh(task.figures, values, others, task.name)
    # Of many tasks each is judged on its own rows: the fewest say how sure the whole is.
    details: dict[str, Any] = {"units": min(map(len, values.values()))} if task.name == "many" else {}
    if "confidence" in values and len(known(values.get("correct", np.zeros(0)))[0]):
        covered, details["thresholds_chosen_on_validation"] = judge_coverage(task, values, others)
        figures += covered
    if hasattr(task, "labels"):
        details["labels"] = len(task.labels)
    if artefact.tokenizer is not None and hasattr(task, "longest"):
        details["texts_not_read_to_the_end"] = unread(task, artefact.tokenizer, examples)
    if unseen:
        details["unseen_labels"] = unseen
    where = (str(artefact.folder.path), str(corpus.path))
    return Report(*where, split, task.name, len(examples), tuple(figures), comparisons, verdict, details)


def judge_likeness(artefact: Artefact, corpus: Corpus, split: str, tell: Tell, rivals: bool) -> Report:
    """Score a model of likeness: by the scores of a split's pairs, or, where none has one, by how often a text finds its other."""
    examples = list(corpus.examples(split))
    told = sum(each.get(SCORE) is not None for each in examples)
    report = (judge_rows if told else judge_partners)(artefact, corpus, split, tell, rivals)
    details = dict(report.details)
    if told:
        details |= {"units": told, "pairs_without_a_score": len(examples) - told}
    elif artefact.tokenizer is not None:
        details["texts_not_read_to_the_end"] = unread(artefact.task, artefact.tokenizer, examples)
    return replace(report, details=details)


def unread(task: Any, tokenizer: Any, examples: list[dict[str, Any]]) -> int:
    """Count the examples of which a task cuts something off: what it encodes is shorter than what it would without a longest length."""

    def sizes(reader: Any, example: dict[str, Any]) -> dict[str, int]:
        item = reader.encode(asked(task, example), tokenizer)
        return {name: len(value) for name, value in item.items() if isinstance(value, np.ndarray)}

    cut = 0
    for each in examples:
        own = part_of(task, each)
        if hasattr(own, "longest"):
            cut += sizes(own, each) != sizes(replace(own, longest=sys.maxsize), each)
    return cut


def unseen_labels(task: Any, examples: list[dict[str, Any]]) -> dict[str, int]:
    """Count the examples with each label that training has not seen, of a task that answers with labels.

    Raises DataError when all have one: nothing could be judged.
    """
    if task.schema.answer != "label":
        return {}
    known = set(task.labels)
    found = dict(sorted(Counter(each["label"] for each in examples if "label" in each and each["label"] not in known).items()))
    if found and sum(found.values()) == len(examples):
        raise DataError("task.label_unseen", name=next(iter(found)), among=task.labels, count=len(task.labels))
    return found


def judge_coverage(task: Any, values: dict[str, np.ndarray], others: dict[str, Any]) -> tuple[list[Figure], dict[str, Any]]:
    """Say how much can be answered at each precision: at the best threshold there is, and at the one that was chosen on validation."""
    figures, kept = [], {}
    confidence, correct = answered_rows(values)
    for precision in PRECISIONS:
        name = f"coverage_{round(precision * 100)}"

        def coverage(confidence: np.ndarray, correct: np.ndarray, wanted: float = precision) -> float:
            return judged.coverage_at_precision(confidence, correct, wanted)[0]

        spread = intervals.interval_of(coverage, confidence, correct, seed=SEED, rounds=WHOLE_ROUNDS)
        beside = {n: coverage(*answered_rows(each)) for n, each in others.items()}
        figures.append(Figure(name, spread.value, spread.low, spread.high, beside))
        if str(precision) in getattr(task, "thresholds", {}):
            threshold = task.thresholds[str(precision)]
            at = answered_at(threshold, confidence, correct, round(precision * 100))
            figures += at
            if threshold is not None:
                kept[str(precision)] = {"threshold": threshold, "answered": at[0].value, "precision": at[1].value}
    return figures, kept


def answered_rows(values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Give confidence and whether it was right of the rows that have an answer to be judged by."""
    confidence, correct = known(values["confidence"], values["correct"])
    return confidence, correct > 0


def answered_at(threshold: float | None, confidence: np.ndarray, correct: np.ndarray, percent: int) -> list[Figure]:
    """Give what a threshold chosen on validation does here: the share answered, and the share of the answered that is right.

    threshold   None: validation had none that is precise enough, and nothing is answered
    confidence  (B,) float
    correct     (B,) bool
    """
    answered, precision = judged.precision_at_threshold(confidence, correct, threshold)
    names = (f"answered_{percent}", f"precision_{percent}")
    if threshold is None:
        return [Figure(names[0], answered), Figure(names[1], precision)]
    taken = confidence >= threshold
    count = int(taken.sum())
    share = intervals.wilson(count, len(taken))
    first = Figure(names[0], share.value, share.low, share.high)
    if count < intervals.ENOUGH:
        return [first, Figure(names[1], precision)]
    right = intervals.wilson(int(correct[taken].sum()), count)
    return [first, Figure(names[1], right.value, right.low, right.high)]


# What is judged by more than answers to rows; every other task is judged by `judge_rows`.
JUDGES: dict[str, Callable[..., Report]] = {
    "language": judge_language,
    "embed": judge_vectors,
    "judge": judge_pairs,
    "masked": judge_masked,
    "match": judge_matches,
    "similar": judge_likeness,
}
