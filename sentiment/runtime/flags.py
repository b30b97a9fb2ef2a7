"""Flags as the Hugging Face example scripts spell them, checked strictly."""

import argparse
import re
import sys
from pathlib import Path

from sentiment.errors import UserError
from sentiment.labels import fold, label_name

OTHERS = Path(__file__).with_name("flags.md")


class Parser(argparse.ArgumentParser):
    """Takes --a_b and --a-b alike and no abbreviations; a mistake is a UserError."""

    def __init__(self, hint="", **kwargs):
        super().__init__(allow_abbrev=False, **kwargs)
        self.hint = hint

    def parse_args(self, args=None):
        args = list(sys.argv[1:] if args is None else args)
        for index, arg in enumerate(args):
            if arg == "--":
                break
            if arg.startswith("--"):
                flag, equals, value = arg.partition("=")
                flag = "--" + flag[2:].replace("-", "_")
                if flag in self._option_string_actions:
                    args[index] = flag + equals + value
                elif way := replacement(flag):
                    raise UserError(f"{flag} is no flag here: {way}")
        parsed = super().parse_args(args)
        if empty := [name for name, value in vars(parsed).items() if value == ""]:
            self.error(f"--{empty[0]} is empty")
        return parsed

    def group(self, title):
        """A function add(flag, kind, default, help); kind: a type, or a list of choices."""
        add_argument = self.add_argument_group(title).add_argument

        def add(flag, kind, default, help):
            kind = {"choices": kind} if isinstance(kind, list) else {"type": kind}
            note = "" if default in (None, {}) else " (default: %(default)s)"
            add_argument(flag, default=default, help=help + note, **kind)

        return add

    def error(self, message):
        raise UserError(f"{message} (--help lists the flags{self.hint})")


def number(kind, low, high=sys.float_info.max, above=False):
    """An argparse type: a finite int or float from `low` to `high`; `above`: not `low` itself."""
    wanted = f"{'an integer' if kind is int else 'a number'} {'>' if above else '>='} {low}"
    wanted += f" and <= {high}" if high < sys.float_info.max else ""

    def parse(text):
        try:
            value = kind(text)
            if low <= value <= high and not (above and value == low):
                return value
        except ValueError:
            pass  # the same message
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")

    return parse


def replacement(flag):
    """What flags.md says of a flag of other scripts, or None."""
    table = OTHERS.read_text(encoding="utf-8")
    row = re.search(rf"\n\|[^|]*`{re.escape(flag)}`[^|]*\| (.*) \|", table)
    return row and row[1].replace("`", "")


def label_map(text):
    """An argparse type: "0=negative,1=positive" -> {"0": "negative", "1": "positive"}."""
    pairs = [pair.rpartition("=") for pair in text.split(",")]
    found = {label_name(label): label_name(name) for label, _, name in pairs}
    names = set(found.values())
    alike = len(set(map(fold, found))) < len(pairs) or len(set(map(fold, names))) < len(names)
    if alike or "" in (*found, *names):
        way = "expected LABEL=NAME,... with different labels, such as 0=negative,1=positive"
        raise argparse.ArgumentTypeError(f"{way}; got {text!r}")
    return found


def add_data_flags(parser, flags, trained=False):
    """Add data.FLAGS. trained: no defaults; those of training hold."""
    add = parser.group("data")
    for name, (default, help) in flags.items():
        kind = label_map if name == "label_map" else str
        if trained:
            default, help = None, f"{help} (default: as in training, else {default or 'none'})"
        add(f"--{name}", kind, default, help)
