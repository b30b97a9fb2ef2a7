"""The metrics as lines for a terminal; the model card uses some of them."""

from sentiment import intervals
from sentiment.metrics import FIGURES, LOSSES, averaged

FORMATS = {float: ".4f", int: ",", str: ""}


def table(metrics):
    names = metrics["labels"]
    width = max(20, *(len(name) + 11 for name in names))
    first, *others = averaged(names)
    about = "mean over classes" if others else f"of {names[first]!r}"
    keys = "reviews", "f1", "precision", "recall"
    notes = dict.fromkeys(keys, about) | dict.fromkeys(LOSSES, "0 is best")

    def row(name, *cells, size=10):
        shown = (format(cell, FORMATS[type(cell)]).rjust(size) for cell in cells)
        return name.ljust(width) + "".join(shown)

    lines = [row("reviews", metrics["reviews"]) + "  95% CI"]
    for name in FIGURES:
        value, note = metrics[name], notes.get(name, "")
        if value is None:
            value, note = "-", "a class has no review"
        lines += [f"{row(name, value)}  {interval(metrics, name):<18}{note}".rstrip()]
    lines += ["", row("class", *keys)]
    for name, scores in metrics["per_class"].items():
        lines += [row(name, *map(scores.get, keys))]
    lines += ["", row("true class", *(f"predicted {name}" for name in names), size=width)]
    for name, counts in zip(names, metrics["confusion_matrix"], strict=True):
        lines += [row(name, *counts, size=width)]
    if compared := metrics.get("baselines"):
        lines += ["", row("baseline", "accuracy", "f1") + "  accuracy, model minus baseline"]
        for name, scores in compared.items():
            lines += [f"{row(name, scores['accuracy'], scores['f1'])}  {difference(scores)}"]
    return "\n".join([*lines, "", limits(metrics)])


def interval(metrics, name):
    limits = metrics["intervals"].get(name)
    return f"{limits[0]:.4f} to {limits[1]:.4f}" if limits else ""


def difference(baseline):
    low, high = (100 * limit for limit in baseline["difference_interval"])
    verdict = "better" if low > 0 else "worse" if high < 0 else "not significant"
    points = f"{100 * baseline['difference']:+.1f} points"
    return f"{points} (95% CI {low:.1f} to {high:.1f}): {verdict}"


def limits(metrics):
    low, high = metrics["intervals"]["accuracy"]
    n = metrics["reviews"]
    apart = 100 * intervals.least_difference((low + high) / 2, n)
    return (
        f"Accuracy on {n:,} reviews is between {low:.1%} and {high:.1%} (95% CI).\n"
        f"A model scored on {n:,} others must differ by about {apart:.1f} points for significance."
    )
