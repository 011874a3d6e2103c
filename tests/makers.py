"""Rows of every task, made from a seed, each with a rule that can be learnt; and settings small enough for a test."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from zhixing.data import media

SMALL = {"steps": 60, "size": "tiny", "width": 32, "batch": 8, "window": 48, "precision": "fp32", "threads": 1, "learning_rate": 0.01}
TOLD = {"sun": "soleil", "moon": "lune", "sea": "mer", "boat": "bateau", "tree": "arbre", "fox": "renard", "stone": "pierre"}
NAMES = ("Ada", "Bo", "Chen", "Dee", "王芳", "李明")


def classify(draw: random.Random, number: int) -> dict[str, Any]:
    label = draw.choice(("good", "bad"))
    return {"text": f"{draw.choice(NAMES)} says {number}: {'fine 好' if label == 'good' else 'awful 差'}", "label": label}


def tag(draw: random.Random, number: int) -> dict[str, Any]:
    tokens, tags = [str(number)], ["O"]
    for _ in range(draw.randrange(4)):  # a name is a person or a place by the word before it
        word, sort = draw.choice((("with", "person"), ("in", "place"), ("by", "")))
        tokens += [word, draw.choice(NAMES)]
        tags += ["O", f"B-{sort}" if sort else "O"]
    return {"tokens": [*tokens, "."], "tags": [*tags, "O"]}


def risk(draw: random.Random, number: int) -> dict[str, Any]:
    age, job = draw.randrange(18, 80), draw.choice(("clerk", "cook", None))
    bad = age < 40 and job != "clerk"
    return {"age": age, "job": job, "debt": round(draw.random(), 3), "number": number, "label": "1" if bad else "0"}


def grade(draw: random.Random, number: int) -> dict[str, Any]:
    words = ["sun", "moon", "star", "sky"]
    said = draw.sample(words, draw.randrange(1, 5))
    question = f"Name {draw.randrange(5)} lights"
    return {"text": " ".join([*said, "and", str(number)]), "reference": " ".join(words), "question": question, "score": float(len(said))}


def translate(draw: random.Random, number: int) -> dict[str, Any]:
    words = draw.choices(sorted(TOLD), k=draw.randrange(3, 6))
    return {"source": " ".join(words), "target": " ".join(TOLD[each] for each in words)}


def multilabel(draw: random.Random, number: int) -> dict[str, Any]:
    labels = [each for each in ("fish", "鸟", "tree") if draw.random() < 0.4]
    return {"text": f"{number} {draw.choice(NAMES)} saw {' and '.join(labels) or 'nothing'}", "labels": sorted(labels)}


def recommend(draw: random.Random, number: int) -> dict[str, Any]:
    shelf = draw.randrange(8)  # everybody keeps to one shelf
    items = [f"{'书b'[shelf % 2]}{shelf * 6 + place}" for place in draw.sample(range(6), draw.randrange(4, 7))]
    return {"items": items[:-1], "label": items[-1]}


def trace(draw: random.Random, number: int) -> dict[str, Any]:
    items = [draw.choice(("add", "乘")) for _ in range(draw.randrange(5, 20))]
    ease = draw.choice((0.1, 0.9))  # some get nearly all of them right, and some nearly none
    return {"items": items, "correct": [int(draw.random() < ease) for _ in items]}


def similar(draw: random.Random, number: int) -> dict[str, Any]:
    first = draw.sample(sorted(TOLD), 4)
    shared = draw.randrange(5)
    second = first[:shared] + draw.sample(sorted(TOLD.values()), 4 - shared)
    draw.shuffle(second)
    return {"text": f"{number} {' '.join(first)}", "other": " ".join(second), "score": float(shared)}


def see(draw: random.Random, number: int) -> dict[str, Any]:
    """A patch of colour, a word for one, a tone for one, or several of them: whichever is there says it."""
    label = draw.choice(("red", "blue"))
    pixels = np.full((3, 16, 16), 255, np.uint8)
    down, along = draw.randrange(9), draw.randrange(9)
    pixels[:, down : down + 8, along : along + 8] = draw.randrange(60)
    pixels[0 if label == "red" else 2, down : down + 8, along : along + 8] = draw.randrange(200, 256)
    tone = np.sin(np.arange(1600) * (0.3 if label == "red" else 1.5) * draw.uniform(0.9, 1.1)) * draw.uniform(0.2, 0.9)
    row = {"image": media.data_url(media.png(pixels), "image/png"), "text": f"{number} {'warm 红' if label == 'red' else 'cold 蓝'}"}
    row["audio"] = media.data_url(media.wav(tone, 8000), "audio/wav")
    kept = draw.choice((("image",), ("text",), ("audio",), ("image", "text"), ("text", "audio"), ("image", "text", "audio")))
    return {**{name: row[name] for name in kept}, "label": label}


MAKERS: dict[str, Callable[[random.Random, int], dict[str, Any]]] = {
    "classify": classify,
    "tag": tag,
    "risk": risk,
    "grade": grade,
    "multilabel": multilabel,
    "translate": translate,
    "recommend": recommend,
    "trace": trace,
    "see": see,
    "similar": similar,
}


HERTZ = {"do": 420.0, "re": 900.0, "mi": 1700.0}


def tone(hertz: float, seconds: float, rate: int = 8000) -> np.ndarray:
    """Make a tone with some of its octave."""
    times = 2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(times) + 0.1 * np.sin(2 * times)).astype(np.float32)


def heard(draw: random.Random, number: int) -> dict[str, Any]:
    """Make a sound of one to three words, each a tone of its own, a little off, with quiet between and noise over all."""
    words = draw.choices(sorted(HERTZ), k=draw.randrange(1, 4))
    parts = [np.zeros(400)]
    for word in words:
        parts += [tone(HERTZ[word] * draw.uniform(0.95, 1.05), draw.uniform(0.12, 0.2)), np.zeros(400)]
    whole = np.concatenate(parts)
    whole = whole + np.random.default_rng(number).normal(0, 0.01, len(whole))
    return {"audio": media.data_url(media.wav(whole, 8000), "audio/wav"), "text": " ".join(words)}
