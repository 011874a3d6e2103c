"""Answers that are written and rewarded: checkers, the policy gradient, rollouts, and the whole way from SFT to more reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zhixing import evaluate, load, prepare, train
from zhixing.core.errors import UsageError
from zhixing.data.batch import IGNORED
from zhixing.layers.kinds import Inputs
from zhixing.metrics import checkers
from zhixing.models import catalog
from zhixing.objectives.policy import PolicyGradient, allowed
from zhixing.preparation.prepare import Prepare
from zhixing.tasks.reason import Reason
from zhixing.tokens.tokenizer import make_bytes, train_characters
from zhixing.training.rollouts import Rollouts
from zhixing.training.settings import settle

DECODER = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}


@pytest.mark.parametrize(
    ("name", "prompt", "answer", "said", "reward"),
    [
        ("arithmetic", "500+500=", "", "1,000", 1.0),
        ("arithmetic", "500-500=", "", "1,000", 0.0),
        ("arithmetic", "12-36=", "", "12-24", 0.0),
        ("arithmetic", "3-8=", "", "\u22125", 1.0),
        ("arithmetic", "Between 1990-1995 he had 12 apples. How many?", "12", "12", 1.0),
        ("arithmetic", "1/3=", "", "0.3333", 1.0),
        ("arithmetic", "05+3 = ?", "9", "8", 1.0),
        ("arithmetic", "+".join(["1"] * 60) + "=", "9", "60", 1.0),
        ("exact", "", "85", " 85\n", 1.0),
        ("exact", "", "85", "8 5", 0.0),
        ("arithmetic", "37+48=", "", "7 and 8 make 15, so 85", 1.0),
        ("arithmetic", "37+48=", "84", "84", 0.0),
        ("arithmetic", "12 × (3 - 5) = ?", "", "-24", 1.0),
        ("arithmetic", "7/0=", "3", "3", 1.0),
        ("arithmetic", "How many?", "about 12", "12.0", 1.0),
        ("arithmetic", "37+48=", "85", "no number", 0.0),
        ("arithmetic", "9**9**9+1=", "1", "1", 1.0),
        ("arithmetic", "__import__('os')", "x", "1", 0.0),
        ("form", "", "Sum: 85.", "Sum:   7.", 1.0),
        ("form", "", "Sum: 85.", "85", 0.0),
        ("form", "", "答：12 个", "曰：3 只", 1.0),
        ("form", "", "x", "", 0.0),
        ("verse", "", "", "白日依山尽，黄河入海流。", 1.0),
        ("verse", "", "", "白日依山尽，黄河入海流。欲穷千里目", 0.5),
        ("verse", "", "", "白日依山，黄河入海流", 0.5),
        ("verse", "", "", "abcde,abcde", 0.0),
        ("verse", "", "", "", 0.0),
    ],
)
def test_checkers_reward_what_they_say(name: str, prompt: str, answer: str, said: str, reward: float) -> None:
    assert checkers.CHECKERS[name](prompt, answer, said) == reward


@pytest.mark.parametrize("text", ["(" * 5000 + "1+1", "1+" * 150 + "1", "1e999+1", "9" * 400 + "+1"])
def test_a_sum_made_to_hurt_is_left_alone(text: str) -> None:
    checkers.work_out(text)


def make(vocabulary: int, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = catalog.build({**DECODER, "vocab_size": vocabulary})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def rollouts(model: torch.nn.Module, tokenizer: Any, batch: int = 8, group: int = 4, reference: Any = None) -> Rollouts:
    prompts = [[tokenizer.end_id, *tokenizer.encode(text)] for text in ("1+1=", "2+2=", "31+4=")]
    made = Rollouts(prompts, lambda place, text: float(len(text) % 3 == place), tokenizer, batch, group, 6, 7)
    made.bind(model, reference or make(tokenizer.vocabulary_size, 1))
    return made


def test_rollouts_are_the_model_s_own_and_a_function_of_the_step() -> None:
    tokenizer = train_characters(["0123456789+="])
    model = make(tokenizer.vocabulary_size)
    stream = rollouts(model, tokenizer)
    whole = stream.batch(3)
    again = rollouts(model, tokenizer)
    parts = [again.batch(3, micro, 4) for micro in range(4)]
    for name, value in whole.items():
        assert np.array_equal(value, np.concatenate([part[name] for part in parts])), name
    assert not np.array_equal(whole["tokens"], again.batch(4)["tokens"]) or not np.array_equal(whole["targets"], again.batch(4)["targets"])
    groups = whole["advantages"].reshape(2, 4)
    assert np.allclose(groups.mean(1), 0, atol=1e-5) and set(np.round(groups.std(1), 2)) <= {0.0, 1.0}
    for row, targets in zip(whole["tokens"], whole["targets"], strict=True):
        first = int(np.argmax(targets != IGNORED))
        assert np.all(targets[:first] == IGNORED) and row[first] == tokenizer.encode("=")[0], "targets begin after the prompt"
        told = targets[targets != IGNORED]
        assert np.array_equal(row[first + 1 : first + len(told)], told[:-1])


def test_the_gradient_is_that_of_the_advantages() -> None:
    """Without a reference the loss is the advantages' mean of -log p; with one, its value is 0 where both models are the same."""
    tokenizer = train_characters(["0123456789+="])
    model = make(tokenizer.vocabulary_size).eval()
    batch = {
        name: torch.from_numpy(value)
        for name, value in rollouts(model, tokenizer, reference=make(tokenizer.vocabulary_size)).batch(0).items()
    }
    terms = {term.name: term for term in PolicyGradient(0.5)(model, batch)}
    assert float(terms["kl"].total.detach()) == pytest.approx(0.0, abs=1e-5) and terms["kl"].scale == 0.5
    found = torch.autograd.grad(terms["policy"].total, model.transformer.wte.weight, retain_graph=True)[0]
    logs = allowed(model.logits(model.states(Inputs(batch["tokens"])))).log_softmax(-1)
    total = torch.zeros(())
    for row in range(len(batch["tokens"])):
        for place, target in enumerate(batch["targets"][row].tolist()):
            if target != IGNORED:
                total = total - batch["advantages"][row] * logs[row, place, target]
    wanted = torch.autograd.grad(total, model.transformer.wte.weight)[0]
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6) and float(found.abs().max()) > 0
    weights = PolicyGradient().weights(batch)
    assert weights["policy"] == float((batch["targets"] != IGNORED).sum()) and weights["reward"] == 8
    assert float(terms["length"].total.detach()) == weights["policy"] and terms["reward"].scale == terms["entropy"].scale == 0
    other = rollouts(model, tokenizer).batch(0)
    moved = {term.name: term for term in PolicyGradient()(model, {name: torch.from_numpy(value) for name, value in other.items()})}
    assert float(moved["kl"].total.detach()) > 0.01, "another reference pulls"


