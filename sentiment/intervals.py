"""95% confidence intervals of scores measured on few reviews."""

import math

import numpy
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

Z = norm.ppf(0.975)


def wilson(successes, trials):
    """For a proportion, such as accuracy: the score method (Wilson 1927)."""
    if not trials:
        return 0.0, 1.0
    return tuple(binomtest(successes, trials).proportion_ci(method="wilson"))


def f1(true_positives, errors):
    """For F1 = 2 TP / (2 TP + errors), errors = false positives + false negatives.

    F1 = 2 J / (1 + J) rises with J = TP / (TP + errors), a proportion: its limits give F1's.
    """
    low, high = wilson(true_positives, true_positives + errors)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def roc_auc(auc, positives, negatives):
    """For the area under the ROC curve: method 5 of Newcombe (2006, Statistics in Medicine 25)."""
    half = (positives + negatives) / 2 - 1

    def excess(t):  # 0 where `auc` is 1.96 standard errors away from an area of t
        spread = 1 + half * ((1 - t) / (2 - t) + t / (1 + t))
        return abs(t - auc) - Z * math.sqrt(t * (1 - t) * spread / (positives * negatives))

    # An `auc` of 0 or 1 is a root: start beside it.
    return tuple(brentq(excess, auc + 1e-9 * (end - auc), end) for end in (0.0, 1.0))


def mean(limits):
    """For a macro average: the averages of the limits, which is conservative."""
    return tuple(numpy.mean(limits, axis=0).tolist())


def paired_difference(only_first, only_second, reviews):
    """For the difference of two accuracies on the same reviews: Bonett and Price (2012, Journal of
    Educational and Behavioral Statistics 37). only_first: reviews that only one got right.
    """
    n = reviews + 2
    p, q = (only_first + 1) / n, (only_second + 1) / n
    half = Z * math.sqrt((p + q - (p - q) ** 2) / n)
    return max(-1.0, p - q - half), min(1.0, p - q + half)


def least_difference(accuracy, reviews):
    """The smallest significant difference of two models, each scored on its own `reviews`."""
    return Z * math.sqrt(2 * accuracy * (1 - accuracy) / reviews)
