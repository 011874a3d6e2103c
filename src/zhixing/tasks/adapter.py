"""Adapters: a folder that holds only what a LoRA training learnt, beside a base that stays where it is.

An Adapter folder is a Model folder without weights of its own: `adapter_config.json` and `adapter_model.safetensors` are peft's, a head, if
the task has one, lies in `head.safetensors`, and the card names the base and the hash of its manifest. Opened, it is the base with what was
learnt beside its maps; opened with others of the same base, their weights are one memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhixing.core.errors import DataError
from zhixing.core.files import read_json, sha256, write_bytes, write_json
from zhixing.core.folder import CARD, MANIFEST, Folder, open_folder

if TYPE_CHECKING:
    from torch import nn

ADAPTER, ADAPTER_CONFIG, HEAD = "adapter_model.safetensors", "adapter_config.json", "head.safetensors"
KIND = "adapter"
# What peft's config may ask for that would compute otherwise.
FIXED: dict[str, Any] = {"peft_type": "LORA", "bias": "none", "use_dora": False}
EMPTY = ("modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "target_parameters", "lora_bias",
         "exclude_modules", "layer_replication", "trainable_token_indices", "alora_invocation_tokens", "arrow_config", "loftq_config",
         "use_qalora", "corda_config")  # fmt: skip
BEGINNINGS = (True, False, "gaussian", "eva")  # of A and B; others change the base as well
MOST_ALPHA = 1e6
MOST_RANK = 4096


def is_adapted(model: Any) -> bool:
    """Say whether something was attached to a model's maps; a model of arrays has none."""
    if not hasattr(model, "modules"):
        return False
    from zhixing.layers import lora

    return bool(lora.found(model))


def base_for(path: str | Path, out: str | Path) -> dict[str, str]:
    """Say for an adapter's card where its base lies, also as seen from the adapter, and which it is."""
    path, out = Path(path).absolute(), Path(out).absolute()
    return {"path": str(path), "beside": os.path.relpath(path, out), "manifest_sha256": sha256(path / MANIFEST)}


def _places(folder: Path, card: Mapping[str, Any]) -> tuple[list[Path], str]:
    """Give where an adapter's base may lie, and the hash of its manifest."""
    told = card.get("base")
    told = told if isinstance(told, dict) else {}
    places = [Path(str(told["path"])), folder / str(told.get("beside"))] if told.get("path") else []
    return places, str(told.get("manifest_sha256"))


def sources(path: str | Path) -> list[Path]:
    """List what a folder is made of, which nothing may replace that is made of it: itself and, of an adapter, where its base may lie."""
    path = Path(path)
    card = read_json(path / CARD) if (path / CARD).is_file() else {}
    return [path, *(_places(path, card)[0] if isinstance(card, dict) and card.get("kind") == KIND else ())]


def base_of(folder: Folder) -> Folder:
    """Open an adapter's base, where it lay or beside the adapter. Raises DataError where there is none, or another model."""
    places, wanted = _places(folder.path, folder.card)
    there = [each for each in places if (each / MANIFEST).is_file()]
    same = [each for each in there if sha256(each / MANIFEST) == wanted]
    problem = None
    for place in same:
        try:
            found = open_folder(place, "model")
        except DataError as damage:  # the other may be whole
            problem = damage
            continue
        if found.kind == "model":
            return found
    if problem is not None:
        raise problem
    if there:
        raise DataError("adapter.other_base", path=str(folder.path), base=str(there[0]))
    raise DataError("adapter.no_base", path=str(folder.path), base=str(places[0]) if places else "-")


