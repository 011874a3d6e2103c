"""A hundred and more hostile model folders: what somebody could put where a model is expected, so that opening it does harm."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf_maker
import numpy as np
import pieces_maker
from safetensors.numpy import load_file, save_file

Spoil = Callable[[Path], None]
READ = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "sentence_bert_config.json",
)
ELSEWHERE = (
    "pytorch_model.bin",
    "model.pt",
    "model.pth",
    "weights.pkl",
    "model.ckpt",
    "training_args.bin",
    "pytorch_model-00001-of-00002.bin",
)
SIGN = "HOSTILE-CODE-RAN"  # the name of a file that code of a folder would leave


class Evil:
    """What, unpickled, runs a command."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.place / SIGN}",)


def pickled(place: Path) -> bytes:
    return pickle.dumps(Evil(place))


def changed(name: str, **values: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))

    return spoil


def written(name: str, content: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content) and None


def header(value: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """Write a safetensors file by hand."""
    raw = json.dumps(value).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def code(folder: Path) -> None:
    """Put code beside the weights, which a config asks to be run."""
    body = f"import os\nos.system('touch {folder.parent / SIGN}')\nclass Evil: pass\n"
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py", "__init__.py", "sitecustomize.py"):
        (folder / name).write_text(body)


def asks_for_code(kind: str) -> Spoil:
    def spoil(folder: Path) -> None:
        code(folder)
        names = {
            "AutoConfig": "configuration_evil.Evil",
            "AutoModel": "modeling_evil.Evil",
            "AutoTokenizer": ["tokenization_evil.Evil", None],
        }
        changed("config.json", auto_map=names, model_type=kind, architectures=["modeling_evil.Evil"])(folder)

    return spoil


def linked(name: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def piped(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def parts(value: Any) -> Spoil:
    """List the files of the weights as told."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(value))

    return spoil


def tensors(change: Callable[[dict[str, np.ndarray]], None]) -> Spoil:
    def spoil(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors")

    return spoil


def worded(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        value = json.loads((folder / "tokenizer.json").read_text())
        change(value)
        (folder / "tokenizer.json").write_text(json.dumps(value))

    return spoil


def folders() -> dict[str, Spoil]:
    """Name everything that is done to a sound folder of an encoder."""
    found: dict[str, Spoil] = {}
    for name in READ:
        found[f"a pickle as {name}"] = lambda folder, name=name: (folder / name).write_bytes(pickled(folder.parent)) and None
        for target in ("/etc/passwd", "/dev/zero", "/proc/self/mem", "."):
            found[f"{name} is a link to {target}"] = linked(name, target)
        found[f"{name} is a pipe"] = piped(name)
        if name != "model.safetensors":
            found[f"{name} is nested deeply"] = written(name, b"[" * 200_000 + b"]" * 200_000)
            found[f"{name} is no object"] = written(name, b"[1, 2]")
            found[f"{name} is of half a character"] = written(name, b'{"a": "\xff\xfe"}')
    for name in ELSEWHERE:

        def only(folder: Path, name: str = name) -> None:
            (folder / "model.safetensors").unlink()
            (folder / name).write_bytes(pickled(folder.parent))

        found[f"weights in {name} alone"] = only
    for kind in ("evil", "custom_llama", "../bert", "bert\0", "deepseek_v3", "__main__"):
        found[f"code asked for by {kind!r}"] = asks_for_code(kind)
    for name, value in {
        "hidden_size": 1 << 40, "num_hidden_layers": 10**9, "vocab_size": 10**12, "max_position_embeddings": 1 << 45,
        "num_attention_heads": 0,
        "intermediate_size": -1, "layer_norm_eps": 1e400, "type_vocab_size": 1 << 31, "hidden_act": "__import__('os').system('x')",
        "quantization_config": {"quant_method": "evil"}, "num_attention_headz": 2,
    }.items():  # fmt: skip
        found[f"config.json: {name} = {value!r}"[:80]] = changed("config.json", **{name: value})
    for told, value in {
        "outside": {"weight_map": {"a": "../other.safetensors"}},
        "absolute": {"weight_map": {"a": "/etc/passwd"}},
        "a pickle": {"weight_map": {"a": "pytorch_model.bin"}},
        "itself": {"weight_map": {"a": "model.safetensors.index.json"}},
        "missing": {"weight_map": {"a": "model-00001.safetensors"}},
        "numbers": {"weight_map": {"a": 3}},
        "nothing": {"weight_map": {}},
        "no map": [],
    }.items():
        found[f"parts: {told}"] = parts(value)
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for told, content in {
        "a header of 2^63 bytes": struct.pack("<Q", 1 << 63) + b"{}",
        "a header longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
        "a header cut off": header({"a": one}, b"\0" * 8)[:20],
        "offsets beyond the file": header({"a": {**one, "data_offsets": [0, 1 << 50]}}, b"\0" * 8),
        "offsets before the start": header({"a": {**one, "data_offsets": [8, 0]}}, b"\0" * 8),
        "a shape that overflows": header({"a": {**one, "shape": [1 << 62, 1 << 62]}}, b"\0" * 8),
        "a shape below zero": header({"a": {**one, "shape": [-2]}}, b"\0" * 8),
        "tensors on top of each other": header({"a": one, "b": one}, b"\0" * 8),
        "a type of nobody": header({"a": {**one, "dtype": "EVIL"}}, b"\0" * 8),
        "a header that is a list": header([], b""),
        "a header nested deeply": struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000,
        "nothing": b"",
        "no tensors": header({}),
        "zeros": b"\0" * 4096,
    }.items():
        found[f"safetensors: {told}"] = written("model.safetensors", content)
    table = "embeddings.word_embeddings.weight"
    found["not a number in the weights"] = tensors(lambda held: held.__setitem__(table, held[table] * np.nan))
    found["a table of another size"] = tensors(lambda held: held.__setitem__(table, held[table][:5].copy()))
    found["a norm of another size"] = tensors(
        lambda held: held.__setitem__("embeddings.LayerNorm.weight", held["embeddings.LayerNorm.weight"][:3].copy())
    )
    found["whole numbers as weights"] = tensors(lambda held: held.__setitem__(table, held[table].astype(np.int64)))
    found["a tensor too many"] = tensors(lambda held: held.__setitem__("encoder.evil", np.zeros(3, np.float32)))
    more = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    found["tokenizer: an id below zero"] = worded(lambda value: value["added_tokens"].append({**more, "content": "<x>", "id": -1}))
    found["tokenizer: an id of 2^40"] = worded(lambda value: value["added_tokens"].append({**more, "content": "<x>", "id": 1 << 40}))
    found["tokenizer: two names, one id"] = worded(lambda value: value["model"]["vocab"].__setitem__("evil", 0))
    found["tokenizer: an empty name"] = worded(lambda value: value["added_tokens"].append({**more, "content": "", "id": 5}))
    found["tokenizer: another sort"] = worded(
        lambda value: value.__setitem__("model", {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0})
    )
    found["tokenizer: no unknown token"] = worded(lambda value: value["model"].__setitem__("unk_token", "[NO]"))
    found["tokenizer: words without a bound"] = worded(lambda value: value["model"].__setitem__("max_input_chars_per_word", 1 << 40))
    found["tokenizer: a split that never ends"] = worded(
        lambda value: value.__setitem__(
            "pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Isolated", "invert": False}
        )
    )
    found["tokenizer: no control tokens"] = worded(
        lambda value: (value.__setitem__("added_tokens", []), value.__setitem__("post_processor", None))
    )
    found["pooling that is none"] = pooled
    return found


def pieces() -> dict[str, Spoil]:
    """Name everything that is done to a sound folder of a decoder with SentencePiece's BPE."""

    def replaced(value: dict[str, Any]) -> Spoil:
        return worded(lambda held: (held.clear(), held.update(value)))

    def normalized(normalizer: Any, **change: Any) -> Spoil:
        return replaced({**pieces_maker.unigram(**change), "normalizer": normalizer})

    def mapped(raw: bytes) -> Spoil:
        return normalized({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()})

    sound = base64.b64decode(pieces_maker.table(pieces_maker.TABLE))
    size = int.from_bytes(sound[:4], "little")
    vocabulary = pieces_maker.unigram()["model"]["vocab"]
    slow = {"type": "Replace", "pattern": {"Regex": "(a|a)*b"}, "content": ""}
    long = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 60}
    return {
        "pieces: a table of nothing": mapped(b""),
        "pieces: a table of 2^32 bytes": mapped(b"\xff" * 4 + sound[4:]),
        "pieces: a table whose walks leave it": mapped(sound[:4] + b"\xff\xff\xff\x7f" * (size // 4) + sound[4 + size :]),
        "pieces: a table without its words": mapped(sound[: 4 + size]),
        "pieces: a table of half characters": mapped(sound + b"\xff\xfe"),
        "pieces: a table that is a number": normalized({"type": "Precompiled", "precompiled_charsmap": 1 << 40}),
        "pieces: a table that writes a book": normalized(
            {"type": "Precompiled", "precompiled_charsmap": pieces_maker.table({"a": "a" * 100_000})}
        ),
        "pieces: letters that become many": normalized({"type": "Sequence", "normalizers": [long, long]}),
        "pieces: an expression that never ends": normalized(slow),
        "pieces: the same piece twice": normalized(None, vocab=[*vocabulary, ["a", 0.0], ["a", 0.0]]),
        "pieces: a piece of no letters": normalized(None, vocab=[*vocabulary, ["", 0.0]]),
        "pieces: a piece of a million letters": normalized(None, vocab=[*vocabulary, ["a" * 1_000_000, 0.0]]),
        "pieces: scores without end": normalized(None, vocab=[[name, float("inf")] for name, _ in vocabulary]),
        "pieces: scores that are none": normalized(None, vocab=[[name, None] for name, _ in vocabulary]),
        "pieces: no unknown piece": normalized(None, unk_id=1 << 40),
        "pieces: one byte too few": worded(lambda value: value["model"]["vocab"].pop("<0x41>")),
        "pieces: merges by chance": worded(lambda value: value["model"].__setitem__("dropout", 0.5)),
        "pieces: merges of nothing": worded(lambda value: value["model"].__setitem__("merges", [["</", "evil"]])),
        "pieces: merges that are numbers": worded(lambda value: value["model"].__setitem__("merges", [1, 2])),
    }


def packed() -> dict[str, Spoil]:
    """Name everything that is done to a sound folder of a Whisper in CTranslate2's layout."""
    found: dict[str, Spoil] = {
        "packed: a pickle as model.bin": lambda folder: (folder / "model.bin").write_bytes(pickled(folder.parent)) and None
    }
    for target in ("/etc/passwd", "/dev/zero", "/proc/self/mem", "."):
        found[f"packed: model.bin is a link to {target}"] = linked("model.bin", target)
    found["packed: model.bin is a pipe"] = piped("model.bin")

    def bytes_at(place: int, content: bytes) -> Spoil:
        def spoil(folder: Path) -> None:
            whole = (folder / "model.bin").read_bytes()
            (folder / "model.bin").write_bytes(whole[:place] + content + whole[place + len(content) :])

        return spoil

    start = 4 + 2 + len("WhisperSpec") + 1
    found["packed: four billion arrays"] = bytes_at(start + 4, b"\xff" * 4)
    found["packed: a name of 65,535 bytes"] = bytes_at(start + 8, b"\xff\xff")
    found["packed: half a name"] = bytes_at(start + 10, b"\xff\xfe")
    found["packed: control tokens that are none"] = written("tokenizer.json", b"{}")
    found["packed: settings that are no ids"] = changed("config.json", suppress_ids=[-1, 1 << 40])
    found["packed: settings of another sort"] = changed("config.json", suppress_ids={"__reduce__": "os.system"})
    return found


def adapters() -> dict[str, Spoil]:
    """Name everything that is done to a sound adapter."""
    found: dict[str, Spoil] = {}
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        found[f"adapter: a pickle as {name}"] = lambda folder, name=name: (folder / name).write_bytes(pickled(folder.parent)) and None
        for target in ("/etc/passwd", "/dev/zero", "/proc/self/mem", "."):
            found[f"adapter: {name} is a link to {target}"] = linked(name, target)
        found[f"adapter: {name} is a pipe"] = piped(name)
    found["adapter: nested deeply"] = written("adapter_config.json", b"[" * 200_000 + b"]" * 200_000)
    found["adapter: a header of 2 to the power of 60"] = written("adapter_model.safetensors", header({}, b"", 1 << 60))
    found["adapter: a rank without end"] = changed("adapter_config.json", r=1 << 40)
    found["adapter: code of its own"] = changed("adapter_config.json", peft_type="LORA", modules_to_save=["__import__('os')"])
    found["adapter: a bin beside no safetensors"] = lambda folder: (
        (folder / "adapter_model.bin").write_bytes(pickled(folder.parent)) and (folder / "adapter_model.safetensors").unlink()
    )
    return found


def pooled(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_evil": True}))


def files() -> Iterator[tuple[str, bytes]]:
    """Give hostile GGUF files, made of a sound one."""
    place = Path("sound.gguf").resolve()
    sound = gguf_maker.write(place, *gguf_maker.llama()).read_bytes()
    place.unlink()
    settings, tensors = gguf_maker.llama()
    tokens, sorts, scores = pieces_maker.listed()
    tokens, sorts, scores = tokens[:262], sorts[:262], scores[:262]  # as many as the model has
    scored = {"model": "llama", "tokens": tokens, "token_type": sorts, "scores": scores}
    for name, change in {
        "no scores": {"scores": "none"},
        "too few scores": {"scores": scores[:9]},
        "scores that are no numbers": {"scores": [float("nan")] * len(scores)},
        "a token at two places": {"tokens": [*tokens[:-1], "<s>"]},
        "a token of a million letters": {"tokens": [*tokens[:-1], "a" * 1_000_000]},
        "no bytes": {"tokens": [f"a{place}" for place in range(len(tokens))]},
        "sorts that are text": {"token_type": ["1"] * len(tokens)},
    }.items():
        told = {**settings, **{f"tokenizer.ggml.{key}": value for key, value in {**scored, **change}.items()}}
        yield f"gguf: {name}", gguf_maker.write(place, told, tensors).read_bytes()
        place.unlink()
    yield "gguf: cut in half", sound[: len(sound) // 2]
    yield "gguf: cut in its settings", sound[:200]
    yield "gguf: of version 99", sound[:4] + struct.pack("<I", 99) + sound[8:]
    yield "gguf: of 2^60 tensors", sound[:8] + struct.pack("<Q", 1 << 60) + sound[16:]
    yield "gguf: of 2^60 settings", sound[:16] + struct.pack("<Q", 1 << 60) + sound[24:]
    yield "gguf: a name of 2^60 letters", sound[:24] + struct.pack("<Q", 1 << 60) + sound[32:]
    yield "gguf: a pickle", pickled(Path("."))
    yield "gguf: nothing", b""
    yield "gguf: its sign alone", b"GGUF"


def spoilt(sound: Path, place: Path, spoil: Spoil) -> Path:
    """Copy a sound folder and do to it what is told."""
    folder = place / "folder"
    shutil.copytree(sound, folder)
    spoil(folder)
    return folder
