"""Vectors of words: film reviews and Chinese articles on computing, headlines in both languages, beside gensim and PMI-SVD.

    ZHIXING_DATA=... python benchmarks/vectors.py OUT [--runs 3] [--smoke]

Each corpus trains skip-gram as `--model skipgram` does, and `evaluate` judges it on held-out contexts beside counting. gensim's word2vec,
where it is installed, learns from the same words with the same settings, in turns with ours; its vectors are put in the place of ours and
judged by the same code. Speed is words of the training text, before frequent ones are thinned out, a core-second: of ours from the diary
of the loop, validation and checkpoints included; of gensim the call that trains, by one worker. Pairs of like words and analogies are
ours, written before any model was looked at: the reciprocal rank of the other word, and the rank of the answer.
"""

from __future__ import annotations

import copy
import gzip
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import Measured, arguments, find, tell, write

from zhixing import evaluate, load, prepare, train
from zhixing.core.files import read_json
from zhixing.data.corpus import open_corpus
from zhixing.data.shards import shard
from zhixing.evaluation.report import Figure
from zhixing.preparation.prepare import Prepare
from zhixing.tasks.artefact import Artefact
from zhixing.tasks.embed import nearest, place_words, words_of

CORPORA = {
    "films": ("movie_reviews_2k/all.jsonl.gz", {"task": "language", "validation": 0.05, "test": 0.05}),
    "computing_zh": ("lctt_zh/train.txt.gz", {"unit": "paragraph", "validation": 0.05, "test": 0.05}),
    "headlines_zh": ("thucnews_headlines_zh/dev.jsonl.gz", {"validation": 0.1, "test": 0.3}),
    "news": ("ag_news_test/test.jsonl.gz", {"validation": 0.1, "test": 0.3}),
}
SHOWN = {
    "films": "good actor war funny mother murder alien music".split(),
    "computing_zh": "文件 服务器 安装 公司 开发者 ubuntu python 密码".split(),
}
ALIKE = {
    "films": """good great|actor actress|funny hilarious|movie film|boy girl|war battle|police cop|music song|year decade|mother father
        son daughter|script screenplay|comedy drama|money cash|director filmmaker|bad terrible|love romance|husband wife|scene sequence
        scary frightening""",
    "computing_zh": """文件 目录|用户 账户|服务器 主机|安装 卸载|打开 关闭|软件 程序|问题 错误|公司 企业|下载 上传|键盘 鼠标
        图片 图像|密码 口令|年 月|大 小|快 慢|增加 减少|教程 指南|开发者 程序员|windows macos|ubuntu debian|python java|chrome firefox""",
}
ANALOGIES = {
    "films": """actor - man + woman = actress|king - man + woman = queen|his - he + she = her|father - man + woman = mother
        boy - man + woman = girl|husband - man + woman = wife|son - boy + girl = daughter|worst - bad + good = best
        films - film + movie = movies|men - man + woman = women""",
    "computing_zh": """chrome - 谷歌 + mozilla = firefox|windows - 微软 + 苹果 = macos|apt - ubuntu + fedora = dnf|关闭 - 打开 + 安装 = 卸载
        上传 - 上 + 下 = 下载|最大 - 大 + 小 = 最小
        gnome - gtk + qt = kde|女性 - 女 + 男 = 男性|月 - 30 + 365 = 年
        更快 - 快 + 好 = 更好""",
}
TIMED = "films"  # trained in several runs; the others once
SMOKE_ROWS = 400


def take(source: Path, out: Path) -> Path:
    """Write the first lines of a file, for a smoke run."""
    with gzip.open(source, "rt", encoding="utf-8") as handle:
        lines = [line for line, _ in zip(handle, range(SMOKE_ROWS), strict=False)]
    place = out / source.name.removesuffix(".gz")
    place.write_text("".join(lines), encoding="utf-8")
    return place


def split(lines: str) -> list[str]:
    """Part a constant's entries."""
    return [each.strip() for each in lines.replace("\n", "|").split("|")]


