"""The command line: flags as the Hugging Face example scripts spell them, every failure in one line."""

import argparse
import functools
import math
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

from accelerate.utils.memory import should_reduce_batch_size


class UserError(Exception):
    """A mistake of the user's. The message says what was given, what is possible and what to do. Exit code 2."""


class RunError(Exception):
    """Something that failed while running, such as a loss that is not finite. Exit code 1."""


def first_line(error):
    """The first line of an exception's message, or its type if it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Stopped(BaseException):
    """Whoever runs the job wants it to end, a cluster before its time limit, say. Exit code 143; 130 for Ctrl-C.

    received: numbers of the signals, the first one counts; none if another process of the run got them.
    """

    def __init__(self, received=()):
        by = f"by {signal.Signals(received[0]).name}" if received else "with another process of this run"
        super().__init__(f"stopped {by}")
        self.code = 130 if received and received[0] == signal.SIGINT else 143


def stop(number, frame):
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped([number])


def handle_signals(handler):
    """Let `handler` take the SIGNALS; returns what took them so far. Python allows it in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in SIGNALS}


@contextmanager
def stop_flag():
    """A list of the signals that came within the block, which ends for itself when it sees one. Further ones, after
    the block too, are ignored then: nothing disturbs a script that ends.
    """
    received = []
    before = handle_signals(lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if received else handler)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """argparse's, which shows the default of each flag, but not that a flag is off or has none."""

    def _get_help_string(self, action):
        none = action.default is None or action.default is False
        return action.help if none else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes --a_b and --a-b alike, no abbreviations, and reports a mistake in one line."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)

    def parse_args(self, args=None, namespace=None):
        args = list(sys.argv[1:] if args is None else args)
        for index, arg in enumerate(args):
            if arg == "--":
                break
            if arg.startswith("--"):
                flag, equals, value = arg[2:].partition("=")
                args[index] = "--" + flag.replace("-", "_") + equals + value
        return super().parse_args(args, namespace)

    def error(self, message):
        raise UserError(f"{message} (--help lists the flags)")


def number(kind, low, high=math.inf, above=False):
    """An argparse type: a finite `kind` (int or float) from `low` to `high`, or greater than `low` with `above`."""
    wanted = f"{'an integer' if kind is int else 'a number'} {'above' if above else 'of at least'} {low}"
    wanted += f" and at most {high}" if high < math.inf else ""

    def parse(text):
        try:
            value = kind(text)
            sensible = low <= value <= high and math.isfinite(value) and not (above and value == low)
        except (ValueError, OverflowError):
            sensible = False
        if not sensible:
            raise argparse.ArgumentTypeError(f"{text!r} given, {wanted} is needed")
        return value

    return parse


def script(main):
    """Make `main(argv=None)` end as a script should: one line on stderr and an exit code, never a traceback for what a
    user can mend. 2: a mistake of the user; 1: a failure while running; 130: Ctrl-C; 143: SIGTERM or SIGUSR1. Bugs keep
    their traceback.
    """

    @functools.wraps(main)
    def run(argv=None):
        handle_signals(stop)
        try:
            main(argv)
        except UserError as error:
            message, code = error, 2
        except (RunError, OSError) as error:
            message, code = error, 1
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and not should_reduce_batch_size(error):
                raise
            message, code = f"out of memory: {first_line(error)}", 1
        except KeyboardInterrupt:
            message, code = "interrupted", 130
        except Stopped as error:
            message, code = error, error.code
        else:
            return
        handle_signals(signal.SIG_IGN if code > 128 else signal.SIG_DFL)
        name, process = os.path.basename(main.__code__.co_filename), os.environ.get("RANK", "0")
        if process != "0":  # the main process has nearly always the same to say, and the launcher then ends this one
            time.sleep(5)
            name += f": process {process}"
        print(f"{name}: error: {' '.join(str(message).split())}", file=sys.stderr)
        raise SystemExit(code)

    return run
