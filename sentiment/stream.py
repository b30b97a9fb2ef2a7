"""Lines as they arrive: a thread reads ahead while the model computes."""

import codecs
import queue
import threading

BLOCK = 2**16  # bytes of one read, at most
LINES = 256  # in one list, at most
WAITING = 4  # lists that are read ahead, at most: what is in memory does not grow with the input
LONGEST = 2**22  # bytes of a line that are kept


def lines(source):
    """Lists of lines, bytes without their ends, as soon as a read of the binary stream `source` brings some.

    A line ends with a line feed, or with a carriage return and one; the last one may do without. A byte order mark at
    the very start is left out, as is of each line what is beyond LONGEST.

    >>> list(lines(io.BytesIO(b"one\\r\\n\\nthree")))
    [[b'one', b''], [b'three']]
    """
    parts, kept, first = [], 0, True  # of a line whose end has not come yet; whether it is the first line
    while block := source.read(BLOCK):
        *ended, rest = block.split(b"\n")
        if ended:
            ended[0] = b"".join([*parts, ended[0]])[:LONGEST]
            parts, kept = [], 0
            if first:
                ended[0], first = ended[0].removeprefix(codecs.BOM_UTF8), False
            ended = [line.removesuffix(b"\r") for line in ended]
            yield from (ended[start : start + LINES] for start in range(0, len(ended), LINES))
        if rest and kept < LONGEST:
            parts.append(rest)
            kept += len(rest)
    if parts:
        last = b"".join(parts)[:LONGEST]
        yield [last.removeprefix(codecs.BOM_UTF8) if first else last]


def ahead(lists):
    """What the iterator `lists` yields, computed in a thread: each time one list of all that is there by then.

    An exception in the thread is raised here, after what came before it was yielded.
    """
    waiting = queue.Queue(WAITING)

    def fill():
        try:
            for items in lists:
                waiting.put(items)
            waiting.put(None)
        except BaseException as error:
            waiting.put(error)

    def take():
        while True:
            try:
                return waiting.get(timeout=1)  # Windows notices Ctrl-C between two waits only
            except queue.Empty:
                continue

    threading.Thread(target=fill, daemon=True).start()  # it may wait for input for ever
    while True:
        taken = [take()]
        taken += [take() for _ in range(waiting.qsize())]
        end = taken.pop() if not isinstance(taken[-1], list) else taken
        if items := [item for items in taken for item in items]:
            yield items
        if end is None:
            return
        if isinstance(end, BaseException):
            raise end