def speed(folder: Path, words: int, kept: int) -> float:
    """Give the words of text a core-second that the loop read.

    words, kept  in a pass over the text: all, and those left after thinning out
    """
    lines = [json.loads(line) for line in (folder / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [each for each in lines if "loss" in each]
    settings = read_json(folder / "run.json")["settings"]
    steps, seconds = lines[-1]["step"] - lines[0]["step"], lines[-1]["core_seconds"] - lines[0]["core_seconds"]
    return steps * settings["batch"] * 64 / kept * words / seconds


def spread(figure: Figure) -> str:
    """Write a figure with its interval, where it has one."""
    return f"{figure.value:.4f}" + ("" if figure.low is None else f" ({figure.low:.4f} .. {figure.high:.4f})")


def rank(opened: Artefact, expression: str, wanted: str) -> int | None:
    """Give the place of a word among those nearest to an expression; None where a word of it has no vector."""
    words = words_of(opened.model, opened.tokenizer)
    if wanted not in words or any(each not in words for each in expression.split() if each not in "+-"):
        return None
    return 1 + [word for word, _ in nearest(opened.model, opened.tokenizer, expression, len(words))].index(wanted)


def written(opened: Artefact, name: str) -> tuple[float, list[tuple[str, int | str]]]:
    """Give the mean reciprocal rank over our pairs of like words, both ways, and what became of our analogies."""
    pairs = [pair.split() for pair in split(ALIKE[name])]
    ranks = [rank(opened, one, other) for pair in pairs for one, other in (pair, pair[::-1])]
    told = []
    for each in split(ANALOGIES[name]):
        expression, wanted = each.split(" = ")
        found = rank(opened, expression, wanted)
        told.append((each, "a word has no vector" if found is None else found))
    return float(np.mean([1 / each for each in ranks if each])), told


def peer(opened: Artefact, texts: list[list[str]], epochs: int, seed: int) -> tuple[Artefact, float] | None:
    """Train gensim's word2vec on the same words; give it in the place of our vectors, and its core-seconds."""
    try:
        from gensim.models import Word2Vec
    except ImportError:
        return None
    task, model = opened.task, copy.deepcopy(opened.model)
    form = {"vector_size": model.width, "window": task.window, "negative": task.negatives, "sample": task.subsample}
    made = Word2Vec(sg=1, min_count=1, epochs=epochs, workers=1, seed=seed, **form)
    made.build_vocab(texts)
    start = time.process_time()
    made.train(texts, total_examples=len(texts), epochs=epochs)
    seconds = time.process_time() - start
    words = words_of(model, opened.tokenizer)
    known = [number for number, word in enumerate(words) if word in made.wv.key_to_index]
    places = [made.wv.key_to_index[words[number]] for number in known]
    with torch.no_grad():
        model.embeddings.weight[known] = torch.from_numpy(made.wv.vectors[places])
        model.context_embeddings.weight[known] = torch.from_numpy(made.syn1neg[places])
    return replace(opened, model=model), seconds


def measure(name: str, out: Path, runs: int, smoke: bool) -> tuple[list[Measured], dict[str, Any]]:
    """Train, judge and time one corpus."""
    path, shares = CORPORA[name]
    source = find(path.split("/")[0]) / path.split("/")[1]
    corpus = prepare(take(source, out) if smoke else source, out / "corpus", Prepare(**shares), tell=tell).path
    settings = {"model": "skipgram", "size": "tiny" if smoke else "small", "threads": 1, **({"steps": 30} if smoke else {})}
    ours, theirs, judged, details = [], [], None, {}
    for run in range(runs):
        model = out / f"model-{run}"
        train(corpus, model, settings | {"seed": run}, tell=tell)
        opened = load(model)
        tokens = np.asarray(shard(open_corpus(corpus), opened.tokenizer, "train").tokens)
        words, texts = place_words(opened.model.read(tokens), tokens, opened.tokenizer.end_id)
        card = opened.folder.card
        passes = card["training"]["steps"] * card["settings"]["batch"] * 64 / _kept(opened, words)
        ours.append(speed(model, len(words), _kept(opened, words)))
        spelt = words_of(opened.model, opened.tokenizer)
        cuts = np.flatnonzero(np.diff(texts)) + 1
        found = peer(opened, [[spelt[each] for each in text] for text in np.split(words, cuts)], max(1, round(passes)), run)
        if found is not None:
            theirs.append(len(words) * max(1, round(passes)) / found[1])
            judged = judged or found[0]
    opened = load(out / "model-0")
    report = evaluate(opened, corpus, tell=tell)
    figures = [
        Measured(f"{name}: words of training text / words with vectors", f"{len(words):,} / {len(opened.model.counts):,}"),
        Measured(f"{name}: core-seconds of the whole training", card["measured"]["core_seconds"]),
        Measured(f"{name}: words a core-second, median of {runs}", statistics.median(ours)),
    ]
    if theirs:
        ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
        figures.append(Measured(f"{name}: times gensim's speed, median of {runs} pairs", ratio))
    other = None if judged is None else evaluate(judged, corpus, tell=tell, rivals=False, save=False)
    for each in report.figures:
        figures.append(Measured(f"{name}: {each.name}", spread(each)))
        figures += [Measured(f"{name}: {each.name} of {rival}", value) for rival, value in each.rivals.items()]
        if other is not None:
            figures.append(Measured(f"{name}: {each.name} of gensim", spread(other.figure(each.name))))
    figures.append(Measured(f"{name}: verdict of evaluate", report.verdict))
    if name in ALIKE and not smoke:
        for who, model in (("", opened), (" of gensim", judged)):
            if model is not None:
                value, told = written(model, name)
                figures.append(Measured(f"{name}: reciprocal rank of like words{who}", value))
                figures += [Measured(f"{name}: place of the answer{who}: {each}", place) for each, place in told]
        near = {word: nearest(opened.model, opened.tokenizer, word, 6) for word in SHOWN[name]}
        figures += [Measured(f"{name}: nearest to {word}", ", ".join(each for each, _ in found)) for word, found in near.items()]
    details |= {"report": report.to_dict(), "words_a_core_second": ours, "gensim_words_a_core_second": theirs}
    return figures, details


def _kept(opened: Artefact, words: np.ndarray) -> int:
    """Count the words of a pass that are left after thinning out, as the stream does."""
    from zhixing.data.stream import ROW_WORDS, Neighbours

    counts = opened.model.counts.numpy()
    return Neighbours(words, np.zeros(len(words), np.int32), counts, 1, 0, 0, opened.task.subsample).rows * ROW_WORDS


def main() -> None:
    given = arguments(__doc__, runs=3)
    torch.set_num_threads(1)
    figures: list[Measured] = []
    details: dict[str, Any] = {}
    for name in CORPORA:
        out = given.out / name
        out.mkdir()
        runs = given.runs if name == TIMED and not given.smoke else 1
        found, details[name] = measure(name, out, runs, given.smoke)
        figures += found
    write(given.out, "Vectors of words", figures, details, given.smoke)


if __name__ == "__main__":
    main()
