"""Intervals against published examples, and their coverage by simulation."""

import statistics

import numpy
import pytest
from sklearn import metrics as sklearn_metrics

from sentiment import intervals
from sentiment.metrics import metric_intervals

DRAWS = 2000


def coverage(truth, limits):
    """The share of intervals that contain the truth."""
    return sum(low <= truth <= high for low, high in limits) / len(limits)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe (1998, Statistics in Medicine 17: 857-872), table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_examples(successes, trials, low, high):
    assert intervals.wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_f1_by_hand():
    """81 hits and 182 errors: J has the first of the published intervals."""
    low, high = 2 * 0.2553 / 1.2553, 2 * 0.3662 / 1.3662
    assert intervals.f1(81, 182) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("area", [0.6, 0.8, 0.99])
def test_limits_of_an_auc_are_196_standard_errors_away(area):
    """By Hanley and McNeil's formula (1982), with Newcombe's N in place of m - 1 and n - 1."""
    m, n = 30, 50
    for limit in intervals.roc_auc(area, m, n):
        q1, q2 = limit / (2 - limit) - limit**2, 2 * limit**2 / (1 + limit) - limit**2
        variance = (limit * (1 - limit) + ((m + n) / 2 - 1) * (q1 + q2)) / (m * n)
        assert abs(limit - area) == pytest.approx(1.959964 * variance**0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("only_first", "only_second", "reviews", "low", "high"),
    [
        # Shares of 10 and 5 of 100: 0.05 -+ 1.959964 * sqrt((0.15 - 0.0025) / 100).
        (9, 4, 98, -0.0252738, 0.1252738),
        # 2 and 1 of 3: 1/3 -+ 1.0669, cut off at 1; and the other way round.
        (1, 0, 1, -0.7335360, 1.0),
        (0, 1, 1, -1.0, 0.7335360),
    ],
)
def test_the_interval_of_a_paired_difference_by_hand(only_first, only_second, reviews, low, high):
    found = intervals.paired_difference(only_first, only_second, reviews)
    assert found == pytest.approx((low, high), abs=1e-6)


def test_without_trials_the_interval_is_everything():
    assert intervals.wilson(0, 0) == (0, 1)
    assert intervals.f1(0, 0) == (0, 1)


@pytest.mark.parametrize(
    ("accuracy", "reviews"), [(0.87, 100), (0.98, 100), (0.6, 40), (0.9, 1000)]
)
def test_the_interval_of_accuracy_covers_the_truth(accuracy, reviews):
    samples = numpy.random.default_rng(0).binomial(reviews, accuracy, size=DRAWS)
    assert 0.93 < coverage(accuracy, [intervals.wilson(int(n), reviews) for n in samples]) < 0.98


@pytest.mark.parametrize("cells", [(43, 7, 6, 44), (20, 2, 8, 70), (5, 3, 1, 91)])
def test_the_interval_of_f1_covers_the_truth(cells):
    """cells: shares in percent of true positives, false positives, false negatives and true
    negatives.
    """
    share = numpy.array(cells) / 100
    truth = 2 * share[0] / (2 * share[0] + share[1] + share[2])
    samples = numpy.random.default_rng(0).multinomial(100, share, size=DRAWS)
    covered = coverage(truth, [intervals.f1(int(tp), int(fp + fn)) for tp, fp, fn, _ in samples])
    assert 0.93 < covered < 0.98


@pytest.mark.parametrize(
    ("distance", "positives", "negatives"), [(1.6, 50, 50), (2.5, 50, 50), (1.0, 20, 80)]
)
def test_the_interval_of_auc_covers_the_truth(distance, positives, negatives):
    """Scores of the two classes are normal, `distance` apart, so the area is known. The method is
    on the safe side.
    """
    random, truth = numpy.random.default_rng(0), statistics.NormalDist().cdf(distance / 2**0.5)
    limits = []
    for _ in range(500):
        up, down = random.normal(distance, 1, positives), random.normal(0, 1, negatives)
        area = (up[:, None] > down).mean()
        limits.append(intervals.roc_auc(area, positives, negatives))
    assert coverage(truth, limits) > 0.93


def test_an_auc_of_one_has_a_wide_interval():
    low, high = intervals.roc_auc(1.0, 50, 50)
    assert 0.9 < low < 0.97
    assert high == 1


@pytest.mark.parametrize(
    "shares", [(0.80, 0.10, 0.04, 0.06), (0.85, 0.06, 0.06, 0.03), (0.50, 0.40, 0.02, 0.08)]
)
def test_the_interval_of_a_paired_difference_covers_the_truth(shares):
    """shares: reviews that both, only the first, only the second and neither gets right."""
    samples = numpy.random.default_rng(0).multinomial(100, shares, size=DRAWS)
    limits = [
        intervals.paired_difference(int(first), int(second), 100) for _, first, second, _ in samples
    ]
    assert 0.93 < coverage(shares[1] - shares[2], limits) < 0.98


def test_the_interval_of_macro_f1_covers_the_truth():
    share = numpy.array([[25, 4, 1], [5, 30, 5], [2, 8, 20]]) / 100
    truth = numpy.mean([2 * share[i, i] / (share[i].sum() + share[:, i].sum()) for i in range(3)])
    samples = (
        numpy.random.default_rng(0).multinomial(150, share.ravel(), size=DRAWS).reshape(-1, 3, 3)
    )
    limits = [metric_intervals(confusion, range(3), {})["f1"] for confusion in samples]
    assert coverage(truth, limits) > 0.95
    assert numpy.mean([high - low for low, high in limits]) < 0.25


def test_the_least_difference_is_just_significant():
    """At this distance the interval of the difference of two accuracies just excludes 0."""
    reviews, accuracy = 100, 0.87
    apart = intervals.least_difference(accuracy, reviews)
    spread = (2 * accuracy * (1 - accuracy) / reviews) ** 0.5
    assert apart == pytest.approx(1.96 * spread, rel=1e-4)
    assert 0.09 < apart < 0.1


def test_the_intervals_of_a_confusion_matrix_are_those_of_its_cells():
    truth, predicted = [0] * 50 + [1] * 50, [0] * 44 + [1] * 6 + [0] * 7 + [1] * 43
    confusion = sklearn_metrics.confusion_matrix(truth, predicted)
    found = metric_intervals(confusion, [1], {1: 0.93})
    assert found["accuracy"] == intervals.wilson(87, 100)
    assert found["f1"] == intervals.f1(43, 13)
    assert found["roc_auc"] == intervals.roc_auc(0.93, 50, 50)
