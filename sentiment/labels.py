"""Labels -> names of classes, in the order of their ids."""

import re

from sentiment.errors import UserError

READABLE_NAMES = {"neg": "negative", "pos": "positive"}


def label_name(label, names=None):
    """The name of a label; "" if it is missing: None, nan, "", a negative ClassLabel. UserError.

    names: a ClassLabel's. 1.0 is "1": integers with nulls become floats.
    """
    if label is None or label != label or (names and label < 0):
        return ""
    if isinstance(label, list | dict):
        raise UserError(f"--label_column: labels must be integers or strings, not {label!r}")
    name = names[label] if names else re.sub(r"^(-?[0-9]+)\.0$", r"\1", str(label).strip())
    return READABLE_NAMES.get(name, name)


def class_names(labels, names=None):
    """The classes by id: in a ClassLabel's order, integers by value, or alphabetically."""
    if names:
        return [READABLE_NAMES.get(name, name) for name in names]
    unique = sorted(set(labels))
    integers = all(re.fullmatch(r"-?[0-9]+", name) for name in unique)
    return sorted(unique, key=int) if integers else unique


def names_of(model):
    return class_names((), [name for _, name in sorted(model.config.id2label.items())])
