"""Label texts with a fine-tuned model: the arguments, or standard input, one text per line.

echo "A gripping, funny film." | python predict.py
python predict.py "A gripping, funny film." "Two hours I will never get back."
python predict.py --output_format jsonl < reviews.txt > answers.jsonl
python predict.py --jsonl --text_column body --threshold 0.8 < reviews.jsonl > labelled.jsonl
"""

import json
import math
import os
import sys
from collections import Counter

from tqdm import tqdm

from sentiment import inference, model, tokens
from sentiment.errors import UserError
from sentiment.fast import packing
from sentiment.hub import trial
from sentiment.labels import names_of
from sentiment.runtime import device, stream
from sentiment.runtime.exits import script
from sentiment.runtime.flags import Parser, number

UNSURE = "unsure"


def parse_args(argv):
    parser = Parser(description="Label texts with a fine-tuned model, one prediction per line.")
    add = parser.add_argument
    add(
        "text",
        nargs="*",
        metavar="TEXT",
        help="texts to label (default: the lines of standard input)",
    )
    add(
        "--model_name_or_path",
        default=model.DEFAULT_FOLDER,
        help="folder that train.py wrote, or Hub id",
    )
    add("--revision", default="main", help="branch, tag or commit of the model on the Hub")
    add(
        "--jsonl",
        action="store_true",
        help="input lines are JSON objects; label and score are added to each",
    )
    column = "their text field, or several as title,body (default: as in training, or text)"
    add("--text_column", help=column)
    formats = (
        "tsv: label, probability; jsonl: all probabilities (default: tsv, or the object of --jsonl)"
    )
    add("--output_format", choices=["tsv", "jsonl"], help=formats)
    add(
        "--threshold",
        type=number(float, 0, 1),
        default=0.0,
        help=f"label as {UNSURE} if the top probability is below this",
    )
    args = parser.parse_args(argv)
    if args.text_column and not args.jsonl:
        raise UserError("--text_column needs --jsonl")
    if args.text and args.jsonl:
        raise UserError("--jsonl reads standard input; drop --jsonl or TEXT")
    args.output_format = args.output_format or ("fields" if args.jsonl else "tsv")
    return args


