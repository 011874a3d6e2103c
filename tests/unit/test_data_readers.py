"""Reading: formats, encodings, damage, line numbers; a row that cannot be read is a record with a reason, never lost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from zhixing.core.errors import DataError, UsageError
from zhixing.data import readers
from zhixing.data.readers import read, survey

ZH = "今天的天气很好，我们一起去公园看花。\n春天来了，风是暖的，人也多了。\n"
ROWS = [{"text": "hello", "label": "a"}, {"text": "你好，世界", "label": "b"}, {"text": "line\u2028end", "label": "c"}]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


class Ear:
    """Remember what was told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict]] = []

    def __call__(self, code: str, /, **values: object) -> None:
        self.heard.append((code, values))


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found(path: Path, **settings) -> list:
    return [(each.line, each.value if each.reason is None else each.reason) for each in read(path, **settings)]


def values(path: Path, **settings) -> list:
    records = list(read(path, **settings))
    assert all(each.reason is None for each in records)
    return [each.value for each in records]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_every_format_and_compression(tmp_path, ending):
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[ending]
    tsv = b"text\tlabel\nhello\ta\n"
    assert values(write(tmp_path / f"a.jsonl{ending}", pack(JSONL))) == ROWS
    assert values(write(tmp_path / f"a.ndjson{ending}", pack(JSONL))) == ROWS
    assert values(write(tmp_path / f"a.tsv{ending}", pack(tsv))) == [{"text": "hello", "label": "a"}]
    assert values(write(tmp_path / f"a.csv{ending}", pack(b"text,label\nhello,a\n"))) == [{"text": "hello", "label": "a"}]
    assert values(write(tmp_path / f"a.txt{ending}", pack(ZH.encode()))) == [ZH]


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_concatenated_members_are_one_file(tmp_path, ending, pack):
    half = JSONL.index(b"\n") + 1
    assert values(write(tmp_path / f"a.jsonl{ending}", pack(JSONL[:half]) + pack(JSONL[half:]))) == ROWS


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_rows_before_a_truncation_are_kept(tmp_path, ending, pack):
    import random

    source = random.Random(0)
    rows = [json.dumps({"text": "".join(source.choices("abcdefghij ", k=60))}) for _ in range(20_000)]
    whole = pack(("\n".join(rows) + "\n").encode())
    ear = Ear()
    records = list(read(write(tmp_path / f"a.jsonl{ending}", whole[: len(whole) // 2]), tell=ear))
    assert [each.reason for each in records[-1:]] == ["damaged"]
    assert len(records) > 1000
    assert [each.value for each in records[:-1]] == [json.loads(row) for row in rows[: len(records) - 1]]
    assert records[-1].line == len(records)
    assert ear.heard[0][0] == "data.damaged"


def test_a_file_that_is_not_compressed_at_all(tmp_path):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "a.txt.gz", b"plain text"))
    assert caught.value.code == "data.damaged"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_byte_order_mark_changes_nothing(tmp_path, name):
    content = {"a.txt": ZH.encode(), "a.jsonl": JSONL, "a.csv": "text,label\n你好,a\n".encode()}[name]
    assert values(write(tmp_path / "bom" / name, b"\xef\xbb\xbf" + content)) == values(write(tmp_path / "none" / name, content))


@pytest.mark.parametrize(("encoding", "told"), [("gb18030", "gb18030"), ("gbk", "gb18030"), ("utf-16", "utf-16")])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_encodings_are_found_and_told(tmp_path, encoding, told, ending):
    raw = ZH.encode(encoding)
    ear = Ear()
    path = write(tmp_path / f"a.txt{ending}", gzip.compress(raw) if ending else raw)
    assert values(path, tell=ear) == [ZH]
    assert ear.heard == [("data.encoding", {"file": path.name, "encoding": told})]


def test_gb18030_after_a_long_ascii_start(tmp_path):
    text = "plain words\n" * 20_000 + ZH
    assert values(write(tmp_path / "a.txt", text.encode("gb18030"))) == [text]


def test_utf16_big_endian_table(tmp_path):
    path = write(tmp_path / "a.csv", b"\xfe\xff" + "text,label\r\n你好,好\r\n".encode("utf-16-be"))
    assert values(path) == [{"text": "你好", "label": "好"}]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("déjà vu à la carte, été comme hiver\n" * 5, "latin-1"),
        ("한국어 문장은 이렇게 생겼습니다. 오늘은 날씨가 좋네요.\n" * 5, "euc-kr"),
        ("これは日本語の文章です。今日は天気がいいですね。\n" * 5, "shift_jis"),
        ("這是一段繁體中文的文字，今天的天氣很好，我們一起去看花。\n" * 5, "big5"),
    ],
)
def test_other_encodings_are_refused_not_garbled(tmp_path, text, encoding):
    path = write(tmp_path / "a.txt", text.encode(encoding))
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.code == "data.encoding"
    assert values(path, encoding=encoding) == [text]


