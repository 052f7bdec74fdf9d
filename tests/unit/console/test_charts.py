"""Line charts as geometry."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umim.console.charts import BOTTOM, HEIGHT, LEFT, MOST_SERIES, RIGHT, TOP, WIDTH, Series, line_chart, ticks

FIGURE = st.floats(-1e12, 1e12).filter(lambda value: value == 0 or abs(value) > 1e-9)


@given(values=st.lists(FIGURE, min_size=1, max_size=20))
def test_ticks_span_the_values_rise_and_are_few(values: list[float]) -> None:
    found = ticks(values)
    assert found == sorted(set(found))
    assert 2 <= len(found) <= 8
    slack = 1e-6 * (found[-1] - found[0])  # a millionth of the axis is not seen
    assert found[0] <= min(values) + slack
    assert found[-1] >= max(values) - slack


@given(points=st.lists(st.tuples(FIGURE, FIGURE), min_size=1, max_size=30))
def test_every_point_is_inside_the_frame(points: list[tuple[float, float]]) -> None:
    chart = line_chart("t", "x", "y", [Series("a", tuple(points))])
    assert chart is not None
    for pair in chart.lines[0].path.split():
        x, y = map(float, pair.split(","))
        assert LEFT - 1 <= x <= WIDTH - RIGHT + 1
        assert TOP - 1 <= y <= HEIGHT - BOTTOM + 1


def test_the_largest_value_is_at_the_top_and_the_last_at_the_right() -> None:
    chart = line_chart("t", "x", "y", [Series("a", ((0, 0), (1, 10)))])
    assert chart is not None
    assert chart.lines[0].path == f"{LEFT},{HEIGHT - BOTTOM} {WIDTH - RIGHT},{TOP}"
    assert [tick.label for tick in chart.y_ticks] == ["0", "5", "10"]


@pytest.mark.parametrize("points", [(), ((0.0, math.nan),), ((0.0, math.inf), (1.0, -math.inf))])
def test_without_a_finite_value_there_is_no_chart(points: tuple[tuple[float, float], ...]) -> None:
    assert line_chart("t", "x", "y", [Series("a", points)]) is None


def test_values_that_are_not_finite_leave_the_others() -> None:
    chart = line_chart("t", "x", "y", [Series("a", ((0, 1), (1, math.nan), (2, 3)))])
    assert chart is not None
    assert chart.rows == (("a", "1", "3", "1"),)


def test_more_lines_than_there_are_marks_are_in_the_table_alone() -> None:
    series = [Series(f"site-{number:02}", ((0, 1), (1, number))) for number in range(MOST_SERIES + 3)]
    chart = line_chart("t", "x", "y", series)
    assert chart is not None
    assert (len(chart.lines), chart.left_out, len(chart.rows)) == (MOST_SERIES, 3, MOST_SERIES + 3)
    assert sorted(line.style for line in chart.lines) == list(range(MOST_SERIES))
