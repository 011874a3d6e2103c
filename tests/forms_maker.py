"""A Model folder of every task and family, of random weights: nothing is trained, so that all of them can be tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zhixing.core.folder import seal
from zhixing.layers.kinds import Headed
from zhixing.models import catalog
from zhixing.tasks import artefact
from zhixing.tasks.classify import Classify
from zhixing.tasks.embed import Embed
from zhixing.tasks.grade import Grade
from zhixing.tasks.language import Language
from zhixing.tasks.many import Many
from zhixing.tasks.masked import MaskedLanguage
from zhixing.tasks.match import Match
from zhixing.tasks.moderate import Moderate
from zhixing.tasks.multilabel import Multilabel
from zhixing.tasks.reason import Reason
from zhixing.tasks.recommend import Recommend
from zhixing.tasks.see import See
from zhixing.tasks.similar import Similar
from zhixing.tasks.tag import Tag
from zhixing.tasks.task import to_dict
from zhixing.tasks.trace import Trace
from zhixing.tasks.transcribe import Transcribe
from zhixing.tasks.translate import Translate
from zhixing.tokens.tokenizer import Tokenizer, train_bpe
from zhixing.training.settings import settle

TEXTS = ["Ada says 3: fine 好", "Bo says 4: awful 差", "with 王芳 in Chen by Dee .", "the old boat drifts along, 大江东去."] * 4
LABELS, TAGS = ("bad", "good"), ("B-person", "B-place", "I-person", "O")
FLAGS = {"size": "tiny", "width": 24, "layers": 1, "embedding": 16, "heads": 2, "groups": 1, "window": 48, "context": 3, "dropout": 0.0}
MADE: dict[str, Any] = {
    "language": Language(),
    "masked": MaskedLanguage(),
    "reason": Reason(longest=48, most=8),
    "classify": Classify(LABELS, 40, temperature=1.7, thresholds={"0.95": 0.8}, support={"0.95": 30}),
    "multilabel": Multilabel(LABELS, 40, cuts=(0.4, 0.6)),
    "tag": Tag(TAGS, 40),
    "moderate": Moderate(LABELS, TAGS, 40, temperature=0.6),
    "grade": Grade(0.0, 5.0, 1.0, longest=40),
    "similar": Similar(longest=40),
    "recommend": Recommend(("a", "b", "书")),
    "trace": Trace(("add", "乘"), 40),
    "translate": Translate(longest=40),
    "many": Many({"classify/c": to_dict(Classify(LABELS, 24)), "tag/t": to_dict(Tag(TAGS, 24))}, 40),
    "see": See(LABELS, senses=("image",)),
    "match": Match(longest=40),
    "embed": Embed(),
    "transcribe": Transcribe(8000),
}


def tokenizer_of(task: Any) -> Tokenizer | None:
    """Give a small tokenizer to a task of texts."""
    return train_bpe(TEXTS, 330) if task.reads == "text" else None


def model_of(task: Any, family: str, vocabulary: int, **config: Any) -> Any:
    """Make a model of random weights, with the task's head where it has one."""
    torch.manual_seed(3)
    settings = settle(task.name, {"model": family, **FLAGS}).value
    body = catalog.build({**catalog.configure(settings, vocabulary, 48, task), **config})
    head = task.head(body.width)
    model = body if head is None else Headed(body, head)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.2 * torch.randn(each.shape))
    return model.eval()


def made(path: Path, name: str, family: str, **config: Any) -> Path:
    """Write a Model folder."""
    task = MADE[name]
    tokenizer = tokenizer_of(task)
    model = model_of(task, family, task.vocabulary if tokenizer is None else tokenizer.vocabulary_size, **config)
    path.mkdir(parents=True)
    artefact.write(path, task, model, tokenizer)
    seal(path, "model", {"task": name, "model": family})
    return path
