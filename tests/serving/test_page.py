"""The page without a browser: its words in both languages, nothing in it that could run what a model writes, and how it is served."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setTimeout\([\"'`]|javascript:|https?://"
)
FILES = {
    "index.html": "text/html",
    "app.js": "javascript",
    "answers.js": "javascript",
    "fields.js": "javascript",
    "api.js": "javascript",
    "rows.js": "javascript",
    "words.js": "javascript",
    "style.css": "css",
}


@pytest.fixture(scope="module")
def web(root: Path) -> Path:
    return root / "src" / "zhixing" / "serving" / "web"


def words(source: str) -> dict[str, dict[str, str]]:
    """Read the table of words.js: names and strings in double quotes, by language."""
    found = {}
    for language, block in re.findall(r"^  (\w+): \{\n(.*?)^  \},", source, re.S | re.M):
        found[language] = {name: json.loads(text) for name, text in re.findall(r'(\w+): ("(?:[^"\\]|\\.)*")', block)}
    return found


def test_both_languages_say_the_same(web: Path) -> None:
    tables = words((web / "words.js").read_text(encoding="utf-8"))
    assert set(tables) == {"en", "zh"} and len(tables["en"]) > 60
    assert set(tables["en"]) == set(tables["zh"])
    for name, text in tables["en"].items():
        assert set(re.findall(r"\{(\w+)\}", text)) == set(re.findall(r"\{(\w+)\}", tables["zh"][name])), name
    assert all(
        re.search(r"[\u4e00-\u9fff]", text) for name, text in tables["zh"].items() if name not in ("other", "top_p", "top_k", "min_p")
    )


def test_every_word_is_used_and_every_use_has_its_word(web: Path) -> None:
    known = set(words((web / "words.js").read_text(encoding="utf-8"))["en"])
    page = (web / "index.html").read_text(encoding="utf-8")
    code = "".join((web / name).read_text(encoding="utf-8") for name in ("app.js", "api.js", "rows.js", "fields.js", "answers.js"))
    asked = set(re.findall(r'data-(?:word|hint|name)="(\w+)"', page))
    quoted = set(re.findall(r'"(\w+)"', code)) | {f"reason_{each}" for each in ("stop", "length")}
    quoted |= {f"head_{each}" for each in ("answer", "confidence", "abstained", "problem")}
    assert asked <= known, asked - known
    assert set(re.findall(r'say\("(\w+)"', code)) <= known
    assert known - asked - quoted == set(), "words that nothing shows"


class Page(HTMLParser):
    """What may not stand in a page under its content policy: inline scripts, styles and handlers; and its labels."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.faults += [f"{tag} {name}" for name in found if name.startswith("on") or name == "style"]
        self.faults += [
            f"{tag} {value}"
            for name, value in attrs
            if name in ("src", "href") and value and re.match(r"\w+:|//", value) and value != "data:,"
        ]
        if tag == "style" or (tag == "script" and "src" not in found):
            self.faults.append(f"inline {tag}")
        if tag in ("input", "select", "textarea") and "label" not in self.inside:
            self.faults.append(f"{tag} without a label")
        self.ids += [found["id"]] if found.get("id") else []
        if tag not in ("meta", "link", "input", "br"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass


def test_the_page_holds_nothing_that_its_policy_forbids(web: Path) -> None:
    page = Page()
    page.feed((web / "index.html").read_text(encoding="utf-8"))
    assert page.faults == [] and len(page.ids) == len(set(page.ids)) > 30
    bad = Page()
    bad.feed("<p onclick='a()' style='b'><script>c</script><img src='//d'><input></p>")
    assert len(bad.faults) == 5


def test_no_call_makes_markup_or_code_of_text(web: Path) -> None:
    for path in web.glob("*.js"):
        assert FORBIDDEN.findall(path.read_text(encoding="utf-8")) == [], path.name
    assert FORBIDDEN.search("a.innerHTML = b") and FORBIDDEN.search("eval('1')") and FORBIDDEN.search("fetch('https://a.b')")


def test_every_id_that_the_code_asks_for_is_there(web: Path) -> None:
    page = Page()
    page.feed((web / "index.html").read_text(encoding="utf-8"))
    asked = set(re.findall(r'at\("([\w-]+)"\)', (web / "app.js").read_text(encoding="utf-8")))
    assert asked and asked <= set(page.ids), asked - set(page.ids)


def test_the_page_is_served_with_its_types_and_its_policy(running: Any, web: Path) -> None:
    assert {path.name for path in web.iterdir()} == set(FILES)
    for name, sort in FILES.items():
        reply = running.ask("GET", f"/{name}")
        assert reply.status == 200 and sort in reply.headers["content-type"] and reply.body == (web / name).read_bytes()
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "script-src 'self'" in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert running.ask("GET", "/").body == (web / "index.html").read_bytes()


def test_rows_come_back_as_they_were(web: Path, tmp_path: Path) -> None:
    """Run the page's own reader and writer: long numbers, cells too many, and old line ends."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not on this machine; the browser's test covers the rest")
    shutil.copyfile(web / "rows.js", tmp_path / "rows.mjs")
    (tmp_path / "run.mjs").write_text(
        'import { parse, render } from "./rows.mjs";\n'
        "const read = (name, text) => parse(name, new TextEncoder().encode(text));\n"
        'const lines = read("a.jsonl", \'{"id":1234567890123456789,"x":1.0}\\n{}\\n\');\n'
        'console.log(JSON.stringify(render(lines, [{ answer: "up" }, { problem: "none" }])));\n'
        'const cells = read("a.csv", "id,text\\r1,good,EXTRA\\r2,bad\\r");\n'
        'console.log(JSON.stringify(render(cells, [{ problem: "cells" }, { answer: "down" }])));\n'
    )
    done = subprocess.run([node, tmp_path / "run.mjs"], capture_output=True, text=True, check=True)
    lines, cells = map(json.loads, done.stdout.splitlines())
    assert lines.splitlines()[0].startswith('{"id":1234567890123456789,"x":1.0,"answer":"up"')
    assert [json.loads(each) for each in lines.splitlines()][1] == {"answer": "", "confidence": "", "abstained": "", "problem": "none"}
    assert cells.splitlines()[1:] == ["1,good,,,,cells,EXTRA", "2,bad,down,,,"]