def read_config(path: Path) -> tuple[int, float, list[str] | None]:
    """Read peft's adapter_config.json: rank, alpha, and the names of the maps that are adapted (None: all linear ones).

    What is divided by the root of the rank in place of the rank (`use_rslora`; Kalajdzievski 2023, arXiv:2312.03732) is given as the alpha
    that means the same.

    Raises DataError for one that asks for another sort of adapter.
    """
    try:
        given = read_json(path)
    except RecursionError:
        raise DataError("file.not_json", path=str(path), problem="too deep") from None
    except OSError as problem:  # a file of which only the name is plain
        raise DataError("import.unreadable", path=str(path), problem=problem.strerror or str(problem)) from None
    if not isinstance(given, dict):
        raise DataError("file.not_json", path=str(path), problem="no object")
    for name, value in FIXED.items():
        if given.get(name, value) != value:
            raise DataError("adapter.config", path=str(path), name=name, value=str(given[name])[:80], wanted=value)
    for name in EMPTY:
        value = given.get(name)
        if value or type(value) is int:  # the layer 0
            raise DataError("adapter.config", path=str(path), name=name, value=str(value)[:80], wanted="-")
    rank, alpha, targets = given.get("r"), given.get("lora_alpha"), given.get("target_modules")
    if type(rank) is not int or not 0 < rank <= MOST_RANK:
        raise DataError("adapter.config", path=str(path), name="r", value=str(rank)[:80], wanted=f"1 .. {MOST_RANK}")
    if (rooted := given.get("use_rslora", False)) not in (False, True):
        raise DataError("adapter.config", path=str(path), name="use_rslora", value=str(rooted)[:80], wanted="true | false")
    root = math.sqrt(rank) if rooted else 1.0
    most = MOST_ALPHA / root
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= most * (1 + 1e-9):  # what was rounded once
        raise DataError("adapter.config", path=str(path), name="lora_alpha", value=str(alpha)[:80], wanted=f"a number up to {most:g}")
    alpha *= root
    if (begun := given.get("init_lora_weights", True)) not in BEGINNINGS:
        raise DataError("adapter.config", path=str(path), name="init_lora_weights", value=str(begun)[:80], wanted="true | gaussian | eva")
    if targets == "all-linear":
        return rank, float(alpha), None
    if not isinstance(targets, list) or not all(isinstance(each, str) for each in targets):
        raise DataError("adapter.config", path=str(path), name="target_modules", value=str(targets)[:80], wanted="a list of names")
    return rank, float(alpha), targets


def write(path: Path, model: nn.Module, base: str = "") -> None:
    """Write an adapted model's adapter, and its head where it has one, into a folder that is not sealed yet."""
    from safetensors.torch import save

    from zhixing.layers import lora
    from zhixing.layers.kinds import Headed

    body = model.body if isinstance(model, Headed) else model
    maps = lora.found(body)
    first = next(iter(maps.values()))
    rank = first.lora_A.weight.shape[0]
    about = {**FIXED, "use_rslora": False, "r": rank, "lora_alpha": first.scale * rank, "target_modules": lora.endings(body)}
    about |= {"lora_dropout": 0.0, "fan_in_fan_out": any(hasattr(each, "pieces") for each in maps.values()), "inference_mode": True}
    about |= {"task_type": "CAUSAL_LM" if "causal" in body.kinds and body is model else None, "base_model_name_or_path": base}
    alone = isinstance(model, Headed) and not any(True for _ in model.head.parameters())  # of its vectors: peft's base is the body itself
    own = lora.tensors(body)
    if alone and len(starts := {name.split(".")[0] for name in maps}) == 1:
        about["task_type"] = "FEATURE_EXTRACTION"
        own = {name.replace(f"{lora.PEFT}{min(starts)}.", lora.PEFT, 1): value for name, value in own.items()}
    write_json(path / ADAPTER_CONFIG, about)
    found = {name: value.float().contiguous().cpu() for name, value in own.items()}
    write_bytes(path / ADAPTER, save(dict(sorted(found.items())), metadata={"format": "pt"}))
    if isinstance(model, Headed):
        head = {name: value.detach().contiguous().cpu() for name, value in model.head.state_dict().items()}
        write_bytes(path / HEAD, save(dict(sorted(head.items())), metadata={"format": "pt"}))


def attach(body: nn.Module, folder: Path) -> None:
    """Put an adapter beside the maps of its base; its names may lack what all of the base's begin with.

    Raises DataError where it does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from zhixing.layers import lora

    rank, alpha, targets = read_config(folder / ADAPTER_CONFIG)
    try:
        given = load_file(folder / ADAPTER)
    except (SafetensorError, OSError, ValueError, KeyError) as problem:
        raise DataError("import.safetensors", path=str(folder / ADAPTER), problem=str(problem)[:200]) from None
    for name, value in given.items():
        if not value.is_floating_point():
            form = str(value.dtype).removeprefix("torch.")
            raise DataError("import.quantization", path=str(folder / ADAPTER), tensor=name, form=form, among=["F32", "F16", "BF16"])
        if not bool(value.isfinite().all()):
            raise DataError("import.number", path=str(folder / ADAPTER), tensor=name)
    lora.attach(body, rank, alpha, targets)
    start = {name.split(".")[0] + "." for name in lora.found(body)}
    if len(start) == 1 and not any(name.startswith(lora.PEFT + min(start)) for name in given):
        given = {name.replace(lora.PEFT, lora.PEFT + min(start), 1): value for name, value in given.items()}
    lora.load(body, given, str(folder / ADAPTER))
