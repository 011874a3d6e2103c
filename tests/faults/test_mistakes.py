"""What users do wrong, as one table: the error in both languages, the exit code, and nothing new or changed on the disk."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from zhixing.cli.app import VERBS, main
from zhixing.core.folder import FORMAT, create

PARTS = ("what", "expected", "do")
HAN = re.compile(r"[\u4e00-\u9fff]")
Snapshot = Callable[..., dict[str, str]]
Setup = Callable[[Path, Path], object]  # (kit, place) -> what must be there before


PICTURED = {"a.jsonl": b'{"image": "b.png", "label": "x"}\n{"image": "b.png", "label": "y"}\n'}
BROKEN = {"b.png": b"\x89PNG nothing"}
HUGE = {"b.png": bytes.fromhex("89504e470d0a1a0a0000000d49484452000080000000800008020000004b1e3428") + b"\0\0\0\0IEND\xaeB`\x82"}
OUTSIDE = {"a.jsonl": b'{"image": "../b.png", "label": "x"}\n'}
SOUNDED = {"a.jsonl": b'{"audio": "b.wav", "label": "x"}\n', "b.wav": b"RIFF nothing"}
TAGGED = {"a.jsonl": b'{"tokens": ["a"], "tags": ["O"]}\n'}


@dataclass(frozen=True)
class Case:
    """One mistake: the words, where {k} is the kit and {p} an own place, the error, and what the place holds before."""

    name: str
    words: str
    exit: int
    code: str
    said: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    setup: Setup | None = None


def copy(name: str, then: Callable[[Path], object] = lambda folder: None) -> Setup:
    """Copy a folder of the kit into the place as `copy`, and do something to it."""

    def make(kit: Path, place: Path) -> None:
        shutil.copytree(kit / name, place / "copy", ignore=shutil.ignore_patterns("cache"))
        then(place / "copy")

    return make


def flip(path: Path, bit: int = 0) -> None:
    """Flip one bit in the middle of a file; an empty one gets a byte."""
    content = bytearray(path.read_bytes() or b"\0")
    content[len(content) // 2] ^= 1 << bit
    path.write_bytes(content)


def link(path: Path) -> None:
    """Put a symbolic link to an equal file in a file's place."""
    aside = path.parent.with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)


