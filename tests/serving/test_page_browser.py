"""The page in a real browser: it shows what the server answers, by keyboard and on a phone too, and no model's text ever runs."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhixing.cli.app import main
from zhixing.data import media
from zhixing.serving.door import Door

pytestmark = pytest.mark.system

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
EVIL = "<img src=x onerror=\"document.title='mine'\"><script>document.title='owned'</script><b>bold</b>\n"
KEY = "a key of the page's test"
CSV = '\ufefftext,id\n"the old, ""quiet"" boat\nupward",1\n船 石 downward,2\n,3\n=1+1,4\nthe boat,5,6\n'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: `make system-test` installs it")
    place = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if place is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=place, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def serving(kit: Path, start: Callable[..., Any]) -> Any:
    (kit / "evil.txt").write_text(EVIL * 60, encoding="utf-8")
    assert main(["prepare", str(kit / "evil.txt"), str(kit / "evil_corpus")]) == 0
    assert main(["train", str(kit / "evil_corpus"), str(kit / "evil"), "--model", "ngram", "--order", "40"]) == 0
    return start("ngram", "neural", "classifier", "evil")


def rows_of(task: str, draw: random.Random) -> dict[str, Any]:
    """Make a row of a task that something can be learnt from."""
    names, up = ("Ada", "Bo", "王芳"), draw.random() < 0.5
    name, number = draw.choice(names), draw.randrange(1000)
    text = f"{name} says {number}: {'fine 好' if up else 'awful 差'}"
    items = [f"film{draw.randrange(12)}" for _ in range(6)]
    return {
        "tag": {"tokens": [str(number), "with", name, "."], "tags": ["O", "O", "B-person", "O"]},
        "risk": {"age": number % 60, "job": draw.choice(("clerk", "cook")), "label": "1" if number % 60 < 30 else "0"},
        "grade": {
            "text": "sun moon" if up else "sun",
            "reference": "sun moon",
            "question": f"Name {number % 3}",
            "score": 2.0 if up else 1.0,
        },
        "recommend": {"items": items[:-1], "label": items[-1]},
        "trace": {"items": ["add", "乘"] * 4, "correct": [int(up)] * 8},
        "moderate": {"text": text, "label": "good" if up else "bad"}
        if number % 2
        else {"tokens": ["with", name], "tags": ["O", "B-person"]},
        "multilabel": {"text": f"{number} {'fish' if up else 'bird'} and tree", "labels": ["fish" if up else "bird", "tree"]},
        "translate": {"source": text, "target": text},
        "see": {"image": square(up, number), "label": "warm" if up else "cold"},
        "transcribe": {"audio": tone(up), "text": "hoch" if up else "低"},
    }[task]


def square(up: bool, number: int) -> str:
    """Draw a picture of one colour, as a data URL."""
    colour = np.array([200 + number % 50, 10, 40] if up else [40, 10, 200 + number % 50], np.uint8)
    return media.data_url(media.png(np.tile(colour[:, None, None], (1, 16, 16))), "image/png")


def tone(up: bool) -> str:
    """Make half a second of a tone, as a data URL."""
    return media.data_url(media.wav(0.5 * np.sin(np.arange(4000) * (1.9 if up else 0.4)), 8000), "audio/wav")


ASKED: dict[str, dict[str, Any]] = {
    "tag": {"tokens": ["7", "with", "王芳", "."]},
    "risk": {"row": {"age": 20, "job": "cook"}},
    "grade": {"text": "sun", "reference": "sun moon"},
    "recommend": {"items": ["film1", "film2"]},
    "trace": {"items": ["add", "乘", "add"], "correct": [1, 0]},
    "moderate": {"text": "with 王芳 <b>x</b> awful 差"},
    "multilabel": {"text": "1 fish and tree"},
    "translate": {"source": "Ada says fine"},
    "see": {"image": square(True, 7)},
    "transcribe": {"audio": tone(True)},
}
COUNTED = {"translate": "copy", "see": "pixels", "transcribe": "dtw"}  # where the default is trained


@pytest.fixture(scope="module")
def answering(kit: Path, start: Callable[..., Any]) -> Any:
    """A server with a counted model of every task of rows."""
    for task in ASKED:
        draw = random.Random(2)
        lines = [json.dumps(rows_of(task, draw), ensure_ascii=False) + "\n" for _ in range(240)]
        (kit / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
        words = [str(kit / f"{task}.jsonl"), str(kit / f"{task}-rows"), "--task", task, "--drop-bad"]
        assert main(["prepare", *words, "--validation", "0.2", "--test", "0.1"]) == 0
        model = ["--model", COUNTED[task]] if task in COUNTED else []
        assert main(["train", str(kit / f"{task}-rows"), str(kit / f"{task}-model"), *model]) == 0
    return start(*(f"{task}-model" for task in ASKED), "classifier")


def typed(value: Any) -> str:
    """Write a value as a person does."""
    if isinstance(value, dict):
        return "\n".join(f"{name}: {cell}" for name, cell in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def until(page: Any, expression: str, seconds: float = 20) -> None:
    """Wait until an expression is true; the page's policy forbids the driver's own way, which evaluates text inside the page."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.02)


