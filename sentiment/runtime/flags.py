"""Flags as the Hugging Face example scripts spell them, checked strictly."""

import argparse
import math
import sys

from sentiment.errors import UserError


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        none = action.default is None or action.default is False
        return action.help if none else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Takes --a_b and --a-b alike and no abbreviations; a mistake is a UserError."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)

    def parse_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        end = args.index("--") if "--" in args else len(args)
        for index, arg in enumerate(args[:end]):
            if arg.startswith("--"):
                flag, equals, value = arg.partition("=")
                args[index] = "--" + flag[2:].replace("-", "_") + equals + value
        return super().parse_args(args, namespace)

    def error(self, message):
        raise UserError(f"{message} (--help lists the flags)")


def number(kind, low, high=math.inf, above=False):
    """An argparse type: a finite int or float from `low` to `high`; `above`: not `low` itself."""
    wanted = f"{'an integer' if kind is int else 'a number'} {'>' if above else '>='} {low}"
    wanted += f" and <= {high}" if high < math.inf else ""

    def parse(text):
        try:
            value = kind(text)
            if low <= value <= high and math.isfinite(value) and not (above and value == low):
                return value
        except (ValueError, OverflowError):
            pass  # the same message
        raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")

    return parse
