"""Metrics against numbers computed by hand."""

import math

import pytest
import torch

from sentiment import intervals, metrics
from sentiment.report.table import table

NAMES = ["negative", "positive"]


def logits_of(probabilities):
    """Logits with these probabilities as softmax, one row per review."""
    return torch.tensor(probabilities, dtype=torch.float64).log()


def binary(scores):
    return logits_of([[1 - score, score] for score in scores])


# Truth and the probability of class 1; at 0.5 four are right: rows 0, 1, 3, 4.
LABELS = [1, 1, 1, 0, 0, 0]
SCORES = [0.9, 0.6, 0.3, 0.2, 0.4, 0.7]


def test_metrics_of_two_classes_by_hand():
    scores = metrics.score(binary(SCORES), LABELS, NAMES)
    assert scores["confusion_matrix"] == [[2, 1], [1, 2]]
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["precision"] == scores["recall"] == scores["f1"] == pytest.approx(2 / 3)
    # 3 x 3 pairs of a positive and a negative: 0.9 beats three, 0.6 two, 0.3 one.
    assert scores["roc_auc"] == pytest.approx((3 + 2 + 1) / 9)
    right = [0.9, 0.6, 0.3, 1 - 0.2, 1 - 0.4, 1 - 0.7]
    assert scores["loss"] == pytest.approx(-sum(map(math.log, right)) / 6)
    assert (scores["reviews"], scores["labels"]) == (6, NAMES)
    assert scores["per_class"]["negative"] == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "reviews": 3}
    )


@pytest.mark.parametrize("names", [["positive", "negative"], ["Positive", "Other"]])
def test_precision_and_recall_are_of_the_class_named_positive(names):
    # Class 0: 3 reviews, 1 found; 1 review is taken for it wrongly.
    scores = metrics.score(binary([0.1, 0.8, 0.9, 0.7, 0.2]), [0, 0, 0, 1, 1], names)
    assert scores["precision"] == pytest.approx(1 / 2)
    assert scores["recall"] == pytest.approx(1 / 3)
    assert scores["f1"] == pytest.approx(2 / (2 + 3))
    # Pairs: of class 0, 0.1 is below (so more like class 0 than) both; 0.8 and 0.9 are above both.
    assert scores["roc_auc"] == pytest.approx(2 / 6)


def test_precision_and_recall_default_to_the_second_class():
    scores = metrics.score(binary([0.1, 0.8, 0.9, 0.7, 0.2]), [0, 0, 0, 1, 1], ["bad", "good"])
    assert (scores["precision"], scores["recall"]) == pytest.approx((1 / 3, 1 / 2))


def test_ties_count_half_in_the_auc():
    assert metrics.score(binary([0.5, 0.5, 0.9]), [0, 1, 1], NAMES)["roc_auc"] == pytest.approx(
        (0.5 + 1) / 2
    )


PROBABILITIES = [
    *([0.60, 0.30, 0.10], [0.20, 0.50, 0.30], [0.11, 0.70, 0.19]),
    *([0.32, 0.48, 0.20], [0.21, 0.12, 0.67], [0.51, 0.24, 0.25]),
]


def test_three_classes_are_averaged_over_the_classes():
    truth = [0, 0, 0, 1, 2, 2]
    scores = metrics.score(logits_of(PROBABILITIES), truth, ["low", "middle", "high"])
    assert scores["confusion_matrix"] == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
    assert scores["precision"] == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    assert scores["recall"] == pytest.approx((1 / 3 + 1 + 1 / 2) / 3)
    assert scores["f1"] == pytest.approx((2 / 5 + 2 / 4 + 2 / 3) / 3)

    def auc(c):  # the share of the pairs in which the review of class c looks more like c
        own, others = (
            [p[c] for p, t in zip(PROBABILITIES, truth, strict=True) if (t == c) is is_c]
            for is_c in (True, False)
        )
        return sum(p > q for p in own for q in others) / (len(own) * len(others))

    assert scores["roc_auc"] == pytest.approx((auc(0) + auc(1) + auc(2)) / 3)


