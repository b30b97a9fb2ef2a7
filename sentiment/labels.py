"""Labels -> names of classes, in the order of their ids."""

import math
import re
import unicodedata

READABLE_NAMES = {"neg": "negative", "pos": "positive"}
MISSING = {"nan", "null", "<na>", "#n/a", r"\n"}  # in tables that other programs wrote
INTEGER = re.compile(r"^(-?[0-9]+)([.,]0{1,2})?$")  # with nulls, integers become 1.0


def label_name(label):
    """The name of a label, without invisible characters; "" for a missing one: None, nan, ""."""
    if label is None or label != label:
        return ""
    visible = (c if c.isprintable() else " " * c.isspace() for c in str(label))
    name = unicodedata.normalize("NFC", " ".join("".join(visible).split()))
    return READABLE_NAMES.get(name, INTEGER.sub(r"\1", name))


def number(name):
    """A label as a number, with a decimal point or comma, or None."""
    try:
        value = float(name.replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def class_names(labels):
    """The classes by id: numbers by value, else alphabetically."""
    unique = sorted(set(labels))
    return unique if None in map(number, unique) else sorted(unique, key=number)


def names_of(model):
    return [label_name(name) for _, name in sorted(model.config.id2label.items())]


def fold(name):
    """Equal for names that differ in case only."""
    return READABLE_NAMES.get(name.casefold(), name.casefold())


def read(labels, names, label_map, known):
    """Different labels, the most frequent first -> ({label: name}, names of the classes by id).

    names: a ClassLabel's, or None; label_map: {label: another name}, which may join classes. Names
    that differ in case only are one class: one of `label_map`, of `known`, or the most frequent.
    """
    spelled = {label: label_name(label) for label in labels}
    order = list(map(label_name, names or ()))
    mapping = {fold(label): name for label, name in label_map.items()}
    preferred = [*mapping.values(), *known, *order, *spelled.values()]
    chosen = {fold(name): name for name in reversed(preferred)}
    chosen |= dict.fromkeys(MISSING.difference(map(fold, [*label_map, *known, *order])), "")
    kept = {*known, *order}
    spelled = {x: name if name in kept else chosen[fold(name)] for x, name in spelled.items()}
    order = order or class_names(set(spelled.values()) - {""})
    classes = list(dict.fromkeys(mapping.get(fold(name), name) for name in order))
    return {label: mapping.get(fold(name), name) for label, name in spelled.items()}, classes


def some(names, most=5):
    """The first of them, cut if they are long, for a message."""
    cut = [name if len(name) <= 40 else f"{name[:37]}..." for name in names[:most]]
    return ", ".join(cut) + (f" and {len(names) - most:,} more" if len(names) > most else "")
