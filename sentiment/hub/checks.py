"""What looks wrong in users' texts and labels: refused, or reported."""

import re

import numpy
import pandas
from pyarrow import compute

from sentiment.errors import UserError
from sentiment.labels import INTEGER, READABLE_NAMES, number, some

FEW = 10  # with fewer labels, each may occur once
MOST_LABELS, MOST_LETTERS = 100, 40  # in one pattern, in one label


def check_labels(reviews, settings):
    """Raise UserError for labels that are no classes or in the text, or a useless --label_map."""
    names, mapped = list(dict.fromkeys(reviews.labels)), settings.label_map.values()
    if absent := [f"{x}={y}" for x, y in settings.label_map.items() if y not in names]:
        raise UserError(f"--label_map {absent[0]}: no review has that label; see {some(names)}")
    numbers = [name for name in names if number(name) is not None]
    measured = [name for name in numbers if 2 * number(name) % 1 and name not in mapped]
    others = [name for name in names if number(name) is None]
    example, varied = next(iter(names), ""), 2 * len(names) > len(reviews)
    several = f"{len(names):,} different labels in {len(reviews):,} reviews"
    if measured:  # half stars are classes
        example, reason = measured[0], f"is a measurement, not a class; {several}"
        way = "round it in the file, or name the classes with --label_map"
    elif varied and 3 < len(names) >= 2 * len(set(reviews.hashes)):
        reason = f"is one of {several}, with fewer different texts: the columns look swapped"
        way = f"give --text_column {settings.label_column} --label_column {settings.text_column}"
    elif varied and len(names) >= FEW:
        reason, way = f"is no class; {several}", "choose another column"
    elif len(numbers) > 1 and len(others) > 1 and not mapped:
        example = numbers[0]
        reason = f"is a number, but other labels are names, such as {some(others[:1])}"
        way = "join them by --label_map NUMBER=NAME,..."
    elif settings.label_column in reviews.columns:
        reason, way = "is part of its own text", "give another --text_column"
    else:
        return
    row = reviews.rows[(reviews.labels == example).argmax()]
    given = f"--label_column {settings.label_column}: {some([example])} (row {row})"
    raise UserError(f"{given} {reason}; {way}")


def contradictions(reviews):
    """A line on texts that occur with different labels, or none."""
    frame = pandas.DataFrame({"text": reviews.hashes, "label": reviews.labels}, reviews.rows)
    once = frame.drop_duplicates()
    found = once["text"][once.duplicated("text", keep=False)]
    if found.empty:
        return []
    first, second = found.index[found == found.iloc[0]][:2]
    example = f"{some([reviews.text(first)])} (rows {first} and {second})"
    count = f"{found.nunique():,} texts with different labels"
    return [f"{reviews.split}: {count}, such as {example}"]


def respelled(column, codes, labels, read, label_map):
    """A line on labels read as others, or none. Given what data.encode and labels.read return."""
    lines = []
    for i, row in zip(*numpy.unique(codes, return_index=True), strict=True):
        label, name = labels[i], read[labels[i]]
        known = (label, READABLE_NAMES.get(label), "", *label_map.values())
        plain = not isinstance(label, str) or (INTEGER.fullmatch(label) and "," not in label)
        if not plain and name not in known:
            lines += [f"{some([repr(label)])} (row {row}) as {some([repr(name)])}"]
    return [f"{column}: read {', '.join(lines[:5])}{', ...' * (len(lines) > 5)}"] if lines else []


def stray_quotes(columns, labels):
    """A line on texts that hold whole rows of a CSV file, or none. columns: of the texts."""
    short = [x.strip() for x in labels if isinstance(x, str) and 0 < len(x.strip()) <= MOST_LETTERS]
    if not short:
        return []
    names = "|".join(map(re.escape, short[:MOST_LABELS]))
    label, line = rf'"?(?:{names})"?', r"[^\n]*"
    row = rf"(?:{line}[,;\t]{label}(?:[,;\t]{line})?|{label}[,;\t]{line})"
    # Each line but the last is a row with a label; or each but the first.
    pattern = rf"\A(?:{row}\r?\n)+{line}\z|\A{line}(?:\n{row})+\s*\z"
    report = []
    for name, column in columns.items():
        rows = numpy.flatnonzero(compute.match_substring_regex(column, pattern))
        if len(rows):
            text = column[rows[0]].as_py().strip()
            inside = text.count("\n")
            seems = f"{some([text])} (row {rows[0]}) seems to hold {inside} other rows"
            report += [f"{name}: {seems}; check for a stray quote ({len(rows):,} such texts)"]
    return report
