"""Metrics against scikit-learn, against counting by hand, and against what statistics promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhixing.metrics import intervals, labels, text


@pytest.fixture(scope="module")
def answers() -> tuple[np.ndarray, np.ndarray]:
    """A thousand answers over six labels, one of which is never expected and one neither expected nor answered."""
    generator = np.random.default_rng(3)
    expected = generator.integers(0, 4, 1000)
    predicted = np.where(generator.random(1000) < 0.7, expected, generator.integers(0, 5, 1000))
    return expected, predicted


def test_labels_agree_with_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    from sklearn import metrics

    expected, predicted = answers
    assert labels.accuracy(expected, predicted) == metrics.accuracy_score(expected, predicted)
    assert labels.macro_f1(expected, predicted, 6) == pytest.approx(metrics.f1_score(expected, predicted, average="macro"), abs=1e-12)
    assert np.array_equal(labels.confusion(expected, predicted, 6), metrics.confusion_matrix(expected, predicted, labels=range(6)))
    ours = labels.f1(labels.confusion(expected, predicted, 6))
    assert ours[:5] == pytest.approx(metrics.f1_score(expected, predicted, average=None))
    assert math.isnan(ours[5])


def test_perfect_answers_score_best_and_shuffled_ones_at_chance() -> None:
    expected = np.repeat(np.arange(4), 500)
    assert labels.macro_f1(expected, expected, 4) == 1.0
    shuffled = np.random.default_rng(0).permutation(expected)
    assert labels.macro_f1(expected, shuffled, 4) == pytest.approx(0.25, abs=0.03)


def test_calibration_error() -> None:
    generator = np.random.default_rng(1)
    confidence = generator.uniform(0.3, 1.0, 200_000)
    honest = generator.random(200_000) < confidence
    assert labels.calibration_error(confidence, honest) < 0.006
    assert labels.calibration_error(confidence, generator.random(200_000) < confidence - 0.2) == pytest.approx(0.2, abs=0.006)
    assert labels.calibration_error(np.full(10, 0.75), np.arange(10) < 5) == pytest.approx(0.25)
    order = generator.permutation(200_000)
    assert labels.calibration_error(confidence[order], honest[order]) == pytest.approx(labels.calibration_error(confidence, honest))


@pytest.mark.parametrize("count", [200, 6000])
def test_calibration_of_a_model_that_is_right_is_what_chance_gives(count: int) -> None:
    generator = np.random.default_rng(0)
    confidence = generator.beta(1, 4, count)
    drawn = [generator.random(count) < confidence for _ in range(200)]
    errors = [labels.calibration_error(confidence, each) for each in drawn]
    assert labels.calibration_chance(confidence) == pytest.approx(np.mean(errors), rel=0.03)
    beyond = np.array([labels.calibration_beyond_chance(confidence, each) for each in drawn])
    assert (beyond == 0).mean() > 0.4 and np.sqrt((beyond**2).mean()) < np.mean(errors)


def test_calibration_beyond_chance_finds_what_is_wrong() -> None:
    generator = np.random.default_rng(1)
    confidence = generator.random(5000) * 0.8 + 0.1
    found = [labels.calibration_beyond_chance(confidence, generator.random(5000) < confidence - 0.05) for _ in range(50)]
    assert np.mean(found) == pytest.approx(0.05, abs=0.002)
    assert labels.calibration_beyond_chance(np.full(10, 0.75), np.arange(10) < 5) < labels.calibration_error(
        np.full(10, 0.75), np.arange(10) < 5
    )


def slow_coverage(confidence: np.ndarray, correct: np.ndarray, precision: float) -> tuple[float, float | None]:
    """Try every threshold, by the definition."""
    best: tuple[float, float | None] = (0.0, None)
    for threshold in sorted(set(confidence.tolist()), reverse=True):
        taken = confidence >= threshold
        if correct[taken].mean() >= precision - 1e-12:
            best = (float(taken.mean()), threshold)
    return best


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40), st.sampled_from([0.0, 0.5, 0.8, 0.95, 0.98, 1.0]))
def test_coverage_is_its_definition(rows: list[tuple[int, bool]], precision: float) -> None:
    confidence = np.array([each[0] / 8 for each in rows])
    correct = np.array([each[1] for each in rows])
    assert labels.coverage_at_precision(confidence, correct, precision) == slow_coverage(confidence, correct, precision)


def test_coverage_by_hand() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.7, 0.6])
    correct = np.array([True, False, True, True, False])
    assert labels.coverage_at_precision(confidence, correct, 0.75) == (0.8, 0.7)  # precision dips to 1/2 and comes back to 3/4
    assert labels.coverage_at_precision(confidence, correct, 1.0) == (0.2, 0.9)
    assert labels.coverage_at_precision(confidence, ~correct, 0.98) == (0.0, None)
    # 98 of 100 is 98 %, whatever floating point makes of it
    assert labels.coverage_at_precision(np.linspace(1, 0.5, 50), np.arange(50) < 49, 0.98)[0] == 1.0
    assert labels.precision_at_threshold(confidence, correct, 0.7) == (0.8, 0.75)
    assert labels.precision_at_threshold(confidence, correct, 0.95) == (0.0, None)
    assert labels.precision_at_threshold(confidence, correct, None) == (0.0, None)


def test_bits_per_byte() -> None:
    log_probs = np.full(1000, -math.log(256))  # one token a byte, no idea which
    assert text.bits_per_byte(log_probs, 1000) == pytest.approx(8.0)
    assert text.perplexity(log_probs) == pytest.approx(256)
    assert text.nats_per_token(np.log([0.5, 0.125])) == pytest.approx(2 * math.log(2))
    # a million small numbers in half precision must not drown in their own sum
    assert text.nats_per_token(np.full(1_000_000, -1.25, dtype=np.float16)) == pytest.approx(1.25)


def test_blocks_keep_every_token() -> None:
    values = np.arange(10.0)
    assert text.blocks(values, np.array([0, 3, 7])).tolist() == [3.0, 18.0, 24.0]
    assert text.stretches(10, 4).tolist() == [0, 4, 8]
    assert text.stretches(9, 4).tolist() == [0, 4]  # a last stretch of one joins the one before
    assert text.stretches(3, 4).tolist() == [0]
    for count in (1, 7, 64, 65, 99):
        assert text.blocks(np.ones(count), text.stretches(count, 16)).sum() == count


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        found = intervals.interval(generator.normal(2.0, 1.0, 80), seed=trial, rounds=500)
        hits += found.low <= 2.0 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


def test_interval_matches_the_normal_one() -> None:
    values = np.random.default_rng(6).random(2000)
    found = intervals.interval(values, seed=1)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)
    assert intervals.interval(values, seed=1) == found
    assert intervals.interval(values, seed=2) != found
    wide = intervals.interval(values, seed=1, level=0.99)
    assert wide.low < found.low and wide.high > found.high


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(7).random(100)
    whole = intervals.interval(values, seed=3, rounds=200)
    monkeypatch.setattr(intervals, "CHUNK", 700)
    assert intervals.interval(values, seed=3, rounds=200) == whole


def test_ratio_and_statistic_agree_where_they_meet() -> None:
    generator = np.random.default_rng(8)
    totals, sizes = generator.random(60) * 100, generator.integers(20, 60, 60)
    ratio = intervals.interval_of_ratio(totals, sizes, seed=4)
    same = intervals.interval_of(lambda t, s: t.sum() / s.sum(), totals, sizes, seed=4)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((same.value, same.low, same.high))
    assert ratio.value == totals.sum() / sizes.sum() != pytest.approx((totals / sizes).mean())


def test_paired_finds_a_small_difference_that_separate_intervals_miss() -> None:
    generator = np.random.default_rng(9)
    hard = generator.normal(0, 1, 500)
    first, second = hard + generator.normal(0.02, 0.05, 500), hard + generator.normal(0, 0.05, 500)
    found = intervals.paired(first, second, seed=1)
    assert found.low > 0 and found.p < 0.01
    assert intervals.interval(first, 1).low < intervals.interval(second, 1).high
    mirror = intervals.paired(second, first, seed=1)
    assert (mirror.value, mirror.low, mirror.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert mirror.p == found.p


def test_paired_sees_nothing_in_nothing() -> None:
    generator = np.random.default_rng(10)
    found = [intervals.paired(generator.random(100), generator.random(100), seed=t, rounds=500).p for t in range(200)]
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.11  # false alarms are as rare as they should be
    values = generator.random(50)
    same = intervals.paired(values, values, seed=0)
    assert same.value == 0 and same.p == 1.0


def test_paired_by_size_is_a_difference_of_ratios() -> None:
    generator = np.random.default_rng(11)
    first, second, sizes = generator.random(40) * 9, generator.random(40) * 9, generator.integers(1, 9, 40)
    found = intervals.paired(first, second, seed=0, sizes=sizes)
    assert found.value == pytest.approx(first.sum() / sizes.sum() - second.sum() / sizes.sum())
    assert set(found.to_dict()) == {"value", "low", "high", "level", "p"}
    assert set(intervals.interval(first, 0).to_dict()) == {"value", "low", "high", "level"}


def test_wilson_against_the_published_values_and_the_truth() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for right, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        found = intervals.wilson(right, count)
        assert (found.value, found.low, found.high) == pytest.approx((right / count, low, high), abs=5e-5)
    sure = intervals.wilson(25, 25)
    assert sure.value == sure.high == 1.0 and sure.low < 0.9, "all right is not beyond doubt"
    drawn = np.random.default_rng(12).binomial(40, 0.95, 4000)
    covered = np.mean([found.low <= 0.95 <= found.high for found in (intervals.wilson(int(each), 40) for each in drawn)])
    bootstrap = [intervals.interval(np.arange(40) < each, seed=0, rounds=500) for each in drawn[:200]]
    assert covered >= 0.93 > np.mean([found.low <= 0.95 <= found.high for found in bootstrap]), "what the bootstrap does there"


def test_matthews_is_scikit_learns() -> None:
    from sklearn.metrics import matthews_corrcoef

    draw = np.random.default_rng(4)
    for count in (2, 5):
        expected, predicted = draw.integers(0, count, 300), draw.integers(0, count, 300)
        predicted[:150] = expected[:150]
        assert labels.matthews(expected, predicted) == pytest.approx(matthews_corrcoef(expected, predicted), abs=1e-12)
    assert labels.matthews(expected, np.zeros(300, int)) == 0 and labels.matthews(expected, expected) == pytest.approx(1)