def test_what_is_barred_in_writing_is_barred_in_learning() -> None:
    from zhixing.decoding.sampling import CONTROL
    from zhixing.objectives.policy import BARRED

    assert BARRED == CONTROL
    shares = allowed(torch.zeros(2, 9)).softmax(-1)
    assert torch.all(shares[:, list(BARRED)] == 0) and torch.allclose(shares.sum(-1), torch.ones(2))


def test_a_prompt_leaves_room_for_its_answer() -> None:
    """Else a text would outgrow the window while it is learnt from, in the middle of a run."""
    tokenizer, task = make_bytes(), Reason(longest=32, most=12)
    long = {"prompt": "1+" * 40 + "1=", "answer": "41"}
    asked, taught = task.encode({"prompt": long["prompt"]}, tokenizer), task.encode(long, tokenizer)
    assert len(asked["tokens"]) == 20 and len(asked["tokens"]) + task.most <= task.longest
    assert tokenizer.decode(asked["tokens"]).endswith("1=\n") and (taught["targets"] != IGNORED).sum() == 3
    assert task._asked(taught) == asked["tokens"].tolist()


def test_texts_of_another_model_are_forgotten() -> None:
    tokenizer = train_characters(["0123456789+="])
    one, two = make(tokenizer.vocabulary_size), make(tokenizer.vocabulary_size, 5)
    stream = rollouts(one, tokenizer)
    before = stream.batch(0)
    stream.bind(two, one)
    assert not np.array_equal(before["tokens"], stream.batch(0)["tokens"])


