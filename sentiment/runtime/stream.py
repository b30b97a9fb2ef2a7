"""Lines as they arrive: a thread reads ahead while the model computes."""

import codecs
import queue
import threading

BLOCK, LONGEST = 2**16, 2**22  # most bytes of a read, and of a line; the rest is dropped
LINES, WAITING = 256, 4  # most lines in a list, and lists read ahead


def lines(source):
    """Lists of lines, bytes without ends, as soon as a read of a binary stream brings some."""
    parts, kept, bom = [], 0, codecs.BOM_UTF8  # parts: of a line that has not ended
    while block := source.read(BLOCK):
        *ended, rest = block.split(b"\n")
        if ended:
            ended[0] = b"".join([*parts, ended[0]])[:LONGEST].removeprefix(bom)
            parts, kept, bom = [], 0, b""
            ended = [line.removesuffix(b"\r") for line in ended]
            yield from (ended[start : start + LINES] for start in range(0, len(ended), LINES))
        if rest and kept < LONGEST:
            parts.append(rest)
            kept += len(rest)
    if parts:
        yield [b"".join(parts)[:LONGEST].removeprefix(bom)]


def ahead(lists):
    """Read the iterator `lists` in a thread; yield all that has arrived, as one list. Raises its
    errors.
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
                return waiting.get(timeout=1)  # Windows notices Ctrl-C only between two waits
            except queue.Empty:
                continue

    threading.Thread(target=fill, daemon=True).start()  # it may wait for input for ever
    end = []
    while isinstance(end, list):
        taken = [take()]
        taken += [take() for _ in range(waiting.qsize())]
        end = taken[-1]
        if items := [item for some in taken if isinstance(some, list) for item in some]:
            yield items
    if end is not None:
        raise end
