"""What an answer that a model wrote is worth, by named rules: checker(prompt, answer that is right, what was written) -> reward in [0, 1].

A rule is a function of texts alone, so that a reward can be computed anywhere and means the same in training and in evaluation.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable

from zhixing.metrics.quality import BREAKS, VERSE_LENGTHS

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
SUM = re.compile(r"[\d\s.+\-*/()×÷]+")
MOST_CHARACTERS, MOST_DEPTH = 200, 20  # of a sum that is worked out
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
    """Reward a text whose last number is what the prompt's sum comes to; the given answer is not looked at where there is a sum.

    Reasoning may stand before that number.
    """
    found = NUMBER.findall(said)
    wanted = work_out(prompt)
    if wanted is None:
        numbers = NUMBER.findall(answer)
        wanted = float(numbers[-1]) if numbers else None
    return float(bool(found) and wanted is not None and abs(float(found[-1]) - wanted) < 1e-9)


def work_out(text: str) -> float | None:
    """Work out the longest sum in a text; None where there is none, or it is too long, or divides by zero."""
    runs = sorted((each.strip() for each in SUM.findall(text)), key=len, reverse=True)
    for run in runs:
        if not re.search(r"\d\s*[+\-*/×÷]\s*[\d(]", run) or len(run) > MOST_CHARACTERS:
            continue
        try:
            return _value(ast.parse(run.replace("×", "*").replace("÷", "/"), mode="eval").body, 0)
        except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
            continue
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
