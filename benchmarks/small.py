"""Serving small: a classifier on all-MiniLM-L6-v2, exported, where there is no torch: its size, its cold start, its memory, its speed.

    ZHIXING_DATA=... python benchmarks/small.py OUT [--runs 7] [--smoke]

The classifier is trained on 10 rows of each intent of banking77. A new environment gets the bare package by `pip install --no-compile`.
What is installed is measured once the server has been started and has answered 20 rows, with the bytecode that Python itself wrote by then,
and beside it with all bytecode, as `pip install` gives it; what pip and setuptools themselves take is not counted. "Cold" is from the start
of `zhixing serve` until the first answer over HTTP; the first start, in which bytecode is written, stands apart. Rows a second are those of
`load(folder).predict` on one core, by torch, by NumPy and, where it is installed, by ONNX Runtime on the exported file, one at a time and
32 side by side, interleaved.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from results import ROOT, Measured, arguments, find, tell, write
from transfer import drawn, pretrained, read

from zhixing import export_model, import_model, load, prepare, train
from zhixing.core.errors import UsageError
from zhixing.preparation.prepare import Prepare

WANTED = {"size": 150.0, "cold": 1.0, "memory": 300.0}
PORT = 8741
ASIDE = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "wheel")
TRIES = 400
OF_PYTHON = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")  # not given to the server: it writes bytecode as usual


def environment(out: Path) -> Path:
    """Make an environment with the bare package and no bytecode yet; give its Python."""
    place = out / "env"
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        words = ["-m", "pip", "install", "-q", "--no-compile", "-c", str(ROOT / "constraints.txt"), str(ROOT)]
        subprocess.run([str(python), *words], check=True)
    for each in list(packages(python).rglob("__pycache__")):
        shutil.rmtree(each)
    return python


def packages(python: Path) -> Path:
    """Give where an environment's packages lie."""
    (place,) = (python.parent.parent / "lib").glob("python3*/site-packages")
    return place


def size_of(python: Path) -> float:
    """Give what the package and all that it needs take, in MB of 10^6 bytes."""
    place = packages(python)
    files = (each for each in place.rglob("*") if each.is_file() and not each.is_symlink())
    return sum(each.stat().st_size for each in files if each.relative_to(place).parts[0].split("-")[0] not in ASIDE) / 1e6


def cold(python: Path, folder: Path, row: dict[str, str], port: int) -> tuple[float, float, str]:
    """Start a server and ask it at once; give seconds until its answer, its largest memory in MiB, and the answer."""
    body = json.dumps({"model": folder.name, "rows": [row]}).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/predict", body, {"content-type": "application/json"})
    began = time.perf_counter()
    words = [str(python), "-m", "zhixing", "serve", str(folder), "--port", str(port)]
    around = {name: value for name, value in os.environ.items() if name not in OF_PYTHON}
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=around)
    try:
        for attempt in range(TRIES):
            try:
                answer = json.load(urllib.request.urlopen(asked, timeout=30))["answers"][0]["answer"]
                break
            except (urllib.error.URLError, ConnectionError):
                if attempt + 1 == TRIES or child.poll() is not None:
                    raise
                time.sleep(0.01)
        seconds = time.perf_counter() - began
        for _ in range(20):
            urllib.request.urlopen(asked, timeout=30).read()
        status = Path(f"/proc/{child.pid}/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
        assert "libtorch" not in Path(f"/proc/{child.pid}/maps").read_text()
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()
    return seconds, peak, answer


def speed(forms: dict[str, Any], rows: list[dict[str, str]], runs: int) -> dict[str, dict[int, list[float]]]:
    """Time every form on the same rows, in turn: rows a second, one at a time and 32 side by side."""
    found: dict[str, dict[int, list[float]]] = {name: {1: [], 32: []} for name in forms}
    for _ in range(runs):
        for batch in (1, 32):
            for name, predict in forms.items():
                some = rows[: 4 * batch]
                began = time.perf_counter()
                for start in range(0, len(some), batch):
                    predict(some[start : start + batch])
                found[name][batch].append(len(some) / (time.perf_counter() - began))
    return found


def main() -> None:
    given = arguments(__doc__, goes_on=True, runs=7)
    out, smoke = given.out, given.smoke
    runs = 2 if smoke else given.runs
    parts = [read(find("banking77") / f"{part}.jsonl.gz") for part in ("train", "test")]
    model, served = out / "model", out / "served"
    if not served.exists():
        import_model(pretrained(), out / "minilm", tell=tell, force=True)
        rows = drawn(parts[0], 1 if smoke else 10, 0)
        (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        corpus = prepare(out / "rows.jsonl", out / "corpus", Prepare(task="classify", validation=0.0, test=0.0), tell=tell, force=True)
        train(corpus.path, model, {"start": str(out / "minilm"), **({"steps": 2} if smoke else {})}, tell=tell, force=True)
        export_model(model, served, tell=tell)
    asked = [{"text": row["text"]} for row in parts[1]]
    python = environment(out)
    bare = size_of(python)
    first = cold(python, served, asked[0], PORT)
    installed = size_of(python)
    seen = [cold(python, served, asked[0], PORT + 1 + number) for number in range(runs)]
    subprocess.run([str(python), "-m", "compileall", "-q", str(packages(python))], check=False)  # some packages hold templates of code
    before, after = load(model), load(served)
    assert {answer for _, _, answer in (first, *seen)} == {before.predict(asked[:1])[0].value}
    same = [one.value == two.value for one, two in zip(before.predict(asked[:300]), after.predict(asked[:300]), strict=True)]
    forms: dict[str, Any] = {"torch": before.predict, "NumPy": after.predict}
    try:
        export_model(model, out / "onnx", "onnx", tell=tell, force=True)
        forms["ONNX Runtime"] = load(out / "onnx").predict
    except UsageError:
        tell("benchmark.no_onnx")
    times = speed(forms, asked, runs)
    seconds, peaks = [each[0] for each in seen], [each[1] for each in seen]
    spread = f"{min(seconds):.2f} .. {max(seconds):.2f} in {len(seconds)} starts"
    figures = [
        Measured("installed without bytecode, after a start and 20 answers, MB, the model apart", installed, f"<= {WANTED['size']:g}"),
        Measured("the same before the first start, MB", bare),
        Measured("the same with all bytecode, as by `pip install`, MB", size_of(python)),
        Measured("the model, MB", sum(each.stat().st_size for each in served.iterdir()) / 1e6),
        Measured("the first start, in which bytecode is written, seconds", first[0]),
        Measured(f"cold start, seconds, median ({spread})", statistics.median(seconds), f"<= {WANTED['cold']:g}"),
        Measured("largest memory, MiB", max(peaks), f"<= {WANTED['memory']:g}"),
        Measured("same answers as torch, of 300 rows", sum(same)),
    ]
    for batch in (1, 32):
        for name, each in times.items():
            low, high = min(each[batch]), max(each[batch])
            figures.append(Measured(f"rows a second, {batch} at a time, {name} ({low:.0f} .. {high:.0f})", statistics.median(each[batch])))
    write(out, "Serving small", figures, {"first": first, "starts": seen, "rows_a_second": times}, smoke)


if __name__ == "__main__":
    main()
