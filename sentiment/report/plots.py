"""Plots of an evaluation. Nothing else needs matplotlib."""

import logging
import sys
import warnings
from contextlib import suppress

import numpy
import torch
from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

from sentiment import intervals
from sentiment.labels import some
from sentiment.metrics import averaged, reliability_bins

MOST = 12  # classes in a plot
rcParams["text.parse_math"] = False  # names may hold $
logging.getLogger("matplotlib").setLevel("ERROR")
warnings.filterwarnings("ignore", "Glyph")  # choose_font prints a line


def draw(folder, scores, logits, labels, log):
    """Write the plots into `folder`; returns {file name: caption}."""
    labels, probabilities = torch.as_tensor(labels), logits.double().softmax(dim=1)
    split, names = f"split {scores['split']}", scores["labels"]
    if missing := choose_font("".join(names) + split):
        drawn = [f"class {i}" if missing & set(name) else name for i, name in enumerate(names)]
        scores = {**scores, "labels": drawn}
    most = f", {MOST} of {len(names)} classes: those with most errors" * (len(names) > MOST)
    pictures = {
        "confusion.png": (f"confusion matrix, {split}{most}", 1, confusion),
        "curves.png": (f"ROC and precision-recall curves, {split}{most}", 2, curves),
        "reliability.png": (f"accuracy by confidence, {split}", 1, reliability),
    }
    if log:
        pictures["training.png"] = "loss and learning rate", 1, training
    size = 9 if len(names) > 4 or len("".join(names)) > 40 else 5
    for name, (caption, columns, paint) in pictures.items():
        figure = Figure(figsize=(size * columns, size - 1), dpi=120, layout="constrained")
        paint(figure.subplots(1, columns), scores, probabilities, labels, log)
        figure.suptitle(caption)
        figure.savefig(folder / name)
    return {name: caption for name, (caption, *_) in pictures.items()}


def choose_font(letters):
    """Use fonts that have them, or print a line. Returns those that are missing."""
    families, missing = {}, set(letters)
    for font in sorted(font_manager.fontManager.ttflist, key=lambda x: x.name != "DejaVu Sans"):
        with suppress(OSError, RuntimeError):  # matplotlib cannot read every font
            found = missing.intersection(map(chr, font_manager.get_font(font.fname).get_charmap()))
            if found and "Last Resort" not in font.name:  # it has boxes for all
                families[font.name], missing = True, missing - found
        if not missing:
            break
    else:
        first = "".join(sorted(missing)[:20])
        print(f"plots: no font here has {first}; their classes are numbers", file=sys.stderr)
    rcParams["font.family"] = list(families)
    return missing


def shown(scores):
    """Ids of the classes to draw, at most MOST: those with most errors."""
    counts = numpy.array(scores["confusion_matrix"])
    errors = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
    return sorted((-errors).argsort(kind="stable")[:MOST])


def confusion(axes, scores, *_):
    ids = shown(scores)
    counts = numpy.array(scores["confusion_matrix"])[numpy.ix_(ids, ids)]
    names = [some([scores["labels"][i]]) for i in ids]
    matrix = ConfusionMatrixDisplay(counts, display_labels=names)
    matrix.plot(ax=axes, cmap="Blues", colorbar=False, xticks_rotation=90)


def curves(axes, scores, probabilities, labels, _):
    for i in averaged(scores["labels"], shown(scores)):
        is_class, name = labels == i, some([scores["labels"][i]])
        if len(is_class.unique()) == 2:  # no curve without both kinds
            for display, ax in zip((RocCurveDisplay, PrecisionRecallDisplay), axes, strict=True):
                display.from_predictions(is_class, probabilities[:, i], name=name, ax=ax)
    axes[0].plot([0, 1], [0, 1], "--", color="0.6")


def reliability(axes, scores, probabilities, labels, _):
    axes.plot([0, 1], [0, 1], "--", color="0.6")
    for x, y, reviews in reliability_bins(probabilities, labels):
        axes.plot([x, x], intervals.wilson(round(y * reviews), reviews), color="tab:blue")
        axes.plot(x, y, "o", color="tab:blue")
        axes.annotate(f"{reviews:,}", (x, y), textcoords="offset points", xytext=(6, -3))
    axes.set(xlabel="mean confidence per bin", ylabel="accuracy with 95% CI")
    axes.set(title=f"calibration error {scores['calibration_error']:.3f} (numbers: reviews)")


def training(axes, scores, probabilities, labels, log):
    lines = {}
    for entry in log:
        scores = entry.get("eval", {"split": "training", **entry})
        lines.setdefault(scores["split"], []).append((entry["step"], scores["loss"]))
    for split, curve in lines.items():
        style = "." if split == "training" else "o-"
        axes.plot(*zip(*curve, strict=True), style, label=split, alpha=0.5)
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
    axes.legend()
    right = axes.twinx()
    rates = {each["step"]: each["learning_rate"] for each in log if "eval" not in each}
    right.plot(list(rates), list(rates.values()), ":", color="tab:red")
    right.set(ylabel="learning rate (dotted)", ylim=(0, None))
    right.yaxis.set_major_formatter("{x:.1e}")
