import numpy as np
import pytest

from stages.benchmarks.statistics import Figure, draws, holm, interval, mean_of, mean_over_groups, paired, ratio


def test_a_figure_over_all_items_is_its_plain_value():
    assert mean_of([1.0, 0.0, None, 1.0]).value() == pytest.approx(2 / 3)
    assert mean_over_groups([1.0, 0.0, 1.0, 0.0], ["a", "a", "b", "c"], ["a", "b"]).value() == 0.75


def test_the_interval_of_single_items_is_the_textbook_one():
    generator = np.random.default_rng(0)
    scores = (generator.random(1000) < 0.7).astype(float).tolist()

    low, high = interval(draws({"mean": mean_of(scores)}, [str(n) for n in range(1000)], 2000, 1)["mean"])

    width = 2 * 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert high - low == pytest.approx(width, rel=0.1)
    assert low < np.mean(scores) < high


def test_items_of_one_picture_count_as_one_piece_of_evidence():
    alike = np.repeat((np.random.default_rng(0).random(100) < 0.5).astype(float), 10).tolist()
    pictures = np.repeat(np.arange(100), 10).astype(str).tolist()

    def width(clusters):
        low, high = interval(draws({"mean": mean_of(alike)}, clusters, 2000, 1)["mean"])
        return high - low

    assert width(pictures) == pytest.approx(np.sqrt(10) * width([str(n) for n in range(1000)]), rel=0.1)


def test_the_draws_agree_with_a_plain_loop_over_resampled_pictures():
    generator = np.random.default_rng(5)
    over, under = generator.random(30), generator.random(30) + 1
    pictures = generator.integers(0, 8, 30)
    figure = Figure(np.column_stack([over, under]), lambda sums: ratio(sums[..., 0], sums[..., 1]))

    low, high = interval(draws({"ratio": figure}, pictures.astype(str).tolist(), 4000, 1)["ratio"])

    names = np.unique(pictures)
    plain = []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(pictures == name) for name in generator.choice(names, len(names))])
        plain.append(over[rows].sum() / under[rows].sum())
    assert [low, high] == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.01)


def test_the_same_seed_draws_the_same_and_two_models_are_drawn_together():
    pictures = ["a", "b", "c", "d"]
    one = draws({"mean": mean_of([1.0, 0.0, 1.0, 0.0])}, pictures, 250, 3)["mean"]
    two = draws({"mean": mean_of([1.0, 0.0, 1.0, 0.0])}, pictures, 250, 3)["mean"]

    assert np.array_equal(one, two)
    assert len(one) == 250


def test_two_equal_models_are_never_told_apart():
    test = paired([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], ["a", "b", "c"], 500, 0)

    assert (test.difference, test.p_worse, test.p_better) == (0.0, 1.0, 1.0)


def test_a_clear_gain_is_told_and_its_direction_is_right():
    test = paired([0.0] * 40, [1.0] * 30 + [0.0] * 10, [str(n) for n in range(40)], 1000, 0)

    assert test.difference == 0.75
    assert 0 < test.low < 0.75 < test.high <= 1
    assert test.p_better < 0.01
    assert test.p_worse > 0.9
    assert test.clusters == 40


def test_the_gain_that_a_test_is_said_to_detect_is_the_textbooks():
    generator = np.random.default_rng(3)
    a, b = (generator.normal(size=400).tolist() for _ in range(2))

    test = paired(a, b, [str(n) for n in range(400)], 4000, 0)

    assert test.detectable == pytest.approx(2.802 * np.sqrt(2 / 400), rel=0.1)


def test_two_equally_good_models_rarely_differ_by_the_test():
    generator = np.random.default_rng(11)
    pictures = np.repeat(np.arange(60), 3).astype(str).tolist()
    alarms = 0
    for seed in range(200):
        skill = np.repeat(generator.random(60), 3)
        a, b = ((generator.random(180) < skill).astype(float).tolist() for _ in range(2))
        alarms += paired(a, b, pictures, 200, seed).p_worse <= 0.05

    assert alarms / 200 < 0.1


def test_a_group_absent_from_a_draw_is_left_out_of_its_mean():
    drawn = draws({"macro": mean_over_groups([1.0, 1.0], ["a", "b"], ["a", "b"])}, ["x", "y"], 200, 0)["macro"]

    assert np.all(drawn == 1.0)


def test_no_items_give_no_interval():
    low, high = interval(draws({"mean": mean_of([])}, [], 10, 0)["mean"])

    assert np.isnan(low)
    assert np.isnan(high)


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_never_goes_down():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
