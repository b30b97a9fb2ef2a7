"""Soft labels: objects {name: probability}, as predict.py writes them. Raises UserError."""

import json
import re

import numpy
import pandas

from sentiment.errors import UserError
from sentiment.labels import label_name, some


def is_object(label):
    return isinstance(label, str) and re.match(r"\s*\{(\s*\}|.*:)", label, re.DOTALL)


def read(labels, where):
    """What data.encode returns; probabilities: a table of the rows with objects, with a column for
    each name. labels: names, integers, None and objects, also in JSON.
    """
    labels = [json.loads(x) if is_object(x) or str(x)[:1] == '"' else x for x in labels]
    objects = {row: label for row, label in enumerate(labels) if isinstance(label, dict)}
    others = [label for label in labels if label is not None]
    if others and not objects:
        way = "all integers, all strings, or names and objects {name: probability}"
        found = some([repr(others[0])])
        raise UserError(f"{where}: labels must be {way}, unlike {found}; see --label_column")
    table = pandas.DataFrame.from_dict(objects, orient="index").dropna(how="all")  # {} has none
    table = table.apply(pandas.to_numeric, errors="coerce")
    right = (table >= 0).all(axis=1) & ((table.sum(axis=1) - 1).abs() <= 1e-3)
    right &= all(map(label_name, table.columns))
    for row in right.index[~right][:1]:
        names, given = some(table.columns), some([str(objects[row])])
        needs = f"needs a probability for each of {names}, with sum 1"
        raise UserError(f"{where}, row {row}: {given} {needs}")
    best = dict.fromkeys(objects) | table.idxmax(axis=1).to_dict()
    labels = [best.get(row, label) for row, label in enumerate(labels)]
    codes, names = pandas.factorize(numpy.array([*labels, *table.columns], object))
    codes = numpy.where(codes < 0, len(names), codes)[: len(labels)]
    return codes, [*names, None], None if table.empty else table


def by_class(named, table, read, classes, where):
    """(The most probable class of N rows, or ""; float32 [N, C], with a 1 for a name).

    named: the classes by name; table: what `read` returns; read: {label: class}.
    """
    of_names = [read[name] for name in table.columns]
    if odd := sorted(set(named) - set(of_names) - {""}):
        reason = f"the probabilities are of {some(of_names)}, but others say {some(odd)}"
        raise UserError(f"{where}: {reason}; see --label_map")
    result = (named[:, None] == numpy.array(classes, object)).astype(numpy.float32)
    result[table.index] = table @ [[of == name for name in classes] for of in of_names]
    best = numpy.array(classes, object)[result.argmax(axis=1)]
    return numpy.where(named == "", "", best), result