def test_a_row_is_a_prompt_and_what_is_to_be_said() -> None:
    tokenizer, task = make_bytes(), Reason(most=5)
    item = task.encode({"prompt": "1+1=", "answer": "2"}, tokenizer)
    assert tokenizer.decode(item["tokens"][1:]) == "1+1=\n2" and (item["targets"] != IGNORED).sum() == 2
    assert item["targets"][-1] == tokenizer.end_id
    assert task._asked(item) == task.encode({"prompt": "1+1="}, tokenizer)["tokens"].tolist()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reason")
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(10) for b in range(10)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return prepare(place / "rows.jsonl", place / "corpus", Prepare(task="reason", split="hash", validation=0.1, test=0.2)).path


SFT = {"model": "gpt2", "layers": 1, "width": 32, "heads": 2, "window": 16, "batch": 16, "steps": 60, "checker": "arithmetic"}
REWARD = {"checker": "arithmetic", "rollouts": 4, "batch": 16, "steps": 6}


def test_from_given_answers_to_rewards(corpus: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path / "sft", SFT)
    folder = train(corpus, tmp_path / "grpo", {**REWARD, "start": str(tmp_path / "sft")})
    log = [json.loads(line) for line in (folder.path / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"policy", "kl", "entropy", "reward", "length"} <= set(log[0]["loss"]) and abs(log[0]["loss"]["kl"]) < 1e-4
    settled = folder.card["settings"]
    assert (settled["optimizer"], settled["learning_rate"]) == ("adamw", 0.0002), "gentle where nothing else was asked for"
    asked = settle("reason", {**REWARD, "start": str(tmp_path / "sft"), "optimizer": "muon"}).value
    assert asked.optimizer == "muon" and asked.learning_rate > 0.001
    report = evaluate(folder.path, corpus, tell=lambda *a, **v: None)
    figures = {each.name: each.value for each in report.figures}
    assert {"reward", "exact", "rewarded_not_right", "characters", "variety"} <= set(figures) and 0 <= figures["reward"] <= 1
    assert 0 < report.figure("reward").rivals["copy"] < 0.3, "the last number of 0+b= is what it comes to"
    answer = load(folder.path).predict([{"prompt": "1+2="}])[0]
    assert isinstance(answer.value, str) and 0 < answer.confidence <= 1


def test_a_reward_training_that_was_killed_ends_in_the_same_bytes(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(corpus, tmp_path / "sft", {**SFT, "steps": 20})
    how = {**REWARD, "start": str(tmp_path / "sft"), "saves": 3}
    whole = train(corpus, tmp_path / "whole", how)
    write, calls = Rollouts._write, {"count": 0}

    def dies(self: Rollouts, step: int) -> dict[str, np.ndarray]:
        calls["count"] += 1
        if calls["count"] == 4:
            raise KeyboardInterrupt
        return write(self, step)

    monkeypatch.setattr(Rollouts, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        train(corpus, tmp_path / "cut", how)
    again = train(corpus, tmp_path / "cut", how)
    assert (again.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"rollouts": 4, "batch": 16}, "start"),
        ({"checker": "loud", "steps": 1}, "checker"),
        ({"rollouts": -1}, "rollouts"),
        ({"start": "", "kl": -1.0}, "kl"),
    ],
)
def test_what_cannot_be_rewarded_is_refused(corpus: Path, tmp_path: Path, settings: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        train(corpus, tmp_path / "model", settings)
    assert not (tmp_path / "model").exists()


def test_a_group_must_fit_into_a_batch() -> None:
    with pytest.raises(UsageError, match="3"):
        Rollouts([[1]], lambda place, text: 0.0, None, 8, 3, 4, 0)
