"""Charts: marks at the right places, axes with round numbers."""

import re

import pytest

from stages.pages.drawing import MOST_POINTS, Series, bar, line_chart, nice_span, smoothed, thinned, ticks, whisker


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (0, 940, [0, 250, 500, 750]), (-2, 2, [-2, -1, 0, 1, 2]), (3, 3, [3])],
)
def test_ticks_are_round_and_within(low, high, wanted):
    assert ticks(low, high, 4) == wanted


def test_steps_are_marked_at_whole_numbers():
    assert ticks(1, 10, 4, whole=True) == [5, 10]
    assert ticks(1, 3, 4, whole=True) == [1, 2, 3]


def test_a_span_holds_all_values_and_zero():
    low, high = nice_span([12.0, 87.3])
    assert low == 0
    assert high >= 87.3
    assert nice_span([5.0, 5.0])[0] < nice_span([5.0, 5.0])[1]


def test_a_whisker_spans_the_interval_and_the_dot_stands_at_the_value():
    drawn = whisker(0.5, 0.4, 0.75, (0, 1))
    assert '<line class="whisker" x1="40.00%" x2="75.00%" y1="11" y2="11"/>' in drawn
    assert 'cx="50.00%"' in drawn


def test_without_an_interval_there_is_no_whisker():
    assert "whisker" not in whisker(0.5, None, None, (0, 1))
    assert "whisker" not in bar(3, 4)
    assert "whisker" in bar(3, 4, low=2, high=3.5)


def test_marks_stay_inside_the_picture():
    assert 'cx="100.00%"' in whisker(7, None, None, (0, 1))
    assert 'cx="0.00%"' in whisker(-7, None, None, (0, 1))


def test_names_of_series_and_axes_are_escaped():
    drawn = line_chart([Series("a", "train", [(0, 1), (1, 2)])], x_label="<b>", y_label='"', label="<i>")
    assert "<b>" not in drawn
    assert "<i>" not in drawn


def test_an_axis_tells_its_marks_exactly():
    drawn = line_chart([Series("a", "train", [(0, 0.0), (9, 10.0)])], x_label="step", y_label="loss")
    assert re.findall(r'<span style="bottom:[^"]*">([^<]*)</span>', drawn) == ["0.0", "2.5", "5.0", "7.5", "10.0"]


def test_a_line_without_points_says_so_and_a_gap_is_skipped():
    assert "Nothing" in line_chart([Series("a", "train", [])], x_label="step", y_label="loss")
    drawn = line_chart([Series("a", "train", [(0, 1.0), (1, float("nan")), (2, 3.0)])], x_label="step", y_label="loss")
    (line,) = re.findall(r'points="([^"]*)"', drawn)
    assert len(line.split()) == 2


def test_a_long_line_is_thinned_but_keeps_its_ends():
    points = [(float(step), 1.0) for step in range(12_345)]
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS + 1
    assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_a_running_mean_keeps_a_straight_line_straight():
    points = [(float(step), 2.0 * step) for step in range(9)]
    assert smoothed(points, 3)[1:-1] == points[1:-1]