class Watched:
    """A page of the browser, all of its complaints and every address it asked for."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.address = address
        self.context = browser.new_context(accept_downloads=True, **{"locale": "en-GB", **context})
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda each: self.complaints.append(each.text) if each.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda each: self.complaints.append(str(each)))
        self.page.on("request", lambda each: self.asked.append(each.url))
        self.page.goto(address)

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def watch(browser: Any, serving: Any) -> Iterator[Callable[..., Watched]]:
    opened: list[Watched] = []

    def begin(address: str = "", **context: Any) -> Watched:
        opened.append(Watched(browser, address or serving.url, **context))
        until(opened[-1].page, "document.getElementById('model').options.length > 0")
        return opened[-1]

    yield begin
    for each in opened:
        foreign = [url for url in each.asked if not url.startswith((each.address, "data:", "blob:"))]
        complaints = [line for line in each.complaints if not re.search("status of 40[01]", line) and "ERR_CONNECTION_REFUSED" not in line]
        each.close()
        assert foreign == [] and complaints == []


def text(page: Any) -> str:
    return page.locator("#try-text").text_content()


def done(page: Any, place: str = "#try-state") -> None:
    until(page, f"/tokens in|Stopped after|写出/.test(document.querySelector('{place}').textContent)", 60)


def choose(page: Any, model: str) -> None:
    page.select_option("#model", model)


def test_what_is_shown_is_what_the_server_answers(watch: Any, serving: Any) -> None:
    page = watch().page
    for model in ("ngram", "neural"):
        choose(page, model)
        page.fill("#try-prompt", "the old boat")
        page.fill("#try-settings [name=seed]", "7")
        page.fill("#try-settings [name=max_tokens]", "40")
        page.click("#try-run")
        done(page)
        said = serving.post("/v1/completions", model=model, prompt="the old boat", seed=7, max_tokens=40, temperature=0.8)
        assert text(page) == "the old boat" + said.json["choices"][0]["text"]
    page.locator("#try-text .piece").nth(3).click()
    assert "probability" in page.locator("#try-token").text_content() and page.locator("#try-token meter").count() == 10
    assert '"seed":7' in page.locator("#try-command").text_content()


def test_a_stop_stops_the_work(watch: Any, serving: Any) -> None:
    def runs_on(seed: int) -> bool:
        said = serving.post("/v1/completions", model="neural", prompt="", seed=seed, max_tokens=1000, temperature=0.8)
        return said.json["choices"][0]["finish_reason"] == "length"

    page = watch().page
    choose(page, "neural")
    page.fill("#try-prompt", "")
    page.fill("#try-settings [name=temperature]", "0.8")
    page.fill("#try-settings [name=seed]", str(next(filter(runs_on, range(100)))))
    page.fill("#try-settings [name=max_tokens]", "4000")
    page.click("#try-run")
    until(page, "document.getElementById('try-text').textContent.length > 20")
    page.keyboard.press("Escape")
    done(page)
    assert "Stopped" in page.locator("#try-state").text_content() and page.locator("#try-run").is_enabled()


def test_settings_are_compared_side_by_side(watch: Any, serving: Any) -> None:
    page = watch().page
    page.click("#tab-compare")
    page.fill("#compare-prompt", "the")
    page.click("#compare-add")
    columns = page.locator("#compare-columns .column")
    assert columns.count() == 3
    for number, temperature in enumerate(("0", "0.8", "1.5")):
        column = columns.nth(number)
        column.locator("select").select_option("ngram")
        column.locator("[name=temperature]").fill(temperature)
        column.locator("[name=max_tokens]").fill("30")
    page.click("#compare-run")
    until(page, "[...document.querySelectorAll('.column .state')].every((each) => /tokens in/.test(each.textContent))")
    for number, temperature in enumerate((0, 0.8, 1.5)):
        said = serving.post("/v1/completions", model="ngram", prompt="the", seed=0, max_tokens=30, temperature=temperature)
        assert columns.nth(number).locator(".text").text_content() == "the" + said.json["choices"][0]["text"]
    columns.nth(2).get_by_role("button", name="Remove").click()
    assert columns.count() == 2


def test_the_next_token_can_be_walked(watch: Any, serving: Any) -> None:
    page = watch().page
    page.click("#tab-next")
    page.fill("#next-prompt", "the ol")
    page.click("#next-run")
    page.wait_for_selector("#next-list li")
    said = serving.post("/v1/completions", model="ngram", prompt="the ol", max_tokens=1, temperature=0, logprobs=20)
    top = said.json["choices"][0]["logprobs"]["top_logprobs"][0]
    assert page.locator("#next-list li").count() == len(top)
    best = max(top, key=top.get)
    first = page.locator("#next-list li button").first
    assert best == "d" and first.text_content() == "d"
    first.click()
    until(page, "document.getElementById('next-prompt').value === 'the old'")
    until(page, "[...document.querySelectorAll('#next-list button')].slice(0, 2).some((each) => each.textContent === '␣')")
    page.click("#next-back")
    until(page, "document.getElementById('next-prompt').value === 'the ol'")


def test_a_table_is_answered_and_nothing_of_it_is_lost(watch: Any, serving: Any, tmp_path: Path) -> None:
    page = watch().page
    choose(page, "classifier")
    page.click("#tab-predict")
    page.fill("#predict-text", "boat upward")
    page.click("#predict-run")
    page.wait_for_selector("#predict-told li.answer")
    (only,) = serving.post("/v1/predict", model="classifier", rows=[{"text": "boat upward"}]).json["answers"]
    assert page.locator("#predict-told li.answer code").text_content() == only["answer"] == "up"
    (tmp_path / "rows.csv").write_text(CSV, encoding="utf-8")
    page.set_input_files("#rows-file", tmp_path / "rows.csv")
    until(page, "/5 rows, 1 of them/.test(document.getElementById('rows-state').textContent)")
    assert page.locator("#rows-column-text").input_value() == "text"
    page.click("#rows-run")
    until(page, "/answered/.test(document.getElementById('rows-state').textContent)")
    with page.expect_download() as download:
        page.click("#rows-save")
    saved = Path(download.value.path()).read_bytes().decode("utf-8")
    before = list(csv.reader(io.StringIO(CSV.removeprefix("\ufeff"))))
    after = list(csv.reader(io.StringIO(saved)))
    assert after[0] == ["text", "id", "answer", "confidence", "abstained", "problem"] and len(after) == len(before)
    assert [row[:2] for row in after[1:]] == [row[:2] for row in before[1:]]
    texts = [row[0] for row in before[1:5] if row[0]]
    wanted = serving.post("/v1/predict", model="classifier", rows=[{"text": each} for each in texts]).json["answers"]
    found = [row for row in after[1:] if not row[5]]
    assert [row[2] for row in found] == [each["answer"] for each in wanted] and len(found) == 3
    assert [float(row[3]) for row in found] == [each["confidence"] for each in wanted]
    assert [row[5] for row in after[1:] if row[5]] == ["nothing there: an empty text or field", "not as many cells as columns"]


def test_a_file_that_is_no_table_is_refused(watch: Any, tmp_path: Path) -> None:
    page = watch().page
    choose(page, "classifier")
    page.click("#tab-predict")
    for content, words in ((b"\xc4\xe3,a\n", "UTF-8"), (b"", "no rows"), (b"a,a\n1,2\n", "name the columns")):
        (tmp_path / "bad.csv").write_bytes(content)
        page.set_input_files("#rows-file", [])
        page.set_input_files("#rows-file", tmp_path / "bad.csv")
        until(page, f"/{words}/.test(document.getElementById('notice').textContent)")
        assert page.locator("#rows-run").is_disabled()


def test_what_a_model_writes_never_runs(watch: Any) -> None:
    page = watch().page
    choose(page, "evil")
    page.fill("#try-prompt", EVIL[:20])
    page.fill("#try-settings [name=temperature]", "0")
    page.fill("#try-settings [name=max_tokens]", "200")
    page.click("#try-run")
    done(page)
    assert "<script>document.title='owned'</script>" in text(page) and "onerror" in text(page)
    assert page.title() == "知行 zhixing"
    assert page.locator("main img, main script, main b").count() == 0


def test_both_languages_and_the_keyboard_alone(watch: Any) -> None:
    page = watch(locale="zh-CN").page
    assert page.locator("#try-run").text_content() == "写" and page.evaluate("document.documentElement.lang") == "zh-Hans"
    page.click("#language")
    assert page.locator("#try-run").text_content() == "Write"
    page.reload()
    until(page, "document.getElementById('model').options.length > 0")
    assert page.locator("#try-run").text_content() == "Write", "the choice is remembered"
    choose(page, "ngram")
    page.locator("#tab-try").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tab-compare").get_attribute("aria-selected") == "true" and page.locator("#view-compare").is_visible()
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "try-prompt"
    page.keyboard.type("the old")
    page.keyboard.press("Control+Enter")
    done(page)
    assert text(page).startswith("the old") and len(text(page)) > 10
    page.locator("#try-text").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#try-text .chosen").text_content() == text(page)[8] and page.locator("#try-token meter").count() == 10


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(watch: Any, theme: str) -> None:
    page = watch(viewport={"width": 360, "height": 740}, color_scheme=theme).page
    for tab in ("try", "compare", "next", "predict"):
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, tab
        small = page.evaluate(
            f"[...document.querySelectorAll('header button, #view-{tab} button, #view-{tab} input, #view-{tab} select')]"
            ".filter((each) => each.offsetParent && each.getBoundingClientRect().height < 40).map((each) => each.id || each.name)"
        )
        assert small == [], f"{tab}: too small for a finger"
        if shots := os.environ.get("ZHIXING_SHOTS"):
            page.screenshot(path=f"{shots}/phone-{theme}-{tab}.png")


def test_a_key_is_asked_for_and_used(browser: Any, start: Callable[..., Any]) -> None:
    locked = start("ngram", door=Door(key=KEY))
    watched = Watched(browser, locked.url, http_credentials={"username": "", "password": KEY})  # what a person types into the browser's box
    page = watched.page
    try:
        until(page, "document.getElementById('model').options.length > 0")
        # A server that was started again with another key refuses what the browser remembers; then the page asks for the new one.
        page.route("**/v1/**", lambda route: route.continue_(headers=route.request.headers | stale(route.request.headers)))
        page.reload()
        until(page, "!document.getElementById('door').hidden")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        until(page, "document.getElementById('model').options.length > 0")
        assert page.locator("#door").is_hidden() and page.locator("#notice").is_hidden()
    finally:
        watched.close()


def stale(headers: dict[str, str]) -> dict[str, str]:
    return {} if headers.get("authorization", "").startswith("Bearer") else {"authorization": "Bearer the key of before"}


def test_a_server_that_goes_away_is_told(watch: Any, start: Callable[..., Any]) -> None:
    short = start("ngram")
    page = watch(short.url).page
    short.server.stop(0)
    page.click("#try-run")
    until(page, "/does not answer/.test(document.getElementById('notice').textContent)")
    assert page.locator("#try-run").is_enabled()


def test_a_limit_is_shown_in_the_page_s_language(watch: Any) -> None:
    page = watch(locale="zh-CN").page
    choose(page, "ngram")
    page.evaluate("document.querySelector('#try-settings [name=max_tokens]').removeAttribute('max')")
    page.fill("#try-settings [name=max_tokens]", "99999999")
    page.click("#try-run")
    until(page, "!document.getElementById('notice').hidden")
    told = page.locator("#notice").text_content()
    assert re.search(r"[\u4e00-\u9fff]", told) and "max_tokens" in told


def test_every_task_is_asked_by_its_own_form(watch: Any, answering: Any) -> None:
    page = watch(answering.url).page
    page.click("#tab-predict")
    for task, row in ASKED.items():
        choose(page, f"{task}-model")
        schema = next(each for each in answering.ask("GET", "/v1/models").json["data"] if each["id"] == f"{task}-model")["input_schema"]
        boxes = page.locator("#predict-fields [name]")
        assert [boxes.nth(place).get_attribute("name") for place in range(boxes.count())] == list(schema["properties"])
        for name in schema["properties"]:
            value = row.get(name, "")
            if page.locator(f"#predict-{name}").get_attribute("type") == "file":
                sort = {"image": "image/png", "audio": "audio/wav"}[name]
                files = [{"name": "chosen", "mimeType": sort, "buffer": media.content_of(value)}] if value else []
                page.set_input_files(f"#predict-{name}", files)
            else:
                page.fill(f"#predict-{name}", typed(value))
        page.click("#predict-run")
        until(page, "document.getElementById('predict-told').childElementCount > 0 || !document.getElementById('notice').hidden")
        assert page.locator("#notice").is_hidden(), (task, page.locator("#notice").text_content())
        (said,) = answering.post("/v1/predict", model=f"{task}-model", rows=[row]).json["answers"]
        shown, value = page.locator("#predict-told").text_content(), said["answer"]
        marks = [each.replace("person", "") for each in page.locator("#predict-told mark").all_text_contents()]
        if task == "tag":
            assert marks == [token for token, tag in zip(row["tokens"], value, strict=True) if tag != "O"] == ["王芳"]
        elif task == "moderate":
            assert marks == [each["text"] for each in value["entities"]] and value["label"] in shown
            assert page.locator(".passage").text_content().replace("person", "") == row["text"], "text, never markup"
        elif task == "trace":
            assert page.locator("#predict-told li").count() == 3 and "?" in page.locator("#predict-told li.answer").text_content()
        elif task == "multilabel":
            assert page.locator("#predict-told .verdict").text_content() == ", ".join(value) == "fish, tree"
        else:
            assert page.locator("#predict-told .verdict").text_content() == (str(int(value)) if task == "grade" else value)
        if task == "risk":
            assert all(name in shown for name in said["reasons"]) and "age: 20" in shown
        if task == "recommend":
            assert page.locator("#predict-told li code").all_text_contents() == sorted(said["scores"], key=lambda e: -said["scores"][e])
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            for width in (360, 1100):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth") <= width, task
                if shots := os.environ.get("ZHIXING_SHOTS"):
                    page.screenshot(path=f"{shots}/{task}-{theme}-{width}.png", full_page=True)


def test_a_field_that_cannot_be_read_is_named(watch: Any, answering: Any) -> None:
    page = watch(answering.url, locale="zh-CN").page
    page.click("#tab-predict")
    for task, name, wrong in (("risk", "row", "no mark here"), ("trace", "correct", "1 2"), ("tag", "tokens", "  "), ("grade", "text", "")):
        choose(page, f"{task}-model")
        if task == "trace":
            page.fill("#predict-items", "add add")
        page.fill(f"#predict-{name}", wrong)
        page.click("#predict-run")
        until(page, "!document.getElementById('notice').hidden")
        assert page.locator("#notice").text_content().startswith(f"字段 {name}：")
    choose(page, "risk-model")
    page.fill("#predict-row", '{"age": 61, "job": null}')
    page.click("#predict-run")
    until(page, "document.getElementById('predict-told').childElementCount > 0")
    assert page.locator("#notice").is_hidden()


@pytest.mark.parametrize("task", ["risk", "tag", "grade", "trace"])
def test_a_table_of_any_task_is_answered(watch: Any, answering: Any, task: str, tmp_path: Path) -> None:
    page, draw = watch(answering.url).page, random.Random(9)
    page.click("#tab-predict")
    choose(page, f"{task}-model")
    rows = [{**rows_of(task, draw), "id": place} for place in range(5)]
    if task in ("risk", "grade"):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        path, content = tmp_path / "rows.csv", text.getvalue()
    else:
        path, content = tmp_path / "rows.jsonl", "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows)
    path.write_text(content, encoding="utf-8")
    page.set_input_files("#rows-file", path)
    until(page, "/5 rows/.test(document.getElementById('rows-state').textContent)")
    page.click("#rows-run")
    until(page, "/answered/.test(document.getElementById('rows-state').textContent)")
    with page.expect_download() as download:
        page.click("#rows-save")
    saved = Path(download.value.path()).read_bytes().decode("utf-8")
    after = list(csv.DictReader(io.StringIO(saved))) if path.suffix == ".csv" else [json.loads(line) for line in saved.splitlines()]
    cells = [{name: each[name] for name in ("age", "job", "id")} for each in rows] if task == "risk" else []
    fields = {"risk": ["row"], "tag": ["tokens"], "grade": ["text", "reference", "question"], "trace": ["items", "correct"]}[task]
    sent = [{"row": each} for each in cells] or [{name: each[name] for name in fields} for each in rows]
    wanted = answering.post("/v1/predict", model=f"{task}-model", rows=sent).json["answers"]
    assert [each["problem"] for each in after] == [""] * 5

    def flat(value: Any) -> Any:
        return " ".join(value) if task == "tag" else value

    for found, said in zip(after, wanted, strict=True):
        if task == "trace":
            assert json.loads(found["answer"]) == pytest.approx(said["answer"])
        else:
            assert found["answer"] == (str(int(said["answer"])) if task == "grade" else flat(said["answer"]))
        assert ("reasons" in found) == (task == "risk")
