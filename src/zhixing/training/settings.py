"""The settings of a training, and the one dial from which the rest is derived: default < dial < recipe < flag, origins kept.

`--size` names a frozen plan of the model's family; it never changes once released, so that a recipe gives the same model on any machine.
"""

from __future__ import annotations

import tomllib
from collections.abc import Container
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from zhixing.core.config import Settings, resolve
from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import read_json
from zhixing.core.folder import open_folder
from zhixing.models import catalog
from zhixing.tasks import adapter
from zhixing.tasks.task import task_class

# What a counted model is told by; the rest of the settings speak of loops and layers, which it has not.
TOLD = {
    "grammar": ("tokenizer", "vocabulary", "dictionary", "size", "classes"),
    "ngram": ("tokenizer", "vocabulary", "dictionary", "order"),
    **dict.fromkeys(("dirichlet", "additive"), ("tokenizer", "vocabulary", "dictionary", "order", "strength")),
    **dict.fromkeys(
        (
            "majority",
            "same_for_all",
            "overlap",
            "least_each",
            "default_each",
            "frequent_tag",
            "trees",
            "mean_score",
            "copy",
            "bag_crf",
            "frequent_set",
            "popularity",
            "item_neighbours",
            "item_followers",
            "base_rate",
            "dtw",
        ),
        (),
    ),
    **dict.fromkeys(("naive_bayes", "logistic", "crf", "table_logistic", "ridge", "bag_each", "ease", "practice", "pixels"), ("strength",)),
}
LANGUAGE_ONLY = ("mixture",)
TASK_OF = {"skipgram": "embed", "cbow": "embed"}  # models that are of another task than their corpus, whatever that is
# What a start brings with it.
FORM = ("tokenizer", "vocabulary", "dictionary", "size", "layers", "width", "heads", "groups", "embedding", "context")