def test_a_class_without_reviews_has_no_auc_and_keeps_its_row():
    scores = metrics.score(binary([0.2, 0.9]), [0, 0], NAMES)
    assert scores["roc_auc"] is None
    assert scores["confusion_matrix"] == [[1, 1], [0, 0]]
    assert (scores["precision"], scores["recall"], scores["f1"]) == (0, 0, 0)
    assert "a class has no review" in table(scores)


def test_counts_are_integers_even_if_no_prediction_is_right():
    scores = metrics.score(binary([0.9, 0.8, 0.7]), [0, 0, 0], NAMES)
    counts = [each["reviews"] for each in scores["per_class"].values()]
    assert counts == [3, 0]
    assert all(isinstance(count, int) for count in counts)


def test_macro_averages_skip_a_class_without_reviews_and_predictions():
    scores = metrics.score(logits_of(PROBABILITIES[:4]), [0, 0, 1, 1], ["low", "middle", "high"])
    assert scores["confusion_matrix"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert scores["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_the_table_shows_the_numbers():
    scores = metrics.score(binary(SCORES + [0.99] * 1000), LABELS + [1] * 1000, NAMES)
    lines = [line.split() for line in table(scores).splitlines()]
    assert ["reviews", "1,006", "95%", "CI"] in lines
    assert ["accuracy", f"{1004 / 1006:.4f}", *limits(intervals.wilson(1004, 1006))] in lines
    assert ["f1", f"{2004 / 2006:.4f}", *limits(intervals.f1(1002, 2)), "of", "'positive'"] in lines
    assert ["precision", f"{1002 / 1003:.4f}", "of", "'positive'"] in lines
    assert ["roc_auc", f"{scores['roc_auc']:.4f}", *limits(scores["intervals"]["roc_auc"])] in lines
    assert ["negative", "0.6667", "0.6667", "0.6667", "3"] in lines
    start = lines.index(["true", "class", "predicted", "negative", "predicted", "positive"])
    assert lines[start + 1 : start + 3] == [["negative", "2", "1"], ["positive", "1", "1002"]]
    assert lines[-2][:4] == ["Accuracy", "on", "1,006", "reviews"]


def limits(interval):
    return [f"{interval[0]:.4f}", "to", f"{interval[1]:.4f}"]


def test_the_report_states_the_least_significant_difference():
    scores = metrics.score(binary([0.9] * 50 + [0.1] * 50), [1] * 43 + [0] * 50 + [1] * 7, NAMES)
    low, high = intervals.wilson(86, 100)
    assert scores["accuracy"] == 0.86
    *_, known, apart = table(scores).splitlines()
    assert f"between {low:.1%} and {high:.1%} (95% CI)" in known
    middle = (low + high) / 2
    assert f"by about {100 * 1.96 * (2 * middle * (1 - middle) / 100) ** 0.5:.1f} points" in apart


def test_calibration_by_hand():
    """The confidences 0.93, 0.64, 0.82, 0.62 and 0.73 in bins of width 0.1: two share one, of which
    one is right.
    """
    scores = metrics.score(binary([0.93, 0.64, 0.18, 0.38, 0.73]), [1, 1, 0, 1, 0], NAMES)
    errors = [2 * abs(1 / 2 - 0.63), abs(0 - 0.73), abs(1 - 0.82), abs(1 - 0.93)]
    assert scores["calibration_error"] == pytest.approx(sum(errors) / 5)
    assert scores["brier_score"] == pytest.approx(
        (0.07**2 + 0.36**2 + 0.18**2 + 0.62**2 + 0.73**2) / 5
    )


def test_a_confident_and_correct_model_is_perfectly_calibrated():
    scores = metrics.score(torch.tensor([[50.0, 0.0], [0.0, 50.0]]), [0, 1], NAMES)
    assert (scores["calibration_error"], scores["brier_score"]) == pytest.approx((0, 0), abs=1e-9)


def test_half_the_squared_distance_for_three_classes():
    scores = metrics.score(logits_of(PROBABILITIES[:1]), [1], ["low", "middle", "high"])
    assert scores["brier_score"] == pytest.approx((0.6**2 + 0.7**2 + 0.1**2) / 2)
