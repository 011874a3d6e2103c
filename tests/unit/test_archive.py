"""The verbs pack and unpack: a file goes in and out again, sizes stand beside the usual compressors', a stop leaves nothing."""

from __future__ import annotations

import json
import lzma
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from zhixing.cli.app import main
from zhixing.core.folder import create
from zhixing.decoding import coding
from zhixing.models.ngram import NGram
from zhixing.tasks import archive, artefact
from zhixing.tasks.language import Language
from zhixing.tokens.tokenizer import train_characters

WORDS = "the old boat drifts along a quiet river while children count stones and evening comes 船 河 石 头 月".split()
TEXT = "".join(" ".join(random.Random(n).choices(WORDS, k=8)) + "\n" for n in range(90))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_characters([TEXT])
    counted = NGram.count(np.concatenate([[1], tokenizer.encode(TEXT), [1]]), tokenizer.vocabulary_size, 4, 1)
    place = tmp_path_factory.mktemp("models") / "counted"
    with create(place, "model", {"task": "language"}) as folder:
        artefact.write(folder, Language(), counted, tokenizer)
    return place


def test_a_file_comes_back(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, small, again = tmp_path / "a.txt", tmp_path / "a.zxp", tmp_path / "new" / "b.txt"
    source.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode() + b"\xff\x00")
    assert main(["pack", str(model), str(source), str(small), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes_in"] == source.stat().st_size and told["bytes_out"] == small.stat().st_size
    assert told["bits_per_byte"] == 8 * told["bytes_out"] / told["bytes_in"]
    assert main(["unpack", str(model), str(small), str(again), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes_out"] == told["bytes_in"]
    assert again.read_bytes() == source.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.txt", "a.zxp", "new"]


def test_sizes_stand_side_by_side(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "a.txt").write_text(TEXT)
    for name in ("a.txt", "empty"):
        assert main(["pack", str(model), str(tmp_path / name), str(tmp_path / "out"), "--force"]) == 0
        said = capsys.readouterr()
        sizes = {}
        for label in ("the file", "packed by the model", "xz -9e", "zstd -19"):
            (line,) = [each for each in said.out.splitlines() if each.startswith(label)]
            sizes[label] = int(line.removeprefix(label).split()[0].replace(",", ""))
        assert sizes["packed by the model"] == (tmp_path / "out").stat().st_size
        assert name == "empty" or sizes["packed by the model"] < min(sizes["xz -9e"], sizes["zstd -19"]) < sizes["the file"]
        assert "zhixing unpack" in said.err.splitlines()[-1]
    assert main(["unpack", str(model), str(tmp_path / "out"), str(tmp_path / "empty"), "--force"]) == 0
    assert (tmp_path / "empty").read_bytes() == b""


def test_xz_is_as_small_as_with_its_own_dictionary() -> None:
    for data in (b"", b"a", TEXT.encode()):
        assert archive.rivals(data)["xz_9e"] == len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def test_unpacking_uses_the_threads_of_packing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    threads, used = torch.get_num_threads(), []
    monkeypatch.setattr(coding, "arithmetic", lambda: ("here", 3))
    archive.pack_file(model, tmp_path / "a.txt", tmp_path / "a.zxp")
    monkeypatch.setattr(coding, "arithmetic", lambda: ("here", used.append(torch.get_num_threads()) or used[-1]))
    told: list[str] = []
    archive.unpack_file(model, tmp_path / "a.zxp", tmp_path / "b.txt", tell=lambda code, **values: told.append(code))
    assert used == [3] and torch.get_num_threads() == threads
    assert "pack.other_machine" not in told


@pytest.mark.parametrize("verb", ["pack", "unpack"])
def test_a_stop_leaves_nothing(verb: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    assert main(["pack", str(model), str(tmp_path / "a.txt"), str(tmp_path / "a.zxp")]) == 0
    before = sorted(tmp_path.iterdir())
    shares = coding.shares

    def interrupt(*given: np.ndarray) -> np.ndarray:
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(coding, "shares", shares)
        return shares(*given)

    monkeypatch.setattr(coding, "shares", interrupt)
    source = {"pack": "a.txt", "unpack": "a.zxp"}[verb]
    assert main([verb, str(model), str(tmp_path / source), str(tmp_path / "new" / "out")]) == 143
    assert sorted(tmp_path.iterdir()) == before
