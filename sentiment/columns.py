"""The columns of a user's table: what separates them, and which of them make up a text."""

SEPARATORS = {",": "", ";": "separated by semicolons", "\t": "separated by tabs"}


def of_text(column, there):
    """--text_column as a list: `title,body` are two, unless one of those `there` has that name."""
    return [column] if column in there else [name.strip() for name in column.split(",")]


def join(parts):
    """The text of a review in several columns: those that are not blank, joined by a space."""
    return " ".join(part for part in parts if part and part.strip())
