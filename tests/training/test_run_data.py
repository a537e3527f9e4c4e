"""How a run's flags divide its classes."""

from __future__ import annotations

import pytest

from deitlt_hf.data.arguments import group_classes


@pytest.mark.parametrize(
    ("boundaries", "said"),
    [
        ([1, 3], None),
        ([2, 3], "divide classes of 7 training images each"),
        ([1, 4], "divide classes of 3 training images each"),
        ([2, 4], "divide classes of 7 and 3 training images each"),
        ([0, 5], None),
    ],
)
def test_boundaries_that_part_equally_frequent_classes_are_said(boundaries, said, caplog):
    groups = group_classes([9, 7, 7, 3, 3], boundaries)
    assert list(map(len, groups.values())) == [boundaries[0], boundaries[1] - boundaries[0], 5 - boundaries[1]]
    assert (said in caplog.text) if said else not caplog.records
