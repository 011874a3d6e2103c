"""The whole way on real text in two languages and on a table: prepare, train, evaluate, compare, generate, predict.

    python examples/demo.py [FOLDER]

Every step is a command that is printed before it runs, so that it can be repeated by hand. A step whose result is already there is
not done again.
The texts come with packages (`texts.py`); the table is generated.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

import texts

from zhixing.core.files import read_json
from zhixing.core.messages import text as say
from zhixing.data.synth import write_table

HERE = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
CORE_SECONDS = "20"  # of each trained rung of the two ladders
RUNGS = "unigram,grammar,dirichlet,ngram,lstm,qwen3,mixture"  # one of each era: the whole ladder takes longer than a first look should
ONE_THREAD = ("--threads", "1")  # models this small gain nothing from a second, and two wait for each other on a busy machine
STEPS = 14
PROMPTS = {"english": "The ", "chinese": "却说"}
began = time.monotonic()
done = 0


def run(*words: str, out: Path | None = None) -> str:
    """Run one command of zhixing, unless its result is there already; its story is shown, its answer is given back."""
    global done
    done += 1
    shown = "zhixing " + shlex.join(words)
    print(f"\n[{done}/{STEPS}  {time.monotonic() - began:.0f} s]  $ {shown}", flush=True)
    if out is not None and out.exists():
        print(say("demo.there", path=out))
        return ""
    answer = subprocess.run([sys.executable, "-m", "zhixing", *words], stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        sys.exit(answer.returncode)
    return answer.stdout


def write(language: str) -> list[str]:
    """Take one language's text the whole way; give the closing lines."""
    text, corpus, ladder = HERE / f"{language}.txt", HERE / f"{language}.corpus", HERE / f"{language}.ladder"
    if not text.exists():
        getattr(texts, language)(text)
    run("prepare", str(text), str(corpus), out=corpus)
    run("compare", str(corpus), str(ladder), "--models", RUNGS, "--core-seconds", CORE_SECONDS, "--size", "tiny", *ONE_THREAD, out=ladder)
    best = min(read_json(ladder / "table.json")["rungs"], key=lambda rung: rung["bits_per_byte"])["name"]
    model = ladder / "rungs" / best
    print(run("evaluate", str(model), str(corpus)))
    words = ["generate", str(model), "--prompt", PROMPTS[language], "--max-tokens", "120", "--temperature", "0.8", "--seed", "1"]
    sample = run(*words)
    table = (ladder / "table.md").read_text(encoding="utf-8")
    return [
        f"== {language}",
        "",
        table,
        say("demo.plot", path=ladder / "plot.svg"),
        "",
        say("demo.sample", model=best),
        PROMPTS[language] + sample,
    ]


def classify() -> list[str]:
    """Take a labelled table the whole way; give the closing lines."""
    rows, corpus, model, answers = HERE / "messages.csv", HERE / "messages.corpus", HERE / "messages.model", HERE / "answers.csv"
    if not rows.exists():
        write_table(rows, 3000, seed=0)
    run("prepare", str(rows), str(corpus), out=corpus)
    run("train", str(corpus), str(model), "--best", "--minutes", "0.5", *ONE_THREAD, out=model)
    table = run("evaluate", str(model), str(corpus))
    run("predict", str(model), str(rows), str(answers), "--precision", "0.98", out=answers)
    return ["== messages", "", table, *answers.read_text(encoding="utf-8").splitlines()[:4]]


def main() -> None:
    """Run the demo."""
    HERE.mkdir(parents=True, exist_ok=True)
    print(say("demo.will", path=HERE))
    closing = [*write("english"), *write("chinese"), *classify()]
    ladder = HERE / "chinese.ladder"
    run("show", str(ladder))
    print("\n" + "\n".join(closing))
    run("show", str(HERE / "messages.model"))
    print("\n" + say("demo.done", seconds=time.monotonic() - began, path=HERE))
    mixture = HERE / "chinese.ladder" / "rungs" / "mixture"
    for command in (
        f"zhixing generate {mixture} --prompt 玄德曰",
        f"zhixing train {HERE / 'english.corpus'} {HERE / 'english.model'} --best --minutes 10",
        f"zhixing predict {HERE / 'messages.model'} {HERE / 'messages.csv'} {HERE / 'more.jsonl'} --precision 0.99",
    ):
        print(f"    .venv/bin/{command}")


if __name__ == "__main__":
    main()