def finite(text):
    """A JSON number as a float. ValueError for NaN and Infinity, which are not JSON."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not valid JSON")
    return value


def text_column(classifier):
    """That of training, such as "text" or "title,body"."""
    names = getattr(classifier.config, "text_columns", None)
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return ",".join(names) if known and names else "text"


def parse(line, column):
    """A line of JSON -> (the text in its field `column`, the object). Raises ValueError.

    column: `title,body` are two fields, unless one has that name; they are joined by a space.
    """
    try:
        fields = json.loads(line, parse_float=finite, parse_constant=finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"not an object with a field {column}")
    names = [column] if column in fields else map(str.strip, column.split(","))
    texts = [fields.get(name, 0) for name in names]
    if not all(isinstance(text, str | None) for text in texts) or set(texts) == {None}:
        raise ValueError(f"no string field {column}; fields: {', '.join(fields)}")
    return tokens.join(texts), fields


def read(lines, column):
    """Lists of lines (bytes) -> lists of (text, fields). fields: the JSON object; {} without a
    `column`.

    An empty line is an empty text. At an invalid line, yields what came before it, then raises
    UserError.
    """
    number = 0
    for chunk in lines:
        records = []
        for line in chunk:
            number += 1
            text, fields = line.decode("utf-8", "replace"), {}
            if column and text.strip():
                try:
                    text, fields = parse(text, column)
                except (ValueError, RecursionError) as error:
                    yield records
                    raise UserError(f"line {number} of standard input: {error}") from error
            records.append((text, fields))
        yield records


def encode(records, tokenizer, counts):
    """Lists of (text, fields) -> lists of (token ids, or None for an empty text; fields). Counts
    texts, empty ones and truncated ones in `counts`.
    """
    for chunk in records:
        # Replace lone surrogates.
        texts = [text.encode("utf-8", "replace").decode() for text, _ in chunk]
        encoded = tokens.encode(tokenizer, [text for text in texts if text.strip()])
        empty = len(texts) - len(encoded)
        counts.update(texts=len(texts), empty=empty, truncated=encoded.truncated)
        ids = iter(encoded)
        yield [
            (next(ids) if text.strip() else None, fields)
            for text, (_, fields) in zip(texts, chunk, strict=True)
        ]


def answer(probabilities, classes, output_format, threshold=0.0, fields=None):
    """One line of output. probabilities: one float per class; empty for an empty text, which gets
    an empty label and score 0.

    output_format: "tsv", "jsonl", or "fields" for the object `fields` with label and score added.
    """
    score = max(probabilities, default=0.0)
    label = classes[probabilities.index(score)] if probabilities else ""
    if probabilities and score < threshold:
        label = UNSURE
    if output_format == "tsv":
        return f"{label}\t{score:.4f}"
    record = {**(fields or {}), "label": label, "score": score}
    if output_format == "jsonl":
        record["probabilities"] = dict(zip(classes, probabilities, strict=False))
    return json.dumps(record, ensure_ascii=False)


def write(lines):
    """Write and flush. A closed pipe, as after `| head`, exits with 141, like other filters."""
    try:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    except OSError as error:
        # Python would try to flush the buffer again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(141) from None
        raise


def prompt():
    print("> ", end="", file=sys.stderr, flush=True)


def summary(counts, longest):
    """For example "10 texts: 2 truncated to 512 tokens, 1 empty and not labelled"."""
    notes = []
    if counts["truncated"]:
        notes += [f"{counts['truncated']:,} truncated to {longest} tokens"]
    if counts["empty"]:
        notes += [f"{counts['empty']:,} empty and not labelled"]
    texts = "1 text" if counts["texts"] == 1 else f"{counts['texts']:,} texts"
    return f"{texts}: {', '.join(notes)}"


def load(args):
    """Returns (tokenizer, classifier on its device, precision)."""
    # oneDNN and torch cache a kernel per shape. 128 are as fast as the default of 1,024, which
    # take 700 MB more after many short texts.
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "128")
    device.set_up()
    precision = device.pick_precision()
    tokenizer, classifier = trial.load_trained(args.model_name_or_path, args.revision)
    packing.install(device.place(classifier, device.pick_device()), precision)
    return tokenizer, classifier, precision


@script
def main(argv=None):
    args = parse_args(argv)
    if not args.text and sys.stdin is None:
        raise UserError("no TEXT given, and standard input is closed")
    tokenizer, classifier, precision = load(args)
    classes = names_of(classifier)

    typed = not args.text and sys.stdin.isatty()
    if args.text:
        records = iter([[(text, {}) for text in args.text]])
    else:
        source = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)  # raw: returns what is there
        column = (args.text_column or text_column(classifier)) if args.jsonl else None
        records = read(stream.lines(source), column)
    if typed:
        end = "Ctrl-D (on Windows Ctrl-Z, Enter) to finish."
        print(f"Enter one review per line; {end}", file=sys.stderr)
        prompt()
    sys.stdout = sys.stdout.stream  # see write: a reader that is gone ends the work
    counts, no_bar = Counter(), typed or sys.stdout.isatty()
    bar = tqdm(unit=" texts", delay=5, disable=True if no_bar else None)
    try:
        for chunk in stream.ahead(encode(records, tokenizer, counts)):
            reviews = [ids for ids, _ in chunk if ids is not None]
            logits = inference.logits(classifier, reviews, precision, bar.update)
            results = iter(logits.double().softmax(dim=1).tolist())
            rows = [([] if ids is None else next(results), fields) for ids, fields in chunk]
            shape = classes, args.output_format, args.threshold
            write(answer(probabilities, *shape, fields) for probabilities, fields in rows)
            if typed:
                prompt()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # quietly: this is how users leave
    finally:
        bar.close()
        if typed:
            print(file=sys.stderr)
    if counts["empty"] or counts["truncated"]:
        print(summary(counts, tokenizer.model_max_length), file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        if end.code:  # the reader thread may be in torch: a normal exit would abort
            os._exit(end.code)  # everything has been written by now
        raise
