"""The columns of a user's table: how a header is split, and which of them make up a text."""

import csv

from sentiment.errors import UserError
from sentiment.labels import some

SEPARATORS = {",": "", ";": "separated by semicolons", "\t": "separated by tabs"}


def split(header):
    """(separator, names): a line of CSV is split by what gives the most columns."""
    rows = {mark: next(csv.reader([header], delimiter=mark), []) for mark in SEPARATORS}
    return max(rows.items(), key=lambda row: len(row[1]))


def of_text(column, there):
    """--text_column as a list: `title,body` are two, unless one of those `there` has that name."""
    return [column] if column in there else [name.strip() for name in column.split(",")]


def find(column, there, where):
    """As `of_text`. Raises UserError if one is not there."""
    if set(names := of_text(column, there)) <= set(there):
        return names
    raise UserError(
        f"--text_column {column}: {where} has columns {some(list(there), 20) or 'none'}"
    )


def join(parts):
    """The text of a review in several columns: those that are not blank, joined by a space."""
    return " ".join(part for part in parts if part and part.strip())