@dataclass(frozen=True)
class TrainSettings:
    """Everything that a training may be told. 0 or "auto" means: derived, and shown as derived.

    model                     name in the table of models, or naive_bayes, logistic; "auto": by the task
    size                      the dial: tiny, small, medium, large
    tokenizer                 "characters", "bpe", "unigram", "words" or "bytes", which learns nothing from any text
    vocabulary                its number of tokens, or the most characters kept; 0: derived
    dictionary                a file of words for the tokenizer "words", one a line; "": none
    steps, minutes, core_seconds   the length, in one of three measures; time is turned into steps before step 0
    epochs                    length when none of the three is given: passes over the training text
    layers, width, heads, groups, embedding, context   the model's form; groups: key-value heads; context: tokens that a feed-forward model,
                              or a layer of a convolutional one, sees at once
    window, batch, accumulate tokens a row, rows a step, micro-batches a step; accumulate 0: as many as keep one near the processor
    optimizer                 "muon" (matrices by Muon, the rest by AdamW), "adamw" or "sgd", descent with momentum
    learning_rate, matrix_rate   peak rates of AdamW or descent, and of Muon
    weight_decay, table_decay    decoupled decay of matrices and of tables; 0 under a prior
    prior                     on the weights, in the objective: "gaussian" or "laplace"; "none": maximum likelihood, with decay beside it
    prior_strength            of that prior, in nats: precision (1 / variance) of a Gaussian, rate (1 / scale) of a Laplace
    checker                   of the task reason: what an answer is worth, a name in `metrics.checkers`
    rollouts                  of the task reason: texts tried on each prompt; those that earn more are learnt. 0: the given answers are
    kl                        with rollouts: how strongly the model is held to the one it began with
    epsilon, delta            privacy: how much any single row may show in what leaves the training; epsilon 0: no privacy, delta 0: rows to
                              the power of minus 1.1. Then the tokenizer is bytes, nothing is validated, and losses are not logged
    example_clip              the largest norm of a row's gradient, under privacy
    start                     a Model folder whose body and tokenizer the training begins with, of any task; "": fresh ones
    lora, lora_alpha          with start, rank of what is trained beside its linear maps, whose weights stay as they are (0: all are
                              trained), and how strongly it counts: alpha / rank; alpha 0: twice the rank
    lora_base                 "int8": weights that stay as they are lie in eight bits in training; "auto": as the precision says
    extend_vocabulary         with start, how many pieces its byte-level BPE is given at most, learnt from the training split; 0: none
    teacher                   a Model folder whose probabilities of the training rows are learnt beside the labels; "": none
    teacher_weight, teacher_temperature   its share of the objective, 0..1, and what flattens both models' probabilities
    dropout                   -1: derived from the number of passes
    augment                   of a model that hears: how far frames are changed in training, of what `layers/augment.py` says; 0: not at all
    evaluations, patience     how often to validate in the whole run, at most (seldomer where that would cost over 8 % of it), and after how
                              many without a gain to stop; 0: never
    saves                     checkpoints in the whole run, besides those of new bests
    precision                 "fp32", "bf16" or "auto": bf16 where products of matrices are measured to be faster in it
    compile                   "yes", "no" or "auto": a model's layers by torch.compile; "auto": on a GPU, where the training is long enough
    threads                   0: as the environment says
    negatives, subsample, minimum   of vectors of words: words drawn against each true pair (0: the exact softmax), share of the text above
                              which a word is thinned out, how often a word must stand in the text; their window is that of a context
    classes                   of the grammar
    order                     of the n-gram; 0: the best on validation
    strength                  of the prior of a counted model; 0: the best on validation. Pseudo-counts of a context (dirichlet), of a token
                              (additive), of a feature (naive_bayes); precision of each weight (logistic)
    """

    model: str = "auto"
    size: str = "small"
    tokenizer: str = "characters"
    vocabulary: int = 0
    dictionary: str = ""
    steps: int = 0
    minutes: float = 0.0
    core_seconds: float = 0.0
    epochs: float = 8.0
    layers: int = 0
    width: int = 0
    heads: int = 0
    groups: int = 0
    embedding: int = 0
    context: int = 0
    window: int = 256
    batch: int = 16
    accumulate: int = 0
    optimizer: str = "muon"
    learning_rate: float = 0.004
    matrix_rate: float = 0.02
    momentum: float = 0.95
    weight_decay: float = 0.5
    table_decay: float = 0.01
    prior: str = "none"
    prior_strength: float = 1.0
    checker: str = "exact"
    rollouts: int = 0
    kl: float = 0.02
    epsilon: float = 0.0
    delta: float = 0.0
    example_clip: float = 1.0
    start: str = ""
    lora: int = 0
    lora_alpha: float = 0.0
    lora_base: str = "auto"
    extend_vocabulary: int = 0
    teacher: str = ""
    teacher_weight: float = 0.7
    teacher_temperature: float = 2.0
    warmup: float = 0.03
    decay: float = 0.6
    clip: float = 1.0
    dropout: float = -1.0
    augment: float = 1.0
    evaluations: int = 20
    patience: int = 8
    saves: int = 10
    precision: str = "auto"
    compile: str = "auto"
    threads: int = 0
    negatives: int = 5
    subsample: float = 1e-3
    minimum: int = 5
    classes: int = 0
    order: int = 0
    strength: float = 0.0
    seed: int = 0


