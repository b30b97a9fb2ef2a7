"""Lines of text as they arrive: a thread reads ahead while the model computes."""

import codecs
import gzip
import threading
import zlib

from sentiment.errors import UserError

BLOCK, LONGEST = 2**18, 2**22  # most bytes of a read, and characters of a line; the rest is dropped
WAITING = 1024  # texts read ahead; no block is read while more wait


def lines(source, where, errors="replace"):
    """Lists of lines without "\\n", as soon as a read of a binary stream brings some.

    Raises UserError for binary data, and UnicodeDecodeError with errors="strict".
    """
    line = ""  # the one that has not ended
    for block in decoded(source, where, errors):
        *ended, rest = block.split("\n")
        if ended:
            ended[0] = (line + ended[0])[:LONGEST]
            yield ended
            line = ""
        line += rest[: LONGEST - len(line)]
    if line:
        yield [line]


def decoded(source, where, errors):
    """Blocks of text: UTF-8, or UTF-16 with a byte order mark."""
    try:
        block = source.read(BLOCK)
        while block in (b"\xff", b"\xfe") and (more := source.read(BLOCK)):
            block += more  # a byte order mark has two bytes
        utf_16 = block.startswith((b"\xff\xfe", b"\xfe\xff"))
        decoder = codecs.getincrementaldecoder("utf-16" if utf_16 else "utf-8-sig")(errors)
        text = decoder.decode(block)
        if "\0" in text[:1000]:  # as in compressed files
            way = "--input_file FILE reads .gz, .parquet and .json"
            raise UserError(f"{where} looks like binary data, not text; {way}")
        while block:
            yield text
            text = decoder.decode(block := source.read(BLOCK), final=not block)
        yield text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{where}: damaged: {error}") from error


def ahead(lists):
    """Read `lists` in a thread; yield all that has arrived, as one list. Raises its errors."""
    waiting, ended, changed = [], [], threading.Condition()

    def fill():
        error = None
        try:
            for items in lists:
                with changed:
                    changed.wait_for(lambda: len(waiting) < WAITING)
                    waiting.extend(items)
                    changed.notify()
        except BaseException as caught:
            error = caught
        with changed:
            ended.append(error)
            changed.notify()

    threading.Thread(target=fill, daemon=True).start()  # it may wait for input for ever
    while not ended or waiting:
        with changed:
            # Windows notices Ctrl-C only between two waits.
            changed.wait_for(lambda: waiting or ended, timeout=1)
            items, waiting[:] = waiting[:], []
            changed.notify()
        if items:
            yield items
    if ended[0]:
        raise ended[0]