def test_one_damaged_line_is_one_bad_row(tmp_path):
    path = write(tmp_path / "a.txt", ZH.encode() + b"broken \xff\xfe byte\n" + ZH.encode())
    lines = found(path, unit="line")
    assert lines[2] == (3, "undecodable")
    assert len(lines) == 5 and all("天" in each or "风" in each for _, each in lines[:2] + lines[3:])
    assert found(path) == [(3, "undecodable")]
    assert found(write(tmp_path / "b.jsonl", b'{"text": "ok"}\n' * 30 + b'{"text": "\xe9"}\n'))[30:] == [(31, "undecodable")]


def test_bad_json_rows_by_reason(tmp_path):
    lines = [
        b'{"text": "ok"}', b'{"text": ', b"[1]", b"", b'{"text": "\\ud800"}', b'{"text": "a\\u0000b"}', b'{"text": "a\x00b"}',
        b'{"text": "\\ud83d\\ude00"}', b"[" * 100_000, b'{"text": "' + b"long enough to be text" * 20 + b'"}',
    ]  # fmt: skip
    path = write(tmp_path / "a.jsonl", b"\n".join(lines))
    expected = [(2, "bad_json"), (3, "not_object"), (5, "surrogate"), (6, "nul"), (7, "nul"), (9, "bad_json")]
    records = list(read(path))
    assert [(each.line, each.reason) for each in records if each.reason] == expected
    assert [each.line for each in records if not each.reason] == [1, 8, 10]
    assert all(len(each.excerpt) <= 200 for each in records)


def test_csv_line_numbers_with_quoted_line_ends(tmp_path):
    content = b'text,label\n"one\ntwo\nthree",a\nplain,b\n\n"x ""y""",c\nragged\nlast,d,e\nend,f\n'
    assert found(write(tmp_path / "a.csv", content)) == [
        (2, {"text": "one\ntwo\nthree", "label": "a"}),
        (5, {"text": "plain", "label": "b"}),
        (7, {"text": 'x "y"', "label": "c"}),
        (8, "columns"),
        (9, "columns"),
        (10, {"text": "end", "label": "f"}),
    ]


def test_csv_quotes_that_never_close(tmp_path):
    assert found(write(tmp_path / "a.csv", b'text,label\nok,a\n"open,b\nmore,c\n')) == [(2, {"text": "ok", "label": "a"}), (3, "bad_csv")]