CHOICES = {
    "size": ("tiny", "small", "medium", "large"),
    "tokenizer": ("characters", "bpe", "unigram", "words", "bytes"),
    "optimizer": ("muon", "adamw", "sgd"),
    "precision": ("auto", "fp32", "bf16"),
    "lora_base": ("auto", "int8"),
    "compile": ("auto", "yes", "no"),
    "prior": ("none", "gaussian", "laplace"),
}
POSITIVE = ("window", "batch", "learning_rate", "matrix_rate", "epochs", "prior_strength", "teacher_temperature", "example_clip")
NOT_NEGATIVE = (
    *("vocabulary", "steps", "minutes", "core_seconds", "layers", "width", "heads", "groups", "embedding", "context", "weight_decay"),
    *("table_decay", "clip", "evaluations", "patience", "saves", "threads", "classes", "order", "strength", "seed"),
    *("accumulate", "negatives", "subsample", "minimum", "epsilon", "delta", "rollouts", "kl", "augment", "lora", "lora_alpha"),
)
LATER = ("lora_base", "extend_vocabulary")
MOST_AUGMENT = 2.0
MOST_PIECES = 1 << 17  # added at once: as many as the largest vocabularies have
LENGTHS = ("steps", "minutes", "core_seconds")  # of a training, of which one is given, or none
PRIVATE_TASKS = ("classify", "multilabel")
PRIVATE_MODEL = "hashed"
UNDER_PRIVACY: dict[str, Any] = {"tokenizer": "bytes", "evaluations": 0, "patience": 0, "clip": 0.0, "dropout": 0.0}  # clipped row by row
PRIVATE_BATCH = 1024  # rows a step, where none were asked for: the noise is that of a step
# Of the linear model on n-grams, where they were not asked for: chosen on validation rows of reviews at epsilon 8.
PRIVATE_HASHED: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 200.0, "momentum": 0.9, "example_clip": 0.5, "batch": 4096}
PRIVATE_HASHED |= {"steps": 100, "accumulate": 32, "weight_decay": 0.0, "table_decay": 0.0}
# Of a training by rewards, where they were not asked for: what one step learns is mostly noise, which Muon brings to full size. Two-digit
# sums, .22 of texts right at first: after 110 steps of Muon .11, after 480 of these .59.
REWARDED: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 0.0002}
# Of a training that begins with weights of a large pretraining, which small steps keep.
PRETRAINED: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 0.0001, "weight_decay": 0.01, "table_decay": 0.0}
PRETRAINED |= {"warmup": 0.1, "decay": 0.9}
# All steps are taken and the last weights kept: the likelihood of validation is worst amid the schedule, where early stopping ends it
# (banking77, 6 epochs: .918 right of the test rows where it did, .937 where it did not).
PRETRAINED_ROWS: dict[str, Any] = {"dropout": 0.1, "epochs": 6.0, "evaluations": 0}
# Where only maps of low rank are trained, beside it.
ADAPTED: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 0.001, "weight_decay": 0.0, "table_decay": 0.0}
# Settings of a form by the names that a config.json has for them: of a start that was trained elsewhere there are no others.
FORM_OF = {
    "layers": ("num_hidden_layers", "n_layer", "encoder_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "encoder_attention_heads"),
    "groups": ("num_key_value_heads",),
}
DECAYS = ("weight_decay", "table_decay")
RECIPES = "zhixing.recipes"


def read_recipe(name: str | None) -> dict[str, Any]:
    """Read a recipe: a TOML file, one that ships with zhixing, by name, or the run.json of an earlier run, replayed."""
    if name is None:
        return {}
    path = Path(name)
    if path.suffix == ".json" and path.exists():
        return replay(read_json(path))
    shipped = {each.name.removesuffix(".toml"): each for each in resources.files(RECIPES).iterdir() if each.name.endswith(".toml")}
    source = path if path.suffix == ".toml" and path.exists() else shipped.get(name)
    if source is None:
        raise UsageError("settings.recipe", name=name, among=sorted(shipped))
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise DataError("settings.not_toml", path=str(source), problem=str(problem)) from None


def replay(run: dict[str, Any]) -> dict[str, Any]:
    """Give the settings of a run.json so that they make the same model again: its steps stand in the place of its time."""
    settings = dict(run.get("settings", {}))
    if "steps" in run:
        settings |= {"steps": run["steps"], "minutes": 0.0, "core_seconds": 0.0, "dropout": run["dropout"]}
    return settings


def settle(task: str, flags: dict[str, Any], recipe: str | None = None) -> Settings:
    """Settle the settings of one training and check each of them; nothing is adjusted silently.

    task  a name in the table of tasks
    Raises UsageError for a name, a value or a combination that cannot be.
    """
    of = task_class(task)
    from_recipe = read_recipe(recipe)
    if any(flags.get(name) for name in LENGTHS):  # one that was asked for stands instead of the recipe's
        from_recipe = {name: value for name, value in from_recipe.items() if name not in LENGTHS}
    first = resolve(TrainSettings, ("recipe", from_recipe), ("flag", flags)).value
    begun = of_start(first.start, task, first.model, flags, from_recipe) if first.start else {}
    default = PRIVATE_MODEL if first.epsilon and task in PRIVATE_TASKS else of.default
    model = begun.get("model", default) if first.model == "auto" else first.model
    kinds = (*of.kinds, "lexical") if of.reads == "text" else of.kinds
    kinds = (*kinds, "masked") if task == "language" else kinds
    trained = tuple(name for name in catalog.trained(kinds) if task == "language" or name not in LANGUAGE_ONLY)
    known = (*of.counted, *trained)
    if model not in known:
        raise UsageError("settings.model", name=model, task=task, among=known)
    if first.size not in CHOICES["size"]:
        raise UsageError("settings.choice", setting="size", name=first.size, among=CHOICES["size"])
    dial = catalog.plan(model, first.size) if model in catalog.MODELS else {}
    if model in trained:  # a family that only reads texts has plans of its own for that; one that writes them is told how to read
        of_task = task_class(task_of(model, task)).dial
        dial = {**dial, **of_task} if "causal" in catalog.find({"model_type": model}).kinds else {**of_task, **dial}
    usual = pretrained(first.start, dial, task not in ("language", "reason")) if first.start else {}
    usual |= ADAPTED if first.lora else {}
    layers = (("dial", dial), ("pretrained", usual), ("recipe", from_recipe), ("start", begun), ("flag", flags))
    settled = resolve(TrainSettings, *layers)
    settled = Settings(
        replace(settled.value, model=model), {**settled.origins, "model": settled.origins["model"] if first.model != "auto" else "task"}
    )
    if settled.value.start and (model in of.counted or model in TASK_OF):
        raise UsageError("settings.start_counted", path=settled.value.start, model=model)
    refuse_unused(model, flags, of.counted)
    check_lora(settled.value)
    check_extension(settled)
    if settled.value.teacher and (of.schema.told != ("label",) or of.reads != "text"):
        raise UsageError("settings.teacher", task=task, path=settled.value.teacher)
    check(settled)
    return under_reward(under_privacy(under_prior(settled, flags), task, of.counted), task)


def check_lora(value: TrainSettings) -> None:
    """Refuse an adapter of nothing, of an adapter, or of a training that must see the gradient of every row."""
    if value.lora_alpha and not value.lora:
        raise UsageError("lora.alpha", value=value.lora_alpha)
    if not value.lora:
        if value.lora_base != "auto":
            raise UsageError("lora.base_alone", value=value.lora_base)
        return
    if not value.start:
        raise UsageError("lora.start")
    if value.epsilon:
        raise UsageError("settings.unused", setting="lora", model="epsilon")
    if open_folder(value.start, "model").kind != "model":
        raise UsageError("lora.on_adapter", path=value.start)


def check_extension(settled: Settings) -> None:
    """Refuse a number of new pieces that cannot be, or a training that could not learn them: of nothing, of no decoder, of an adapter."""
    value = settled.value
    if not value.extend_vocabulary and settled.origins["extend_vocabulary"] != "flag":
        return
    if not 1 <= value.extend_vocabulary <= MOST_PIECES:
        raise UsageError("extend.size", size=value.extend_vocabulary, most=MOST_PIECES)
    if not value.start:
        raise UsageError("extend.start")
    if value.lora:
        raise UsageError("extend.lora", rank=value.lora)
    family = catalog.find({"model_type": value.model})
    if "causal" not in family.kinds or not hasattr(family, "from_config"):
        raise UsageError("extend.model", path=value.start, model=value.model)


def task_of(model: str, task: str) -> str:
    """Name the task that a model learns from a corpus of a task: most often that one."""
    if task == "language" and model in catalog.MODELS and "masked" in getattr(catalog.find({"model_type": model}), "kinds", ()):
        return "masked"
    return TASK_OF.get(model, task)


def of_start(place: str, task: str, model: str, flags: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """Give the settings that a start settles: its model with its form, and its window.

    model  the one that was asked for, or "auto"
    Raises UsageError for another model, for a flag or a recipe that would change the form, or for a task that begins with nothing.
    """
    for name in FORM:
        if flags.get(name) is not None:
            raise UsageError("settings.start_form", setting=name, path=place)
    if task_class(task).reads != "text":
        raise UsageError("settings.start_task", task=task, path=place)
    folder = open_folder(place, "model")
    if folder.kind == adapter.KIND:
        adapter.base_of(folder)
    elif "exported" in folder.card and getattr(catalog.find(read_json(folder.path / "config.json")), "arrays", False):
        raise UsageError("train.start_exported", path=place, source=folder.card["exported"]["from"])
    settings = folder.card.get("settings")
    if not settings:  # one that was imported was trained by another program
        config = read_json(folder.path / "config.json")
        form = {name: next((config[each] for each in theirs if each in config), 0) for name, theirs in FORM_OF.items()}
        settings = {"model": folder.card.get("model"), **form}
    for name in FORM:
        if name in recipe and recipe[name] != settings.get(name):
            raise UsageError("settings.start_form", setting=name, path=place)
    if model not in ("auto", settings.get("model")):
        raise UsageError("train.start", path=place, model=settings.get("model"), wanted=model)
    return {name: settings[name] for name in ("model", *FORM, "window") if name in settings}


def pretrained(place: str, dial: dict[str, Any], rows: bool) -> dict[str, Any]:
    """Give what a start asks for that was imported, or begun with one that was, where nobody says otherwise.

    rows  whether rows are learnt, not running text
    """
    folder = open_folder(place, "model")
    if "imported" not in folder.card and not (folder.card.get("start") or {}).get("pretrained"):
        return {}
    config = read_json(folder.path / "config.json")
    most = next((config[name] for name in ("max_position_embeddings", "n_positions", "max_target_positions") if name in config), None)
    window = dial.get("window", TrainSettings.window)
    usual = {**PRETRAINED, **(PRETRAINED_ROWS if rows else {}), **getattr(catalog.find(config), "PRETRAINED", {})}
    return {**usual, "window": min(window, most) if most else window}


def under_prior(settled: Settings, flags: dict[str, Any]) -> Settings:
    """Set decoupled decay to 0 where a prior is asked for: a pull beside the objective would shift the optimum of the posterior.

    Raises UsageError when both are asked for, or when a flag gives the strength of no prior.
    """
    value, asked = settled.value, [name for name in DECAYS if settled.origins[name] in ("recipe", "flag")]
    if value.prior == "none":
        if flags.get("prior_strength") is not None:
            raise UsageError("settings.no_prior", value=value.prior_strength)
        return settled
    for name in asked:
        if getattr(value, name):
            raise UsageError("settings.prior_decay", prior=value.prior, setting=name, value=getattr(value, name))
    derived = {name: "prior" for name in DECAYS if name not in asked}
    return Settings(replace(value, **dict.fromkeys(DECAYS, 0.0)), settled.origins | derived)


def under_reward(settled: Settings, task: str) -> Settings:
    """Set what a training by rewards cannot use, where rollouts are asked for: dropout, and validation of given answers.

    Raises UsageError for another task, for a training that begins with nothing, or for a batch that is no multiple of the rollouts.
    """
    value = settled.value
    for name in ("checker", "rollouts", "kl"):
        if settled.origins[name] == "flag" and task != "reason":
            raise UsageError("settings.unused", setting=name, model=value.model)
    if not value.rollouts:
        return settled
    if task != "reason" or not value.start:
        raise UsageError("reason.rollouts", task=task, start=value.start or "-")
    if value.rollouts < 2 or value.batch % value.rollouts:
        raise UsageError("reason.group", group=value.rollouts, batch=value.batch)
    usual = {name: one for name, one in REWARDED.items() if settled.origins[name] not in ("recipe", "flag")}
    if value.optimizer != "adamw" and "optimizer" not in usual:  # the usual rate is that of AdamW
        usual = {}
    wanted = {"dropout": 0.0, "evaluations": 0, "patience": 0}
    for name, one in wanted.items():
        if settled.origins[name] == "flag" and getattr(value, name) != one:
            raise UsageError("settings.unused", setting=name, model=value.model)
    wanted |= usual
    return Settings(replace(value, **wanted), settled.origins | dict.fromkeys(wanted, "rollouts"))


def under_privacy(settled: Settings, task: str, counted: Container[str]) -> Settings:
    """Set what a private training must not do to what it may, where epsilon is given.

    Raises UsageError for what was asked for and would let a row be seen.
    """
    value = settled.value
    if not value.epsilon:
        if settled.origins["epsilon"] == "flag":
            raise UsageError("settings.range", setting="epsilon", value=value.epsilon, origin="flag")
        if settled.origins["delta"] == "flag" or (value.delta and settled.origins["delta"] == "recipe"):
            raise UsageError("private.no_epsilon")
        return settled
    if task not in PRIVATE_TASKS:
        raise UsageError("private.task", task=task, among=PRIVATE_TASKS)
    if value.model in counted or value.model in TASK_OF:
        raise UsageError("private.model", model=value.model)
    if value.minutes or value.core_seconds or value.teacher or value.extend_vocabulary:
        named = next(name for name in ("minutes", "core_seconds", "teacher", "extend_vocabulary") if getattr(value, name))
        raise UsageError("private.setting", setting=named, value=getattr(value, named))
    if not value.delta < 1:
        raise UsageError("settings.range", setting="delta", value=value.delta, origin=settled.origins["delta"])
    wanted = {name: one for name, one in UNDER_PRIVACY.items() if not (name == "tokenizer" and value.start)}
    for name, one in wanted.items():
        if settled.origins[name] in ("recipe", "flag") and getattr(value, name) != one:
            raise UsageError("private.setting", setting=name, value=getattr(value, name))
    usual = {"batch": PRIVATE_BATCH, **(PRIVATE_HASHED if value.model == PRIVATE_MODEL else {})}
    others = {"epochs": ("steps",), "batch": ("accumulate",)}
    if value.optimizer != "sgd":  # the usual rate is that of descent
        others["optimizer"] = ("learning_rate", "momentum")
    for asked, of_it in others.items():
        if settled.origins[asked] in ("recipe", "flag"):
            usual = {name: one for name, one in usual.items() if name not in of_it}
    wanted |= {name: one for name, one in usual.items() if settled.origins[name] not in ("recipe", "flag")}
    return Settings(replace(value, **wanted), settled.origins | dict.fromkeys(wanted, "privacy"))


def refuse_unused(model: str, flags: dict[str, Any], counted: Container[str]) -> None:
    """Raise UsageError for a flag that would change nothing; a recipe may hold settings of other models.

    counted  the models that are fitted without the loop
    """
    told = ("model", "seed", "threads", "epsilon", "delta", *TOLD.get(model, ()))  # of privacy `under_privacy` tells
    for name, value in flags.items():
        of_another = name in ("strength", "classes") or (name == "order" and model != "mixture")
        of_another |= name == "augment" and model not in catalog.trained(("acoustic",))
        if value is not None and name not in told and (model in counted or of_another):
            raise UsageError("settings.unused_time" if name in LENGTHS[1:] else "settings.unused", setting=name, model=model)


def check(settled: Settings) -> None:
    """Check values one by one and together."""
    value = settled.value
    for name, among in CHOICES.items():
        if getattr(value, name) not in among:
            raise UsageError("settings.choice", setting=name, name=getattr(value, name), among=among)
    for name in POSITIVE + NOT_NEGATIVE:
        number = getattr(value, name)
        if number < 0 or (name in POSITIVE and number == 0) or number != number or number == float("inf"):
            raise UsageError("settings.range", setting=name, value=number, origin=settled.origins[name])
    if not 0.0 <= value.teacher_weight <= 1.0:
        raise UsageError("settings.range", setting="teacher_weight", value=value.teacher_weight, origin=settled.origins["teacher_weight"])
    if value.augment > MOST_AUGMENT:
        raise UsageError("settings.augment", value=value.augment, origin=settled.origins["augment"], most=MOST_AUGMENT)
    if not (value.dropout == -1.0 or 0.0 <= value.dropout < 1.0):
        raise UsageError("settings.dropout", value=value.dropout)
    for name in LENGTHS:
        if settled.origins[name] == "flag" and not getattr(value, name):
            raise UsageError("settings.range", setting=name, value=getattr(value, name), origin="flag")
    given = [name for name in LENGTHS if getattr(value, name)]
    if len(given) > 1:
        raise UsageError("settings.lengths", given=", ".join(given))
    if value.dictionary and value.tokenizer != "words":
        raise UsageError("settings.dictionary", path=value.dictionary, tokenizer=value.tokenizer)
    if value.heads and value.width % value.heads:
        raise UsageError("settings.heads", width=value.width, heads=value.heads)
    if value.heads and value.groups and value.heads % value.groups:
        raise UsageError("settings.groups", groups=value.groups, heads=value.heads)
    if value.accumulate and value.batch % value.accumulate:
        raise UsageError("settings.accumulate", batch=value.batch, accumulate=value.accumulate)


def known_by(settings: TrainSettings) -> dict[str, Any]:
    """Give the settings that a run is known by: one that came later counts where it is not as it always was, so that old runs go on."""
    return {name: value for name, value in as_dict(settings).items() if name not in LATER or value != getattr(TrainSettings, name)}


def as_dict(settings: TrainSettings) -> dict[str, Any]:
    """Give settings as JSON-able data, for run.json; `read_recipe` takes it back."""
    return asdict(settings)
