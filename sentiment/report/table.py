"""The metrics as text, for a terminal and the model card."""

from pandas import DataFrame

from sentiment import intervals
from sentiment.metrics import FIGURES, LOSSES, averaged


def table(metrics):
    names, n = metrics["labels"], metrics["reviews"]
    first, *others = averaged(names)
    about = "mean over classes" if others else f"of {names[first]!r}"
    notes = dict.fromkeys(("f1", "precision", "recall"), about) | dict.fromkeys(LOSSES, "0 is best")
    figures = [f"{'reviews':<20}{n:>10,}  95% CI"]
    for name in FIGURES:
        value, note, limits = metrics[name], notes.get(name, ""), metrics["intervals"].get(name)
        value, note = ("-", "a class has no review") if value is None else (f"{value:.4f}", note)
        limits = f"{limits[0]:.4f} to {limits[1]:.4f}" if limits else ""
        figures.append(f"{name:<20}{value:>10}  {limits:<18}{note}".rstrip())
    classes = DataFrame(metrics["per_class"].values(), names).rename_axis(columns="class")
    predicted = [f"predicted {name}" for name in names]
    confusion = DataFrame(metrics["confusion_matrix"], names, predicted)
    frames = [classes, confusion.rename_axis(columns="true class")]
    if others := metrics.get("baselines", {}) | metrics.get("compared_to", {}):
        figures_of = "accuracy", "f1", "disagreements"
        rows = [(*map(row.get, figures_of), difference(row)) for row in others.values()]
        columns = *figures_of, "accuracy, model minus this"
        frames.append(DataFrame(rows, others, columns).rename_axis(columns="compared with"))
    low, high = metrics["intervals"]["accuracy"]
    apart = 100 * intervals.least_difference((low + high) / 2, n)
    limits = (
        f"Accuracy on {n:,} reviews is between {low:.1%} and {high:.1%} (95% CI).\n"
        f"A model scored on {n:,} others must differ by about {apart:.1f} points for significance."
    )
    tables = [frame.to_string(float_format="%.4f") for frame in frames]
    return "\n\n".join(["\n".join(figures), *tables, limits])


def difference(other):
    low, high = (100 * limit for limit in other["difference_interval"])
    verdict = "better" if low > 0 else "worse" if high < 0 else "not significant"
    points = f"{100 * other['difference']:+.1f} points"
    return f"{points} (95% CI {low:.1f} to {high:.1f}): {verdict}"