def test_csv_truncated_within_a_quoted_field(tmp_path):
    import random

    source = random.Random(1)
    rows = ['"' + "".join(source.choices("abcdefgh\n ", k=50)) + '",x' for _ in range(5000)]
    whole = gzip.compress(("text,label\n" + "\n".join(rows) + "\n").encode())
    records = list(read(write(tmp_path / "a.csv.gz", whole[: len(whole) // 2])))
    assert [each.reason for each in records if each.reason] == ["damaged"]
    assert records[-1].reason == "damaged" and len(records) > 500
    assert records[-1].line > records[-2].line


@pytest.mark.parametrize("content", [b"text,text\na,b\n", b"text,\na,b\n"])
def test_csv_needs_a_header(tmp_path, content):
    with pytest.raises(DataError) as caught:
        list(read(write(tmp_path / "a.csv", content)))
    assert caught.value.code == "data.header"


def test_over_long_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_ROW", 1000)
    monkeypatch.setattr(readers, "CHUNK_BYTES", 256)
    row = json.dumps({"text": "x" * 5000})
    path = write(tmp_path / "a.jsonl", ('{"text": "a"}\n' + row + '\n{"text": "b"}\n' + row).encode())
    assert found(path) == [(1, {"text": "a"}), (2, "over_long"), (3, {"text": "b"}), (4, "over_long")]
    path = write(tmp_path / "a.csv", f'text,n\na,1\n"{"y" * 5000}",2\nb,3\n'.encode())
    assert found(path) == [(2, {"text": "a", "n": "1"}), (3, "over_long"), (4, {"text": "b", "n": "3"})]


def test_units_of_text(tmp_path):
    path = write(tmp_path / "a.txt", b"\n\none\ntwo\n \nthree\r\n\r\nfour")
    ear = Ear()
    assert found(path, unit="paragraph", tell=ear) == [(3, "one\ntwo"), (6, "three"), (8, "four")]
    assert ear.heard == [("data.crlf", {"file": "a.txt", "count": 2})]
    assert found(path, unit="line") == [(3, "one"), (4, "two"), (6, "three"), (8, "four")]
    assert found(path, unit="file") == [(1, "\n\none\ntwo\n \nthree\n\nfour")]
    assert found(write(tmp_path / "b.txt", b"a\rb\r\r\n"), unit="file") == [(1, "a\rb\r\n")]
    with pytest.raises(UsageError) as caught:
        list(read(path, unit="word"))
    assert caught.value.code == "data.unit"


def test_folders_and_globs(tmp_path):
    for name in ("b/2.txt", "a/1.txt", ".hidden/0.txt", ".0.txt", "c.txt"):
        write(tmp_path / name, name.encode())
    write(tmp_path / "picture.png", b"\x89PNG\0")
    ear = Ear()
    assert values(tmp_path, tell=ear) == ["a/1.txt", "b/2.txt", "c.txt"]
    assert ear.heard == [("data.skipped", {"count": 1, "first": "picture.png"})]
    assert [each.name for each in survey(str(tmp_path / "*" / "*.txt"))] == ["a/1.txt", "b/2.txt"]
    write(tmp_path / "d.txt", b"")
    assert [each.reason for each in read(tmp_path)] == [None, None, None, "empty"]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.txt", b"", "data.empty"),
        ("a.txt", b"\xef\xbb\xbf", "data.empty"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "data.empty"),
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 20, "data.binary"),
        ("a.jsonl", bytes(range(256)) * 4, "data.binary"),
        ("a.txt", "plain words".encode("utf-16-le"), "data.binary"),
        ("a.pdf", b"%PDF", "data.format"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, code):
    with pytest.raises((DataError, UsageError)) as caught:
        read(write(tmp_path / name, content))
    assert caught.value.code == code
    assert name in caught.value.text("en") and name in caught.value.text("zh")


def test_places_that_are_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    both = tmp_path / "both"
    write(both / "a.txt", b"text")
    write(both / "b.jsonl", JSONL)
    for source, code in [
        (tmp_path / "no.txt", "data.not_found"),
        (str(tmp_path / "*.csv"), "data.glob"),
        (tmp_path / "empty", "data.no_files"),
        (both, "data.mixed"),
    ]:
        with pytest.raises(UsageError) as caught:
            read(source)
        assert caught.value.code == code
        assert str(tmp_path) in caught.value.text("zh")
    with pytest.raises(UsageError) as caught:
        read(both / "a.txt", encoding="gb18O30")
    assert caught.value.code == "data.encoding_name" and "gb18030" in caught.value.text("en")