def one_label(kit: Path, place: Path) -> None:
    """Make a whole, sealed corpus whose training rows have one label, which `prepare` would refuse."""
    card = json.loads((kit / "table" / "card.json").read_text(encoding="utf-8"))
    with create(place / "single", "corpus", card) as folder:
        for name in ("schema.json", "validation.jsonl.zst", "test.jsonl.zst"):
            shutil.copyfile(kit / "table" / name, folder / name)
        rows = [json.dumps({"text": f"word {number}", "label": "up"}) + "\n" for number in range(card["splits"]["train"]["examples"])]
        (folder / "train.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress("".join(rows).encode()))


def grown(kit: Path, place: Path) -> None:
    """Make a corpus that rejected a row."""
    with create(place / "copy", "corpus", {}) as folder:
        (folder / "rejected.jsonl").write_text('{"text": "a"}\n')


def packed(then: Callable[[bytes], bytes] = lambda content: content) -> Setup:
    """Pack a small text as `a.zxp`, and do something to its bytes."""

    def make(kit: Path, place: Path) -> None:
        (place / "a.txt").write_text("the old boat drifts along\n", encoding="utf-8")
        assert main(["pack", str(kit / "ngram"), str(place / "a.txt"), str(place / "a.zxp")]) == 0
        (place / "a.zxp").write_bytes(then((place / "a.zxp").read_bytes()))

    return make


LANGUAGE = b"A sentence that is long enough to be a corpus on its own. " * 40
TABLE = b"text,label\ngood day,a\nbad day,b\n"
DICTIONARY = "train {k}/corpus {p}/out --model ngram --tokenizer words --dictionary {p}/a"
CASES = [
    Case("verb", "trian {k}/corpus {p}/out", 2, "usage.verb_unknown", "'train'"),
    Case("flag", "prepare {k}/text.txt {p}/out --sedd 1", 2, "usage.flag_unknown", "'--seed'"),
    Case("flag-of-another-verb", "evaluate {k}/ngram {k}/corpus --steps 3", 2, "usage.flag_unknown", "--steps"),
    Case("value", "predict {k}/classifier {k}/rows.csv {p}/out.csv --precision high", 2, "usage.value_wrong", "NUMBER"),
    Case("word-missing", "compare {k}/corpus", 2, "usage.word_missing", "OUT"),
    Case("word-surplus", "show {k}/corpus {k}/ngram", 2, "usage.word_surplus", "ngram"),
    # prepare
    Case("source-missing", "prepare {p}/no.txt {p}/out", 2, "data.not_found", "no.txt"),
    Case("source-pattern", "prepare {p}/*.csv {p}/out", 2, "data.glob", "*.csv"),
    Case("source-form", "prepare {p}/a.docx {p}/out", 2, "data.format", "a.docx", {"a.docx": b"PK"}),
    Case("folder-empty", "prepare {p}/in {p}/out", 2, "data.no_files", "", setup=lambda kit, place: (place / "in").mkdir()),
    Case("source-ours", "prepare {k}/corpus {p}/out", 2, "prepare.ours", "zhixing show"),
    Case("also-file", "prepare {k}/table {p}/out --also {k}/rows.csv", 2, "folder.not_folder", "rows.csv"),
    Case("also-language", "prepare {k}/table {p}/out --also {k}/corpus", 2, "prepare.also", "language"),
    Case("also-itself", "prepare {k}/table {p}/out --also {k}/table", 2, "prepare.also_name", "classify/table"),
    Case("also-setting", "prepare {k}/table {p}/out --also {k}/table --test 0.3", 2, "prepare.also_setting", "--test"),
    Case("start-missing", "train {k}/table {p}/out --model bert --start {p}/no", 2, "folder.not_found", "no"),
    Case("start-form", "train {k}/table {p}/out --start {k}/classifier --tokenizer bpe", 2, "settings.start_form", "--tokenizer"),
    Case("start-of-another", "train {k}/table {p}/out --model bigru --start {k}/classifier", 2, "train.start", "bigru"),
    Case("picture-missing", "prepare {p}/a.jsonl {p}/out --task see", 3, "prepare.bad_media", "1, b.png: the file is not there", PICTURED),
    Case("picture-broken", "prepare {p}/a.jsonl {p}/out --task see", 3, "prepare.bad_media", "(unreadable_image)", {**PICTURED, **BROKEN}),
    Case("picture-outside", "prepare {p}/a.jsonl {p}/out --task see", 3, "prepare.bad_media", "(media_outside)", OUTSIDE),
    Case("picture-huge", "prepare {p}/a.jsonl {p}/out --task see", 3, "prepare.bad_media", "16 million pixels", {**PICTURED, **HUGE}),
    Case("sound-broken", "prepare {p}/a.jsonl {p}/out --task see", 3, "prepare.bad_media", "(unreadable_sound)", SOUNDED),
    Case("steps-none", "train {k}/corpus {p}/out --steps 0", 2, "settings.range", "steps"),
    Case("minutes-none", "train {k}/corpus {p}/out --minutes 0", 2, "settings.range", "minutes"),
    Case("private-counted", "train {k}/table {p}/out --model logistic --epsilon 8", 2, "private.model", "Leave --model out"),
    Case("private-task", "train {k}/corpus {p}/out --epsilon 8", 2, "private.task", "language"),
    Case("private-nothing", "train {k}/table {p}/out --epsilon 0", 2, "settings.range", "epsilon"),
    Case("contrast-parts", "train {k}/table {p}/out --model towers", 2, "settings.model", "towers"),
    Case("file-empty", "prepare {p}/a.txt {p}/out", 3, "data.empty", "a.txt", {"a.txt": b""}),
    Case("file-blank", "prepare {p}/a.txt {p}/out", 3, "prepare.bad_rows", "a.txt", {"a.txt": b" \n\n"}),
    Case("file-binary", "prepare {p}/a.txt {p}/out", 3, "data.binary", "a.txt", {"a.txt": bytes(range(256)) * 9}),
    Case("file-damaged", "prepare {p}/a.txt.gz {p}/out", 3, "prepare.bad_rows", "damaged", {"a.txt.gz": gzip.compress(LANGUAGE)[:-9]}),
    Case("kinds-mixed", "prepare {p}/in {p}/out", 2, "data.mixed", "a.csv", {"in/a.csv": TABLE, "in/b.txt": LANGUAGE}),
    Case("encoding-unknown", "prepare {k}/text.txt {p}/out --encoding utf-9", 2, "data.encoding_name", "utf-9"),
    Case("encoding-wrong", "prepare {p}/a.txt {p}/out --encoding utf-8", 3, "prepare.bad_rows", "a.txt:2", {"a.txt": b"a\n\xc4\xe3\n"}),
    Case("one-line", "prepare {p}/a.txt {p}/new/deep/out", 3, "prepare.too_small", "1 examples", {"a.txt": b"One line only.\n"}),
    Case("csv-ragged", "prepare {p}/a.csv {p}/out", 3, "prepare.bad_rows", "a.csv:3", {"a.csv": TABLE.replace(b",b", b"")}),
    Case("csv-header", "prepare {p}/a.csv {p}/out", 3, "data.header", "text,text", {"a.csv": b"text,text\na,b\n"}),
    Case("csv-semicolons", "prepare {p}/a.csv {p}/out", 3, "data.delimiter", "';'", {"a.csv": TABLE.replace(b",", b";")}),
    Case("csv-quoted-tabs", "prepare {p}/a.csv {p}/out", 3, "data.delimiter", ".tsv", {"a.csv": b'"text"\t"label"\n"a"\t"b"\n'}),
    Case("json-line", "prepare {p}/a.jsonl {p}/out", 3, "prepare.bad_rows", "a.jsonl:2", {"a.jsonl": b'{"text": "a"}\n{"text: "b"}\n'}),
    Case("column-text", "prepare {k}/rows.csv {p}/out --text revew", 2, "prepare.column", "'review'"),
    Case("column-label", "prepare {k}/rows.csv {p}/out --text review --label start", 2, "prepare.column", "'stars'"),
    Case("column-none", "prepare {p}/a.csv {p}/out", 2, "prepare.no_text", "one, two", {"a.csv": b"one,two\na,b\n"}),
    Case("label-none", "prepare {k}/rows.csv {p}/out --text review --task classify", 2, "prepare.no_label", "--label"),
    Case("label-of-text", "prepare {k}/text.txt {p}/out --label stars", 2, "prepare.text_has_no_label"),
    Case("labels-one", "prepare {p}/a.csv {p}/out", 3, "prepare.one_label", "'a'", {"a.csv": TABLE.replace(b",b", b",a")}),
    Case("shares", "prepare {k}/text.txt {p}/out --validation 0.6 --test 0.6", 2, "prepare.shares", "0.6"),
    Case("unit", "prepare {k}/text.txt {p}/out --unit paragraf", 2, "prepare.choice", "'paragraph'"),
    Case("form", "prepare {k}/rows.csv {p}/out --form {{review", 2, "prepare.form", "review"),
    Case("output-exists", "prepare {k}/text.txt {k}/corpus", 2, "output.exists", "--force"),
    Case("output-foreign", "prepare {k}/text.txt {p}/out --force", 2, "output.not_ours", "out", {"out/mine.txt": b"mine"}),
    Case("output-with-card", "prepare {k}/text.txt {p}/out --force", 2, "output.not_ours", "out", {"out/card.json": b'{"name": "Ada"}'}),
    Case("output-with-run", "train {k}/corpus {p}/out --model ngram --force", 2, "output.not_ours", "out", {"out/run.json": b"{}"}),
    Case(
        "output-grown", "prepare {k}/text.txt {p}/copy --force", 2, "output.not_ours", "notes.txt",
        setup=copy("corpus", lambda folder: (folder / "notes.txt").write_text("mine")),
    ),
    Case(
        "output-run-grown", "train {k}/corpus {p}/copy --model ngram --force", 2, "output.not_ours", "notes.txt",
        setup=copy("ngram", lambda folder: ((folder / "manifest.json").unlink(), (folder / "notes.txt").write_text("mine"))),
    ),
    Case("output-read", "prepare {p}/copy/rejected.jsonl {p}/copy --force", 2, "prepare.swallowed", "rejected.jsonl", setup=grown),
    Case("output-device", "prepare {k}/text.txt /dev/full --force", 2, "output.not_ours", "/dev/full"),
    Case("output-inside", "prepare {p}/in {p}/in/out", 2, "prepare.inside", "in/out", {"in/a.txt": LANGUAGE}),
    Case("output-below-file", "prepare {k}/text.txt {p}/a/out", 2, "output.parent_is_file", "", {"a": b""}),
    # train
    Case("corpus-missing", "train {p}/none {p}/out", 2, "folder.not_found", "none"),
    Case("corpus-is-file", "train {k}/text.txt {p}/out", 2, "folder.not_folder", "zhixing prepare"),
    Case("corpus-is-model", "train {k}/ngram {p}/out", 2, "folder.wrong_kind", "model"),
    Case("corpus-is-foreign", "train {p} {p}/out", 2, "folder.not_ours", "card.json"),
    Case(
        "corpus-flipped", "train {p}/copy {p}/out --model ngram", 3, "folder.file_damaged", "train.jsonl.zst",
        setup=copy("corpus", lambda folder: flip(folder / "train.jsonl.zst")),
    ),
    Case(
        "corpus-linked", "train {p}/copy {p}/out --model ngram", 3, "folder.file_damaged", "schema.json",
        setup=copy("corpus", lambda folder: link(folder / "schema.json")),
    ),
    Case("corpus-one-label", "train {p}/single {p}/out", 3, "task.one_label", "up", setup=one_label),
    Case("setting-unused", "train {k}/table {p}/out --minutes 9", 2, "settings.unused_time", "--best --minutes"),
    Case("start-counted", "train {k}/table {p}/out --start {k}/classifier --steps 9", 2, "settings.start_counted", "of the sort"),
    Case("order-unused", "train {k}/corpus {p}/out --model qwen3 --order 3 --steps 1", 2, "settings.unused", "qwen3"),
    Case("strength-negative", "train {k}/corpus {p}/out --model dirichlet --strength=-1", 2, "settings.range", "strength"),
    Case("strength-endless", "train {k}/corpus {p}/out --model additive --strength inf", 2, "settings.range", "inf"),
    Case("prior-unknown", "train {k}/corpus {p}/out --model lstm --prior gausian", 2, "settings.choice", "'gaussian'"),
    Case("prior-and-decay", "train {k}/corpus {p}/out --prior gaussian --weight-decay 0.1", 2, "settings.prior_decay", "weight_decay"),
    Case("prior-missing", "train {k}/corpus {p}/out --prior-strength 3", 2, "settings.no_prior", "--prior gaussian"),
    Case("prior-flat", "train {k}/corpus {p}/out --prior laplace --prior-strength 0", 2, "settings.range", "prior_strength"),
    Case("prior-of-counts", "train {k}/corpus {p}/out --model ngram --prior gaussian", 2, "settings.unused", "'prior'"),
    Case("classes-one", "train {k}/corpus {p}/out --model grammar --classes 1", 2, "grammar.classes", "--classes"),
    Case("classes-negative", "train {k}/corpus {p}/out --model grammar --classes -1", 2, "settings.range", "classes"),
    Case("classes-unused", "train {k}/corpus {p}/out --model ngram --classes 9", 2, "settings.unused", "ngram"),
    Case("classes-of-layers", "train {k}/corpus {p}/out --model qwen3 --classes 9 --steps 1", 2, "settings.unused", "qwen3"),
    Case("order-of-grammar", "train {k}/corpus {p}/out --model grammar --order 3", 2, "settings.unused", "grammar"),
    Case("grammar-of-rows", "train {k}/table {p}/out --model grammar", 2, "settings.model", "classify"),
    Case("model-unknown", "train {k}/corpus {p}/out --model ngrams", 2, "settings.model", "'ngram'"),
    Case("model-of-other-task", "train {k}/corpus {p}/out --model naive_bayes", 2, "settings.model", "language"),
    Case("size-unknown", "train {k}/corpus {p}/out --size smal", 2, "settings.choice", "'small'"),
    Case("tokenizer-unknown", "train {k}/corpus {p}/out --tokenizer char", 2, "settings.choice", "characters"),
    Case("vocabulary-small", "train {k}/corpus {p}/out --model ngram --tokenizer bpe --vocabulary 10", 2, "tokens.size", "10"),
    Case("pieces-few", "train {k}/corpus {p}/out --model ngram --tokenizer unigram --vocabulary 10", 2, "tokens.size", "262"),
    Case("dictionary-unused", "train {k}/corpus {p}/out --model ngram --dictionary {k}/text.txt", 2, "settings.dictionary", "characters"),
    Case("dictionary-missing", "train {k}/corpus {p}/out --model ngram --tokenizer words --dictionary {p}/no", 3, "file.missing", "no"),
    Case("dictionary-empty", DICTIONARY, 3, "tokens.no_dictionary", "--dictionary", {"a": b"\n"}),
    Case("dictionary-of-tokens", DICTIONARY, 3, "tokens.dictionary", "<|end|>", {"a": b"boat\n<|end|>\n"}),
    Case("dictionary-binary", DICTIONARY, 3, "file.not_utf8", "a", {"a": b"\xd0\xa1\xff"}),
    Case("steps-negative", "train {k}/corpus {p}/out --steps -3", 2, "settings.range", "-3"),
    Case("batch-zero", "train {k}/corpus {p}/out --batch 0", 2, "settings.range", "batch"),
    Case("minutes-nan", "train {k}/corpus {p}/out --minutes nan", 2, "settings.range", "nan"),
    Case("rate-infinite", "train {k}/corpus {p}/out --learning-rate inf", 2, "settings.range", "learning_rate"),
    Case("dropout-large", "train {k}/corpus {p}/out --dropout 1.5", 2, "settings.dropout", "1.5"),
    Case("batch-odd", "train {k}/corpus {p}/out --batch 5 --accumulate 2", 2, "settings.accumulate", "5"),
    Case("two-lengths", "train {k}/corpus {p}/out --steps 5 --minutes 1", 2, "settings.lengths", "steps, minutes"),
    Case("recipe-unknown", "train {k}/corpus {p}/out --recipe nothing", 2, "settings.recipe", "nothing"),
    Case("recipe-broken", "train {k}/corpus {p}/out --recipe {p}/a.toml", 3, "settings.not_toml", "a.toml", {"a.toml": b"steps ="}),
    Case("recipe-key", "train {k}/corpus {p}/out --recipe {p}/a.toml", 2, "settings.unknown", "'steps'", {"a.toml": b"stpes = 3"}),
    Case("window-beyond-text", "train {k}/corpus {p}/out --window 100000 --steps 1", 3, "train.short_corpus", "--window"),
    Case(
        "forced-in-vain", "train {k}/corpus {p}/copy --window 100000 --steps 1 --force", 3, "train.short_corpus", "", setup=copy("ngram")
    ),
    Case("mixture-unfounded", "train {k}/bare {p}/out --model mixture --window 16 --steps 1", 3, "train.no_validation", "bare"),
    Case("best-unfounded", "train {k}/bare {p}/out --best --minutes 1", 3, "train.no_validation", "bare"),
    Case("best-with-steps", "train {k}/corpus {p}/out --best --minutes 1 --steps 5", 2, "best.setting", "--steps"),
    Case("best-nan", "train {k}/corpus {p}/out --best --minutes nan", 2, "settings.range", "nan"),
    Case("best-size", "train {k}/table {p}/out --best --minutes 1 --size huge", 2, "settings.choice", "huge"),
    Case("model-exists", "train {k}/corpus {k}/ngram --model ngram", 2, "output.exists", "--force"),
    Case("corpus-as-output", "train {k}/corpus {k}/corpus --model ngram --force", 2, "output.is_source", "corpus"),
    Case("output-in-corpus", "train {k}/corpus {k}/corpus/model --model ngram", 2, "output.inside", "corpus/model"),
    Case("best-as-output", "train {k}/corpus {k}/corpus --best --minutes 1 --force", 2, "output.is_source"),
    Case(
        "run-of-other-words", "train {k}/corpus {p}/copy --model ngram --order 2", 2, "train.other_run", "copy",
        setup=copy("ngram", lambda folder: (folder / "manifest.json").unlink()),
    ),
    # evaluate
    Case("model-missing", "evaluate {p}/none {k}/corpus", 2, "folder.not_found", "none"),
    Case("words-in-wrong-order", "evaluate {k}/corpus {k}/ngram", 2, "folder.wrong_kind", "corpus"),
    Case("task-differs", "evaluate {k}/classifier {k}/corpus", 2, "evaluate.other_task", "classify"),
    Case("split-unknown", "evaluate {k}/ngram {k}/corpus --split tset", 2, "data.split", "'test'"),
    Case("samples-negative", "evaluate {k}/ngram {k}/corpus --samples=-1", 2, "evaluate.samples", "-1"),
    Case("dynamic-rows", "evaluate {k}/classifier {k}/other --dynamic", 2, "evaluate.reader_task", "--dynamic"),
    Case("chat-no-writer", "chat {k}/classifier", 2, "usage.not_language", "classifier"),
    Case("export-form", "export {k}/neural {p}/a.gguf --form Q4", 2, "export.form", "Q4"),
    Case("export-counted", "export {k}/ngram {p}/a.gguf", 2, "export.nothing", "ngram"),
    Case("export-tokenizer", "export {k}/neural {p}/a.gguf", 2, "export.tokenizer", "characters"),
    Case("export-taken", "export {k}/neural {p}/a.gguf", 2, "output.exists", "a.gguf", {"a.gguf": b"mine"}),
    Case("import-nothing", "import {p}/nothing {p}/out", 2, "import.source", "nothing"),
    Case("import-pickle", "import {p}/a.bin {p}/out", 3, "import.weights", "a.bin", {"a.bin": b"\x80\x04."}),
    Case("import-no-config", "import {p}/in {p}/out", 3, "import.no_config", "config.json", {"in/pytorch_model.bin": b"\x80\x04."}),
    Case("import-strange", "import {p}/in {p}/out", 3, "import.architecture", "mamba", {"in/config.json": b'{"model_type": "mamba"}'}),
    Case("import-cut", "import {p}/a.gguf {p}/out", 3, "import.gguf", "a.gguf", {"a.gguf": b"GGUF\x03\0\0\0"}),
    Case("import-over", "import {p}/a.gguf {k}/ngram", 2, "output.exists", "ngram", {"a.gguf": b"GGUF\x03\0\0\0"}),
    Case("mix-counted", "mix {k}/corpus {p}/out {k}/ngram", 2, "mix.not_trained", "ngram"),
    Case("split-empty", "evaluate {k}/ngram {k}/bare", 3, "data.empty_split", "test"),
    Case("label-unseen", "evaluate {k}/classifier {k}/other", 3, "task.label_unseen", "'sideways'"),
    Case(
        "model-unfinished", "evaluate {p}/copy {k}/corpus", 3, "folder.unfinished", "manifest.json",
        setup=copy("ngram", lambda folder: (folder / "manifest.json").unlink()),
    ),
    Case(
        "file-removed", "evaluate {p}/copy {k}/corpus", 3, "folder.file_missing", "tokenizer.json",
        setup=copy("ngram", lambda folder: (folder / "tokenizer.json").unlink()),
    ),
    Case(
        "file-added", "generate {p}/copy", 3, "folder.file_added", "notes.txt",
        setup=copy("ngram", lambda folder: (folder / "notes.txt").write_text("mine")),
    ),
    Case(
        "file-linked", "generate {p}/copy", 3, "folder.file_damaged", "config.json",
        setup=copy("ngram", lambda folder: link(folder / "config.json")),
    ),
    Case(
        "folder-linked", "generate {p}/copy", 3, "folder.file_added", "more",
        setup=copy("ngram", lambda folder: (folder / "more").symlink_to(folder.parent)),
    ),
    # predict
    Case("answers-form", "predict {k}/classifier {k}/rows.csv {p}/out.txt", 2, "predict.form", ".jsonl"),
    Case("answers-exist", "predict {k}/classifier {k}/rows.csv {p}/out.csv", 2, "output.exists", "--force", {"out.csv": b"mine"}),
    Case("answers-folder", "predict {k}/classifier {k}/rows.csv {p}/out.csv --force", 2, "output.not_ours", "", {"out.csv/a": b""}),
    Case("answers-of-language", "predict {k}/ngram {k}/rows.csv {p}/out.csv", 2, "predict.task", "zhixing generate"),
    Case("precision-unknown", "predict {k}/classifier {k}/rows.csv {p}/out.csv --precision 0.5", 2, "predict.precision", "0.95"),
    Case("answers-column", "predict {k}/classifier {k}/rows.csv {p}/out.csv --text revew", 2, "prepare.column", "'review'"),
    Case("answers-source", "predict {k}/classifier {p}/no.csv {p}/new/out.csv", 2, "data.not_found", "no.csv"),
    Case("suggested-none", "suggest {k}/classifier {k}/rows.csv {p}/out.csv --count 0", 2, "usage.count", "0"),
    Case("suggested-of-language", "suggest {k}/ngram {k}/rows.csv {p}/out.csv", 2, "suggest.task", "language"),
    Case("answers-empty", "predict {k}/classifier {p}/a.csv {p}/out.csv", 3, "data.empty", "a.csv", {"a.csv": b""}),
    Case("answers-header", "predict {k}/classifier {p}/a.csv {p}/out.csv", 3, "data.header", "a.csv", {"a.csv": b"text,text\na,b\n"}),
    Case("answers-where", "predict {k}/classifier {p}/a.csv {p}/o.csv", 2, "prepare.no_text", "one, two", {"a.csv": b"one,two\na,b\n"}),
    Case("answers-over-rows", "predict {k}/classifier {k}/rows.csv {k}/rows.csv --force", 2, "output.is_source", "rows.csv"),
    Case("answers-delimiter", "predict {k}/classifier {p}/a.csv {p}/o.csv", 3, "data.delimiter", "'|'", {"a.csv": b"review|id\na|1\n"}),
    Case("answers-of-corpus", "predict {k}/classifier {k}/table {p}/out.csv", 2, "predict.ours", "zhixing evaluate"),
    Case("answers-beside-corpus", "predict {k}/classifier {p} {p}/out.csv", 2, "predict.ours", "/copy'", setup=copy("table")),
    Case("answers-in-model", "predict {k}/classifier {k}/rows.csv {k}/classifier/out.csv", 2, "output.inside", "out.csv"),
    Case("answers-columns", "predict {k}/classifier {k}/rows.csv {p}/o.csv --columns text", 2, "prepare.columns", "source=de"),
    # tasks of other rows
    Case("task-unknown", "prepare {k}/rows.csv {p}/c --task tagg", 2, "prepare.choice", "tag"),
    Case("field-unknown", "prepare {k}/rows.csv {p}/c --task tag --columns words=text", 2, "prepare.field", "tokens"),
    Case("field-missing", "prepare {p}/a.jsonl {p}/c --task translate", 2, "prepare.no_field", "target", {"a.jsonl": b'{"source": "a"}\n'}),
    Case(
        "tags-count", "prepare {p}/a.jsonl {p}/c --task tag", 3, "prepare.bad_rows", "a.jsonl:2: there is not one tag for each token",
        {"a.jsonl": b'{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a", "b"], "tags": ["O"]}\n'},
    ),
    Case(
        "score-word", "prepare {p}/a.csv {p}/c --task grade", 3, "prepare.bad_rows", "a.csv:3: it is no finite number (not_number)",
        {"a.csv": b"text,score\none,1\ntwo,much\n"},
    ),
    Case("without-odd", "prepare {p}/a.csv {p}/c --task risk --without idd", 2, "prepare.column", "'id'", {"a.csv": b"id,label\n1,0\n"}),
    Case("tail-of-tags", "prepare {p}/a.jsonl {p}/c --task tag --split tail", 2, "prepare.tail_rows", "tag", TAGGED),
    Case("tagger-of-texts", "train {k}/table {p}/m --model crf", 2, "settings.model", "classify"),
    Case("strength-unused", "train {k}/table {p}/m --model majority --strength 2", 2, "settings.unused", "strength"),
    Case("results-none", "results {p}", 3, "results.none", "zhixing evaluate"),
    Case("results-exist", "results {k} --out {p}/a.md", 2, "output.exists", "--force", {"a.md": b"mine"}),
    # transcribe
    Case("hearer-is-writer", "transcribe {k}/ngram {p}/a.wav", 2, "transcribe.task", "language", {"a.wav": b"x"}),
    Case("sound-missing", "transcribe {k}/ngram {p}/no.wav", 3, "file.missing", "no.wav"),
    Case("pipe-whole", "transcribe {k}/ngram -", 2, "transcribe.pipe", "--follow"),
    Case("rate-of-file", "transcribe {k}/ngram {p}/a.wav --rate 8000", 2, "transcribe.rate", "8000", {"a.wav": b"x"}),
    Case("piece", "transcribe {k}/ngram {p}/a.wav --follow --piece 0", 2, "usage.seconds", "--piece", {"a.wav": b"x"}),
    Case("patience", "transcribe {k}/ngram {p}/a.wav --follow --patience nan", 2, "usage.seconds", "nan", {"a.wav": b"x"}),
    Case("piece-alone", "transcribe {k}/ngram {p}/a.wav --piece 1", 2, "transcribe.alone", "--follow", {"a.wav": b"x"}),
    Case("weight-alone", "transcribe {k}/ngram {p}/a.wav --weight 1", 2, "transcribe.alone", "--lm", {"a.wav": b"x"}),
    Case("weight-nan", "transcribe {k}/ngram {p}/a.wav --lm {k}/ngram --weight nan", 2, "settings.range", "nan", {"a.wav": b"x"}),
    Case("rate-none", "transcribe {k}/ngram - --follow --rate 0", 2, "transcribe.raw_rate", "4000"),
    Case("beam-none", "transcribe {k}/ngram {p}/a.wav --beam 0", 2, "settings.range", "beam", {"a.wav": b"x"}),
    Case("transcribe-a-table", "prepare {k}/rows.csv {p}/c --task transcribe", 2, "prepare.no_field", "audio"),
    # generate
    Case("writer-is-classifier", "generate {k}/classifier", 2, "usage.not_language", "zhixing predict"),
    Case("temperature", "generate {k}/ngram --temperature=-1", 2, "sampling.range", "temperature"),
    Case("top-p", "generate {k}/ngram --top-p 2", 2, "sampling.range", "top_p"),
    Case("max-tokens", "generate {k}/ngram --max-tokens 0", 2, "sampling.range", "max_tokens"),
    Case("count", "generate {k}/ngram --count 0", 2, "usage.count", "0"),
    Case("prompts-missing", "generate {k}/ngram --prompts {p}/no.txt", 3, "file.missing", "no.txt"),
    Case("prompts-folder", "generate {k}/ngram --prompts {p}", 3, "file.missing"),
    Case("prompts-empty", "generate {k}/ngram --prompts {p}/a.txt", 3, "file.no_prompts", "a.txt", {"a.txt": b"\n\n"}),
    Case("prompts-binary", "generate {k}/ngram --prompts {p}/a.txt", 3, "file.not_utf8", "a.txt", {"a.txt": b"a\xff"}),
    Case("pack-nothing", "pack {k}/ngram {p}/no.txt {p}/out", 3, "file.missing", "no.txt"),
    Case("pack-folder", "pack {k}/ngram {k}/corpus {p}/out", 3, "file.missing", "corpus"),
    Case("pack-by-classifier", "pack {k}/classifier {k}/text.txt {p}/out", 2, "usage.not_language", "classify"),
    Case("pack-by-corpus", "pack {k}/corpus {k}/text.txt {p}/out", 2, "folder.wrong_kind", "model"),
    Case("pack-exists", "pack {k}/ngram {k}/text.txt {p}/a", 2, "output.exists", "--force", {"a": b"mine"}),
    Case("pack-over-folder", "pack {k}/ngram {k}/text.txt {p}/a --force", 2, "output.not_ours", "", {"a/b": b"mine"}),
    Case("pack-over-itself", "pack {k}/ngram {k}/text.txt {k}/text.txt --force", 2, "output.is_source", "text.txt"),
    Case("pack-into-model", "pack {k}/ngram {k}/text.txt {k}/ngram/a.zxp", 2, "output.inside", "a.zxp"),
    Case("unpack-text", "unpack {k}/ngram {k}/text.txt {p}/out", 3, "coding.not_packed", "MODEL FILE OUT"),
    Case("unpack-nothing", "unpack {k}/ngram {p}/a.zxp {p}/new/out", 3, "file.missing", "a.zxp"),
    Case("unpack-other-model", "unpack {k}/neural {p}/a.zxp {p}/out", 2, "coding.other_model", "a.zxp", setup=packed()),
    Case("unpack-exists", "unpack {k}/ngram {p}/a.zxp {p}/a.txt", 2, "output.exists", "--force", setup=packed()),
    Case("unpack-over-itself", "unpack {k}/ngram {p}/a.zxp {p}/a.zxp --force", 2, "output.is_source", "a.zxp", setup=packed()),
    Case("unpack-cut", "unpack {k}/ngram {p}/a.zxp {p}/out", 3, "coding.damaged", "cut off", setup=packed(lambda each: each[:-1])),
    Case("unpack-longer", "unpack {k}/ngram {p}/a.zxp {p}/out", 3, "coding.damaged", "a.zxp", setup=packed(lambda each: each + b"a")),
    Case("unpack-empty", "unpack {k}/ngram {p}/a.zxp {p}/out", 3, "coding.not_packed", "a.zxp", {"a.zxp": b""}),
    Case(
        "unpack-flipped", "unpack {k}/ngram {p}/a.zxp {p}/out --force", 3, "coding.damaged", "a.zxp",
        setup=packed(lambda each: each[:99] + bytes([each[99] ^ 4]) + each[100:]),
    ),
    Case(
        "unpack-newer", "unpack {k}/ngram {p}/a.zxp {p}/out", 3, "coding.newer", "version 9",
        setup=packed(lambda each: each[:4] + b"\x09" + each[5:]),
    ),
    Case("nearest-of-language", "nearest {k}/ngram boat", 2, "embed.no_vectors", "--model skipgram"),
    Case("nearest-of-classifier", "nearest {k}/classifier boat", 2, "embed.no_vectors", "classify"),
    Case("nearest-unknown", "nearest {k}/vectors quite", 2, "embed.unknown_word", "'quiet'"),
    Case("nearest-nothing", "nearest {k}/vectors +", 2, "embed.expression", "king - man + woman"),
    Case("nearest-itself", "nearest {k}/vectors 'boat - boat'", 2, "embed.nothing", "'boat - boat' leaves nothing"),
    Case("nearest-sign", "nearest {k}/vectors boat river+", 2, "embed.expression", "'river+'"),
    Case("nearest-no-word", "nearest {k}/vectors", 2, "usage.word_missing", "WORDS"),
    Case("nearest-count", "nearest {k}/vectors boat --count 0", 2, "usage.count", "0"),
    Case("vectors-write", "generate {k}/vectors", 2, "usage.not_language", "embed"),
    Case("vectors-of-letters", "train {k}/corpus {p}/out --model skipgram --tokenizer bpe --vocabulary 261", 3, "embed.no_words", "bpe"),
    Case("vectors-window", "train {k}/corpus {p}/out --model skipgram --window 40", 2, "train.wide_window", "32"),
    Case("vectors-as-classifier", "predict {k}/vectors {k}/rows.csv {p}/out.csv", 2, "predict.task", "zhixing nearest"),
    # serve
    Case("serve-nothing", "serve", 2, "usage.word_missing", "MODELS"),
    Case("serve-flag", "serve {k}/ngram --prot 1", 2, "usage.flag_unknown", "'--port'"),
    Case("serve-missing", "serve {k}/ngram {p}/none", 2, "folder.not_found", "none"),
    Case("serve-corpus", "serve {k}/corpus", 2, "folder.wrong_kind", "corpus"),
    Case(
        "serve-damaged", "serve {p}/copy", 3, "folder.file_damaged", "model.safetensors",
        setup=copy("ngram", lambda folder: flip(folder / "model.safetensors")),
    ),
    Case("serve-twice", "serve {k}/ngram {k}/ngram", 2, "serve.two_names", "ngram"),
    Case("serve-port", "serve {k}/ngram --port 70000", 2, "serve.port", "70000"),
    Case("serve-open", "serve {k}/ngram --host 0.0.0.0", 2, "serve.no_key", "ZHIXING_KEY"),
    Case("serve-rows", "serve {k}/ngram --rows 0", 2, "serve.limit_setting", "--rows"),
    Case("serve-threads", "serve {k}/ngram --threads 0", 2, "serve.limit_setting", "--threads"),
    Case("serve-drain", "serve {k}/ngram --drain-seconds nan", 2, "serve.limit_setting", "--drain-seconds"),
    Case("serve-origin", "serve {k}/ngram --allow-origin *", 2, "serve.allow_origin", "*"),
    Case("serve-key-missing", "serve {k}/ngram --key-file {p}/key", 3, "file.missing", "key"),
    Case("serve-key-open", "serve {k}/ngram --key-file {p}/key", 3, "serve.key_readable", "chmod 600", {"key": b"k" * 20}),
    Case(
        "serve-key-short", "serve {k}/ngram --key-file {p}/key", 2, "serve.key_form", "16",
        setup=lambda kit, place: (place / "key").touch(0o600),
    ),
    # compare
    Case("ladder-of-table", "compare {k}/table {p}/out", 2, "ladder.task", "--best"),
    Case("ladder-rung", "compare {k}/corpus {p}/out --models ngarm", 2, "ladder.rung", "'ngram'"),
    Case("ladder-nothing", "compare {k}/corpus {p}/out --models ,", 2, "ladder.rung"),
    Case("ladder-mixture", "compare {k}/corpus {p}/out --models ngram,mixture", 2, "ladder.mixture", "qwen3"),
    Case("ladder-budget", "compare {k}/corpus {p}/out --core-seconds nan", 2, "settings.range", "nan"),
    Case("ladder-size", "compare {k}/corpus {p}/out --models qwen3 --size huge", 2, "settings.choice", "huge"),
    Case("ladder-unjudged", "compare {k}/bare {p}/out --models ngram", 3, "data.empty_split", "test"),
    Case("ladder-exists", "compare {k}/corpus {k}/ngram --models ngram", 2, "output.exists", "--force"),
    Case("ladder-as-output", "compare {k}/corpus {k}/corpus --models ngram --force", 2, "output.is_source"),
    # show
    Case("show-foreign", "show {p}", 2, "folder.not_ours", "card.json"),
    Case(
        "show-newer", "show {p}/copy", 3, "folder.newer", "format 9",
        setup=copy("corpus", lambda folder: edit(folder / "manifest.json", f'"format": {FORMAT}', '"format": 9')),
    ),
]  # fmt: skip


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def attempt(case: Case, kit: Path, place: Path, say: Callable[[], tuple[str, str]], snapshot: Snapshot, patch: pytest.MonkeyPatch) -> None:
    """Make one mistake twice, in English for machines and in Chinese for people, and judge all that came of it."""
    for name, content in case.files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    if case.setup is not None:
        case.setup(kit, place)
    words = [word.format(k=kit, p=place) for word in shlex.split(case.words)]
    before = snapshot(kit, place)
    say()
    assert main([*words, "--json"]) == case.exit
    out, err = say()
    told = json.loads(err.splitlines()[-1])
    assert (told["code"], told["exit_code"]) == (case.code, case.exit)
    english = " ".join(told[part] for part in PARTS)
    assert case.said in english
    assert all(told[part] and not HAN.search(told[part]) for part in PARTS)
    if words[0] != "show":
        assert out == ""
    patch.setenv("ZHIXING_LANG", "zh")
    assert main(words) == case.exit
    chinese = say()[1].splitlines()[-3:]
    assert [line.partition("：")[0] for line in chinese] == ["出了什么问题", "应该是什么", "怎么办"]
    assert all(HAN.search(line.partition("：")[2]) for line in chinese)
    assert snapshot(kit, place) == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_is_told_and_leaves_nothing(
    case: Case, kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt(case, kit, tmp_path, capsys.readouterr, snapshot, monkeypatch)


def test_the_table_is_large_and_reaches_every_verb() -> None:
    assert len(CASES) >= 32 and len({case.name for case in CASES}) == len(CASES)
    assert {case.words.split()[0] for case in CASES} >= set(VERBS)


def test_the_harness_sees_what_is_wrong(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {
        "exit": Case("a", "show {p}/none", 3, "folder.not_found"),
        "code": Case("b", "show {p}/none", 2, "folder.not_ours"),
        "words": Case("c", "show {p}/none", 2, "folder.not_found", "bananas"),
        "no mistake at all": Case("d", "show {k}/corpus", 2, "folder.not_found"),
    }
    for case in wrong.values():
        with pytest.raises(AssertionError):
            attempt(case, kit, tmp_path, capsys.readouterr, snapshot, monkeypatch)
    right = Case("e", "show {p}/none", 2, "folder.not_found")
    attempt(right, kit, tmp_path, capsys.readouterr, snapshot, monkeypatch)

    def leave() -> tuple[str, str]:
        (tmp_path / ".hidden.tmp").write_text("left")
        return capsys.readouterr()

    with pytest.raises(AssertionError):
        attempt(right, kit, tmp_path, leave, snapshot, monkeypatch)


@pytest.mark.parametrize("name", ["ngram", "neural", "classifier", "corpus"])
def test_a_flipped_bit_in_any_file_is_refused_by_name(name: str, kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy(name)(kit, tmp_path)
    folder = tmp_path / "copy"
    names = [each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file() and each.parent.name != "evaluation"]
    names = [each for each in names if not each.startswith("checkpoints/")]
    assert {"card.json", "manifest.json"} < set(names) and len(names) >= 6
    for number, each in enumerate(sorted(names)):
        whole = (folder / each).read_bytes()
        flip(folder / each, number % 8)
        capsys.readouterr()
        assert main(["show", str(folder)]) == 3, each
        if each != "manifest.json":  # there a flipped hash or name speaks of the file that it no longer fits
            assert each in capsys.readouterr().err
        (folder / each).write_bytes(whole)
    assert main(["show", str(folder)]) == 0
