"""The command line's front door: the table of verbs, and the way from words to a verb's function.

`--help` reads a verb's signature and the message catalogue only; the parser (cyclopts) is imported when there is something to parse,
torch when a verb runs. Whatever goes wrong comes out through `failure.report` as a message and an exit code.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from zhixing.core.errors import UsageError

# In the order of the pipeline, which is the order of the help.
VERBS = {
    "import": "zhixing.cli.import:import_",
    "prepare": "zhixing.cli.prepare:prepare",
    "train": "zhixing.cli.train:train",
    "mix": "zhixing.cli.mix:mix",
    "evaluate": "zhixing.cli.evaluate:evaluate",
    "predict": "zhixing.cli.predict:predict",
    "suggest": "zhixing.cli.suggest:suggest",
    "transcribe": "zhixing.cli.transcribe:transcribe",
    "generate": "zhixing.cli.generate:generate",
    "chat": "zhixing.cli.chat:chat",
    "pack": "zhixing.cli.pack:pack",
    "unpack": "zhixing.cli.unpack:unpack",
    "nearest": "zhixing.cli.nearest:nearest",
    "compare": "zhixing.cli.compare:compare",
    "results": "zhixing.cli.results:results",
    "show": "zhixing.cli.show:show",
    "export": "zhixing.cli.export:export",
    "serve": "zhixing.cli.serve:serve",
}
HELP = ("--help", "-h")


def find(verb: str) -> Callable[..., None]:
    """Import the function of a verb; raises UsageError with the nearest verb when there is none."""
    if verb not in VERBS:
        raise UsageError("usage.verb_unknown", name=verb, among=list(VERBS))
    module, name = VERBS[verb].split(":")
    return getattr(importlib.import_module(module), name)


def parse(verb: str, words: Sequence[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn the words after a verb into the arguments of its function.

    return  positional and named arguments; only those that were given

    Raises UsageError for a missing, surplus, unknown or ill-typed word.
    """
    import inspect

    from cyclopts import App, CycloptsError, Parameter, convert

    from zhixing.cli.failure import from_parser
    from zhixing.cli.help import flag

    def exact(wanted: Any, tokens: Sequence[Any]) -> Any:
        # The parser's own whole numbers are rounded ones: --steps 1.5 would quietly train 2.
        return int(tokens[0].value) if wanted is int else convert(wanted, tokens)

    function = find(verb)
    switches = [flag(each.name) for each in inspect.signature(function, eval_str=True).parameters.values() if each.annotation is bool]
    spelling = Parameter(negative=(), converter=exact)
    app = App(name=f"zhixing {verb}", help_flags=[], version_flags=[], default_parameter=spelling, result_action="return_value")
    app.default(function)
    try:
        _, bound, _ = app.parse_args(join_dashes(words, switches), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise from_parser(error, verb, function, words) from None
    return bound.args, bound.kwargs


def join_dashes(words: Sequence[str], switches: Sequence[str] = ()) -> list[str]:
    """Write a flag and the lone dash after it as one word: the parser takes a dash, which is stdin, for another flag.

    Where a dash is no flag's value but a word of its own, all such words stand last, in their order: there none is taken for a flag.

    switches  flags that have no value
    """
    joined: list[str] = []
    plain: list[str] = []  # words that are neither flags nor their values
    for place, word in enumerate(words):
        if word == "--":
            plain += words[place + 1 :]
            break
        valued = place > 0 and _takes(words[place - 1], switches)
        if word == "-" and valued:
            joined[-1] += "=-"
        else:
            joined.append(word)
            if not valued and not word.startswith("--"):
                plain.append(word)
    if "-" not in plain:
        return joined + list(words[words.index("--") :] if "--" in words else ())
    flags = [word for place, word in enumerate(joined) if word.startswith("--") or (place and _takes(joined[place - 1], switches))]
    return [*flags, "--", *plain]


def _takes(word: str, switches: Sequence[str]) -> bool:
    """Say whether a word is a flag whose value is the next word."""
    return word.startswith("--") and word not in switches and "=" not in word


def run(words: Sequence[str]) -> None:
    """Do what the words say; raises what goes wrong."""
    before = list(words[: words.index("--")] if "--" in words else words)
    verb = words[0] if words else "--help"
    if verb == "--version":
        import zhixing

        print(f"zhixing {zhixing.__version__}")
    elif verb in (*HELP, "help"):
        from zhixing.cli import help as page

        print(page.verb(words[1], find(words[1])) if len(words) > 1 else page.overview(VERBS))
    elif any(word in HELP for word in before):
        from zhixing.cli import help as page

        print(page.verb(verb, find(verb)))
    else:
        function = find(verb)
        arguments, named = parse(verb, words[1:])
        gc.enable()  # which the program has put off
        function(*arguments, **named)


def main(words: Sequence[str]) -> int:
    """Do what the words say and give the exit code; every failure is told, none escapes."""
    try:
        run(words)
        sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told
        return 0
    except BaseException as error:
        from zhixing.cli import failure

        return failure.report(error, as_json="--json" in words)
