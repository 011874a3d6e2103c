"""What an answer that a model wrote is worth, by named rules: checker(prompt, answer that is right, what was written) -> reward in [0, 1].

A rule is a function of texts alone, so that a reward can be computed anywhere and means the same in training and in evaluation.
"""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Callable

from zhixing.metrics.quality import BREAKS, VERSE_LENGTHS

NUMBER = re.compile(r"(?:(?<![\d.,])-)?\d+(?:,\d{3})*(?:\.\d+)?")  # a sign after a digit is a subtraction's
SUM = re.compile(r"[\d\s.+\-*/()×÷]+")
ASKED = re.compile(r"\s*(?:=\s*\??\s*)?$")  # what may follow a sum that is asked for
MOST_CHARACTERS, MOST_DEPTH = 200, 120  # of a sum that is worked out
NEAR = 1e-3  # relative, for results that are no whole numbers
OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]+")


def exact(prompt: str, answer: str, said: str) -> float:
    """Reward the right answer, white space at the ends apart."""
    return float(said.strip() == answer.strip())


def arithmetic(prompt: str, answer: str, said: str) -> float:
    """Reward a text whose last number is what the sum at the prompt's end comes to; where none is asked there, the given answer's last one.

    Reasoning may stand before that number.
    """
    found, wanted = last_number(said), work_out(prompt)
    if wanted is None:
        wanted = last_number(answer)
    if found is None or wanted is None:
        return 0.0
    return float(abs(found - wanted) <= (1e-9 if wanted == round(wanted) else NEAR * abs(wanted)))


def last_number(text: str) -> float | None:
    """Give the last number of a text, None where there is none; commas may part thousands."""
    found = NUMBER.findall(text.replace("\u2212", "-"))
    return float(found[-1].replace(",", "")) if found else None


@functools.lru_cache(maxsize=4096)
def work_out(text: str) -> float | None:
    """Work out the sum at the end of a text, before "=" or alone; None where there is none, or it is too long, or divides by zero."""
    text = text[-4 * MOST_CHARACTERS :].replace("\u2212", "-")
    text = text[: ASKED.search(text).start()]
    runs = list(SUM.finditer(text[-2 * MOST_CHARACTERS :]))
    run = runs[-1].group().strip() if runs and runs[-1].end() == len(text[-2 * MOST_CHARACTERS :]) else ""
    if not re.search(r"\d\s*[+\-*/×÷]\s*[\d(]", run) or len(run) > MOST_CHARACTERS:
        return None
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", run.replace("×", "*").replace("÷", "/"))
    try:
        return _value(ast.parse(plain, mode="eval").body, 0)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None


def _value(node: ast.AST, depth: int) -> float:
    """Give the value of a sum's part. Raises ValueError for anything that is no sum."""
    if depth > MOST_DEPTH:
        raise ValueError("too deep")
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, depth + 1)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left, depth + 1), _value(node.right, depth + 1))
    raise ValueError("not a sum")


def shape(text: str) -> str:
    """Give a text's form: each run of digits, of letters and of Chinese characters as one sign, all else as it is."""
    text = re.sub(r"\s+", " ", text.strip())
    return re.sub(r"\d+", "0", re.sub(r"[^\W\d_]+", lambda run: "字" if HAN.fullmatch(run.group()) else "a", text))


def form(prompt: str, answer: str, said: str) -> float:
    """Reward a text that has the form of the right answer, whatever it says."""
    return float(bool(said.strip()) and shape(said) == shape(answer))


def verse(prompt: str, answer: str, said: str) -> float:
    """Reward verse: an even number of lines, at least two, all of five or all of seven Chinese characters. Part of it counts in part.

    Source: the regulated forms of the Tang; tones and rhymes are not judged.
    """
    lines = [each for each in BREAKS.split(said) if each]
    if len(lines) < 2:
        return 0.0
    whole = max(sum(len(line) == length and bool(HAN.fullmatch(line)) for line in lines) for length in VERSE_LENGTHS) / len(lines)
    return whole if len(lines) % 2 == 0 else 0.5 * whole


CHECKERS: dict[str, Callable[[str, str, str], float]] = {
    "exact": exact,
    "arithmetic": arithmetic,
    "form": form,
    "verse": verse,
}
