"""Batches are a pure function of (seed, step); each window and each item comes once an epoch; micro-batches make up the step."""

from __future__ import annotations

import numpy as np
import pytest

from zhixing.core.errors import DataError, UsageError
from zhixing.data.batch import pad
from zhixing.data.stream import Rows, Windows

KNOWN = [[1249, 2617], [845, 1449], [2964, 476]]  # frozen: another order would break every resumed run


def rows_of(stream, steps, start=0):
    return np.concatenate([stream.batch(step)["tokens"] for step in range(start, start + steps)])


@pytest.mark.parametrize(("size", "batch", "window"), [(1000, 4, 16), (129, 3, 64), (65, 2, 64), (64 * 10 + 1, 5, 64), (5000, 7, 13)])
def test_every_window_once_an_epoch(size, batch, window):
    stream = Windows(np.arange(size, dtype=np.uint16), batch, window, seed=3)
    everything = rows_of(stream, 4 * stream.windows)  # batch epochs and more
    for epoch in range(4):
        starts = everything[epoch * stream.windows : (epoch + 1) * stream.windows]
        targets = (starts + 1).ravel()
        assert len(np.unique(targets)) == targets.size == stream.windows * window
        assert targets.max() < size
    assert stream.steps_per_epoch == -(-stream.windows // batch)


def test_targets_follow_tokens():
    source = np.random.default_rng(0).integers(0, 60000, 3000).astype(np.uint16)
    batch = Windows(source, 8, 32, seed=0).batch(5)
    assert batch["tokens"].dtype == batch["targets"].dtype == np.int64
    assert batch["tokens"].shape == batch["targets"].shape == (8, 32)
    assert (batch["tokens"][:, 1:] == batch["targets"][:, :-1]).all()
    text = source.tobytes()
    assert all(np.append(row, target[-1]).astype(np.uint16).tobytes() in text for row, target in zip(*batch.values(), strict=True))


def test_order_depends_on_seed_and_step_only():
    tokens = np.arange(4000)
    first, second = Windows(tokens, 4, 16, seed=1), Windows(tokens, 4, 16, seed=1)
    for step in (900, 3, 77, 0, 901):  # any order of asking
        assert (first.batch(step)["tokens"] == second.batch(step)["tokens"]).all()
        second.batch(step + 5)
    assert (first.batch(0)["tokens"] != Windows(tokens, 4, 16, seed=2).batch(0)["tokens"]).any()
    known = Windows(tokens, 2, 4, seed=0)
    assert [known.batch(step)["tokens"][:, 0].tolist() for step in (0, 1, 600)] == KNOWN


def test_epochs_cut_at_other_places():
    stream = Windows(np.arange(3000), 1, 50, seed=0)
    phases = {int(rows_of(stream, 1, epoch * stream.windows)[0, 0]) % 50 for epoch in range(20)}
    assert len(phases) > 8


@pytest.mark.parametrize("micros", [1, 2, 3, 5])
def test_micro_batches_make_up_the_step(micros):
    windows = Windows(np.arange(999), 5, 10, seed=0)
    items = [{"tokens": np.full(length, length), "label": length % 3} for length in range(1, 18)]
    rows = Rows(items, 5, seed=0, pad_id=0)
    for step in (0, 3, 19, 20, 41):
        parts = [windows.batch(step, micro, micros) for micro in range(micros)]
        whole = windows.batch(step)
        for name in whole:
            assert (np.concatenate([part[name] for part in parts]) == whole[name]).all()
        parts = [rows.batch(step, micro, micros) for micro in range(micros)]
        assert np.concatenate([part["lengths"] for part in parts]).tolist() == rows.batch(step)["lengths"].tolist()
        assert np.concatenate([part["labels"] for part in parts]).tolist() == rows.batch(step)["labels"].tolist()


@pytest.mark.parametrize(("size", "batch"), [(100, 8), (7, 8), (8, 8), (1000, 4), (65, 64), (3, 1)])
def test_every_row_once_an_epoch(size, batch):
    source = np.random.default_rng(0)
    items = [{"tokens": np.full(source.integers(1, 40), number), "label": 0} for number in range(size)]
    stream = Rows(items, batch, seed=5, pad_id=99999)
    first = np.concatenate([stream.batch(step)["tokens"][:, 0] for step in range(4 * size // batch + 1)])
    for epoch in range(4):
        assert sorted(first[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert (first[:size] != first[size : 2 * size]).any() or size <= batch or size < 10


def test_rows_of_like_length_share_a_batch():
    source = np.random.default_rng(0)
    items = [{"tokens": np.zeros(source.integers(1, 200), int), "label": 0} for _ in range(640)]
    stream = Rows(items, 16, seed=0, pad_id=0)
    batches = [stream.batch(step) for step in range(stream.steps_per_epoch)]
    used = sum(int(each["lengths"].sum()) for each in batches)
    assert used / sum(each["tokens"].size for each in batches) > 0.9
    means = [each["lengths"].mean() for each in batches]
    assert np.abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.6  # but the batches come in no order of length


def test_pad():
    arrays = pad([{"tokens": np.array([5, 6, 7]), "label": 1}, {"tokens": np.array([], dtype=int), "label": 0}], pad_id=9)
    assert arrays["tokens"].tolist() == [[5, 6, 7], [9, 9, 9]]
    assert arrays["lengths"].tolist() == [3, 0] and arrays["labels"].tolist() == [1, 0]
    assert {each.dtype for each in arrays.values()} == {np.dtype(np.int64)}
    assert "labels" not in pad([{"tokens": np.array([1])}], 0)


@pytest.mark.parametrize(
    ("make", "error", "code"),
    [
        (lambda: Windows(np.arange(16), 1, 16, 0), DataError, "data.short"),
        (lambda: Windows(np.arange(16), 0, 4, 0), UsageError, "data.batch"),
        (lambda: Windows(np.arange(99), 2, 4, 0).batch(0, 0, 3), UsageError, "data.micros"),
        (lambda: Rows([], 2, 0, 0), DataError, "data.no_rows"),
    ],
)
def test_what_cannot_be(make, error, code):
    with pytest.raises(error) as caught:
        make()
    assert caught.value.code == code and caught.value.text("en") and caught.value.text("zh")
