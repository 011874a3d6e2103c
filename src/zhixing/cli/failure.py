"""Failures: whatever escapes a verb becomes a message and an exit code, never a traceback.

2 the user's words, 3 the user's data, 1 the run or a defect of ours; 130, 143 and 141 for SIGINT, SIGTERM and a closed pipe.
`ZHIXING_DEBUG=1` adds the traceback.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from zhixing.core.errors import RunError, UsageError, ZhixingError
from zhixing.core.messages import text
from zhixing.core.stop import Stopped

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
# What the extra `train` brings, by the name that it is imported by: serving an exported model needs none of it.
OF_TRAINING = {"torch": "torch", "sklearn": "scikit-learn", "scipy": "scikit-learn", "zstandard": "zstandard"}
CLOSED_PIPE, INTERRUPTED = 141, 130


def from_parser(error: Any, verb: str, function: Callable[..., None], words: Sequence[str]) -> UsageError:
    """Turn a parser's error into ours, with the nearest name.

    error     a cyclopts.CycloptsError of the words after the verb
    function  the verb's own
    """
    import inspect

    import cyclopts

    from zhixing.cli.help import flag, kind

    parameters = inspect.signature(function, eval_str=True).parameters
    flags = [flag(each.name) for each in parameters.values() if each.kind is each.KEYWORD_ONLY]
    positional = " ".join(each.name.upper() for each in parameters.values() if each.kind is each.POSITIONAL_ONLY)
    known = getattr(getattr(error, "argument", None), "name", "") or ""
    parameter = parameters.get(known.removeprefix("--").replace("-", "_"))
    if isinstance(error, cyclopts.UnknownOptionError):
        return UsageError("usage.flag_unknown", name=error.token.keyword or error.token.value, among=flags, verb=verb)
    if isinstance(error, cyclopts.UnusedCliTokensError):
        surplus = (error.unused_tokens or [""])[0]
        if surplus.startswith("-"):
            return UsageError("usage.flag_unknown", name=surplus, among=flags, verb=verb)
        return UsageError("usage.word_surplus", word=surplus, verb=verb, words=positional)
    if isinstance(error, cyclopts.RepeatArgumentError):
        return UsageError("usage.flag_repeated", flag=error.token.keyword or known)
    if isinstance(error, cyclopts.CoercionError) and error.token is not None:
        name = error.token.keyword or known
        parameter = parameter or parameters.get(name.removeprefix("--").replace("-", "_"))
        wanted = kind(parameter.annotation) if parameter is not None else None
        if wanted is None:
            return UsageError("usage.switch_value", flag=name, value=error.token.value)
        return UsageError("usage.value_wrong", flag=name, value=error.token.value, wanted=wanted)
    if isinstance(error, cyclopts.MissingArgumentError):
        if parameter is not None and parameter.kind is not parameter.POSITIONAL_ONLY:
            return UsageError("usage.value_missing", flag=known, wanted=kind(parameter.annotation) or "", verb=verb)
        return UsageError("usage.word_missing", word=known.lstrip("-").upper(), verb=verb, words=positional)
    return UsageError("usage.words", words=" ".join(words), verb=verb, problem=str(error))


def translate(error: BaseException) -> ZhixingError | None:
    """Give the error of ours that an exception means, or None when it is a defect."""
    if isinstance(error, ZhixingError):
        return error
    if isinstance(error, OSError):
        path = str(error.filename) if error.filename is not None else "-"
        problem = error.strerror or str(error)
        if error.errno in FULL:
            return RunError("run.disk_full", path=path, problem=problem)
        return RunError("run.denied" if error.errno in DENIED else "run.system", path=path, problem=problem)
    if isinstance(error, UnicodeEncodeError) and error.encoding.lower() == (sys.stdout.encoding or "").lower():
        return RunError("run.letters", encoding=error.encoding, letter=ascii(error.object[error.start]))
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in OF_TRAINING:
        return UsageError("extra.missing", package=OF_TRAINING[error.name.split(".")[0]], extra="train")
    words = str(error)
    if isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words:
        return RunError("run.memory")
    # Checkpoints are written by a library that wraps the system's error into its own.
    if type(error).__name__ == "SafetensorError" and any(f"os error {number})" in words for number in FULL):
        return RunError("run.disk_full", path="-", problem=words)
    return None


def _silence() -> None:
    """Point stdout at nothing, so that the interpreter's last flush cannot fail once more."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def _say(words: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody is left to listen
        print(words, file=sys.stderr, flush=True)


def report(error: BaseException, as_json: bool = False) -> int:
    """Tell a failure on stderr and give its exit code."""
    if isinstance(error, BrokenPipeError):
        _silence()
        return CLOSED_PIPE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if os.environ.get("ZHIXING_DEBUG") == "1":
        _say("".join(traceback.format_exception(error)))
    if isinstance(error, (Stopped, KeyboardInterrupt)):
        code = 128 + error.number if isinstance(error, Stopped) else INTERRUPTED
        _say(json.dumps({"code": "stopped", "exit_code": code}) if as_json else "\n" + text("story.cli.stopped"))
        return code
    ours = translate(error) or RunError("run.defect", problem=f"{type(error).__name__}: {error}")
    if isinstance(error, OSError):
        _silence()
    try:
        parts = ours.parts()
    except (KeyError, IndexError, ValueError) as fault:  # an error whose own words are broken must still be told
        ours = RunError("run.defect", problem=f"{type(fault).__name__} {fault} in the message of {ours.code}: {ours.values}")
        parts = ours.parts()
    if as_json:
        _say(json.dumps(ours.as_dict(), ensure_ascii=False))
    else:
        _say("\n".join(text(f"word.part.{part}", words=words) for part, words in parts.items()))
    return ours.exit_code
