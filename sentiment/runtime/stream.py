"""Lines as they arrive: a thread reads ahead while the model computes."""

import codecs
import queue
import threading

BLOCK, LONGEST = 2**16, 2**22  # most bytes of a read, and of a line; the rest is dropped
LINES, WAITING = 256, 4  # most lines in a list, and lists read ahead


def lines(source):
    """Lists of lines, bytes without ends, as soon as a read of a binary stream brings some."""
    line, bom = bytearray(), codecs.BOM_UTF8  # line: the one that has not ended
    while block := source.read(BLOCK):
        *ended, rest = block.split(b"\n")
        if ended:
            ended[0] = bytes(line + ended[0])[:LONGEST].removeprefix(bom)
            ended = [each.removesuffix(b"\r") for each in ended]
            yield from (ended[start : start + LINES] for start in range(0, len(ended), LINES))
            line, bom = bytearray(), b""
        line += rest[: LONGEST - len(line)]
    if line:
        yield [bytes(line).removeprefix(bom)]


def ahead(lists):
    """Read `lists` in a thread; yield all that has arrived, as one list. Raises its errors."""
    waiting, errors = queue.Queue(WAITING), []

    def fill():
        try:
            for items in lists:
                waiting.put(items)
        except BaseException as error:
            errors.append(error)
        waiting.put(None)

    threading.Thread(target=fill, daemon=True).start()  # it may wait for input for ever
    taken = []
    while None not in taken:
        try:
            taken = [waiting.get(timeout=1)]  # Windows notices Ctrl-C only between two waits
        except queue.Empty:
            continue
        taken += [waiting.get() for _ in range(waiting.qsize())]
        if items := [item for some in filter(None, taken) for item in some]:
            yield items
    if errors:
        raise errors[0]
