"""What every sort of tokenizer must hold in a whole run: trained, stored, opened again, scored to the byte, continued, and written with."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhixing.core.errors import DataError
from zhixing.core.folder import CARD, seal
from zhixing.core.stop import Stop, Stopped
from zhixing.data.corpus import open_corpus
from zhixing.decoding.asking import Sampling
from zhixing.decoding.generate import stream
from zhixing.evaluation.evaluate import evaluate, score_text
from zhixing.layers.scoring import score
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.tasks.artefact import load
from zhixing.tokens.tokenizer import SORTS, Tokenizer
from zhixing.training.train import train

WORDS = "the quiet river carries small boats past stones; 小船沿河而下， 石头不语。 我们喜欢北京大学。 <|end|> <0x0A> naïve 😀".split(" ")
TINY = {"model": "lstm", "size": "tiny", "width": 16, "embedding": 8, "window": 16, "batch": 2, "precision": "fp32", "threads": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bilingual corpus and a counted model of it for each sort of tokenizer."""
    top, draw = tmp_path_factory.mktemp("sorts"), random.Random(1)
    (top / "text.txt").write_text("\n".join(" ".join(draw.choices(WORDS, k=9)) for _ in range(300)), encoding="utf-8")
    prepare(top / "text.txt", top / "text", Prepare(unit="line", validation=0.1, test=0.2, repeats="keep"))
    (top / "own.txt").write_text("quiet river\n小船沿河\n", encoding="utf-8")
    for sort in SORTS:
        train(top / "text", top / sort, settings(top, sort) | {"model": "ngram", "order": 3})
    return top


def settings(top: Path, sort: str) -> dict[str, Any]:
    """Give what a training is told of its tokenizer."""
    return {"tokenizer": sort, "vocabulary": 320} | ({"dictionary": str(top / "own.txt")} if sort == "words" else {})


@pytest.mark.parametrize("sort", SORTS)
def test_bits_per_byte_add_up(place: Path, sort: str) -> None:
    artefact, corpus = load(place / sort), open_corpus(place / "text")
    assert artefact.tokenizer.sort == sort
    texts = [example["text"] for example in corpus.examples("test")]
    end, tokens = artefact.tokenizer.end_id, [artefact.tokenizer.end_id]
    for text in texts:
        tokens += [*artefact.tokenizer.encode(text).tolist(), end]
    nats = -score(artefact.model, np.array(tokens)).sum()
    size_bytes = sum(len(text.encode()) for text in texts)
    found = score_text(artefact.model, artefact.tokenizer, corpus, "test")
    assert found.sizes.sum() == found.size_bytes == size_bytes
    figure = evaluate(artefact, corpus.path, rivals=False, save=False).figure("bits_per_byte").value
    assert figure == pytest.approx(nats / math.log(2) / size_bytes, rel=1e-9)
    assert artefact.tokenizer.decode(tokens) == "".join(texts)


def test_sorts_do_not_share_a_cache(place: Path) -> None:
    hashes = {load(place / sort).tokenizer.hash for sort in SORTS}
    kept = {each.name for each in (place / "text" / "cache").iterdir()}
    assert len(hashes) == len(SORTS) and {each[:16] for each in hashes} <= kept


@pytest.mark.parametrize("sort", SORTS)
def test_what_is_written_is_text(place: Path, sort: str) -> None:
    artefact = load(place / sort)
    for prompt in ("", "the <|end|> of <0x0A> 小船"):
        events = list(stream(artefact.model, artefact.tokenizer, prompt, Sampling(max_tokens=40, seed=3)))
        ids = [event.token for event in events if event.token != artefact.tokenizer.end_id]
        assert "".join(event.text for event in events) == artefact.tokenizer.decode(ids)


@pytest.mark.parametrize("sort", SORTS)
def test_a_stopped_training_goes_on_with_its_tokenizer(place: Path, tmp_path: Path, sort: str) -> None:
    asked, stop = {**TINY, **settings(place, sort), "steps": 4, "evaluations": 1}, Stop()

    def tell(code: str, **values: Any) -> None:
        if code == "train.steps":
            stop.number = 15

    with pytest.raises(Stopped):
        train(place / "text", tmp_path / "made", asked, tell=tell, stop=stop)
    before = Tokenizer.load(tmp_path / "made").hash
    train(place / "text", tmp_path / "made", asked)
    assert load(tmp_path / "made").tokenizer.hash == before == load(place / sort).tokenizer.hash
    assert (tmp_path / "made" / "words.json").exists() == (sort == "words")


def test_words_of_another_segmenter_are_refused(place: Path, tmp_path: Path) -> None:
    """Another version that cuts alike is as good; one that cuts otherwise would give the model other words than it learnt."""
    artefact = load(place / "words")
    folder = tmp_path / "copy"
    folder.mkdir()
    for each in artefact.folder.path.iterdir():
        if each.is_file():
            (folder / each.name).write_bytes(each.read_bytes())
    card = {name: value for name, value in json.loads((folder / CARD).read_text()).items() if name not in ("format", "kind")}
    about = json.loads((folder / "words.json").read_text())

    def change(**values: Any) -> None:
        (folder / "words.json").write_text(json.dumps(about | values))
        seal(folder, "model", card)

    change(version="0.0.1")
    text = "小船沿河而下"
    assert load(folder).tokenizer.encode(text).tolist() == artefact.tokenizer.encode(text).tolist()
    change(version="0.0.1", probe="0" * 64)
    with pytest.raises(DataError, match=r"rjieba 0\.0\.1"):
        load(folder)
    (folder / "words.json").unlink()
    seal(folder, "model", card)
    with pytest.raises(DataError, match=r"words\.json is missing"):
        load(folder)
