"""Items are read beside those of like length, each once, whatever their order."""

from __future__ import annotations

import numpy as np
import pytest

from zhixing.tasks import reading


@pytest.mark.parametrize("least", [1, 8, 64])
@pytest.mark.parametrize("count", [0, 1, 7, 64, 65, 300])
def test_every_item_is_in_one_group_of_like_length(count: int, least: int) -> None:
    sizes = np.random.default_rng(count).integers(0, 90, count).tolist()
    groups = list(reading.alike(sizes, least))
    assert sorted(place for group in groups for place in group) == list(range(count))
    for number, group in enumerate(groups):
        lengths = [sizes[place] for place in group]
        assert len(group) <= reading.READ_BATCH and lengths == sorted(lengths)
        assert all(each <= reading.LONGER * lengths[0] for each in lengths[least:])
        if number + 1 < len(groups) and len(group) < reading.READ_BATCH:
            assert len(group) >= least and sizes[groups[number + 1][0]] > reading.LONGER * lengths[0]


def test_rows_of_one_length_are_one_group_and_short_ones_do_not_wait_for_a_long_one() -> None:
    assert [len(each) for each in reading.alike([5] * 64)] == [64]
    assert [len(each) for each in reading.alike([6] * 16 + [90] * 2)] == [16, 2]
