"""Label texts with a fine-tuned model: those given, or standard input, one text a line.

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

from sentiment import inference, model
from sentiment.errors import UserError
from sentiment.fast import packing
from sentiment.hub import trial
from sentiment.labels import names_of
from sentiment.runtime import device, stream
from sentiment.runtime.exits import script
from sentiment.runtime.flags import Parser, number

UNSURE = "unsure"


def parse_args(argv):
    parser = Parser(description="Label texts with a fine-tuned model, one answer a line.")
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
    add("--revision", default="main", help="of a model on the Hub: branch, tag or commit")
    add(
        "--jsonl",
        action="store_true",
        help="lines are JSON objects; each comes back with label and score",
    )
    add("--text_column", help="field of their texts (default: text)")
    formats = (
        "tsv: label and probability; jsonl: all of them (default: tsv, or with --jsonl the objects)"
    )
    add("--output_format", choices=["tsv", "jsonl"], help=formats)
    add(
        "--threshold",
        type=number(float, 0, 1),
        default=0.0,
        help=f"a probability under it is answered by {UNSURE}",
    )
    args = parser.parse_args(argv)
    if args.text_column and not args.jsonl:
        raise UserError(
            "--text_column: is about the objects that --jsonl reads; give both or neither"
        )
    if args.text and args.jsonl:
        raise UserError("--jsonl: is about the lines of standard input; leave it or TEXT out")
    if args.jsonl:
        args.text_column = args.text_column or "text"
    args.output_format = args.output_format or ("fields" if args.jsonl else "tsv")
    return args


def finite(text):
    """The float that a JSON document spells so. ValueError for NaN and Infinity, which JSON does
    not know.
    """
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no number in JSON")
    return value


def parse(line, column):
    """A JSON object as text -> (the text in its field `column`, the object). Raises ValueError with
    the reason.
    """
    fields = json.loads(line, parse_float=finite, parse_constant=finite)
    if not isinstance(fields, dict):
        raise ValueError(f"an object with the field {column} is needed")
    if not isinstance(fields.get(column), str):
        raise ValueError(f"no string in the field {column}; there are {', '.join(fields)}")
    return fields[column], fields


def read(lines, column):
    """Lists of lines, bytes -> lists of (text, fields); fields: the JSON object that a line is, {}
    without a `column`.

    An empty line is an empty text. Raises UserError at a line that `parse` does not take, after
    what stands before it.
    """
    number = 0
    for some in lines:
        records = []
        for line in some:
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
    """Lists of (text, fields) -> lists of (token ids, or None for an empty text; fields). `counts`
    what it meets.
    """
    for some in records:
        texts = [
            text.encode("utf-8", "replace").decode() for text, _ in some
        ]  # half of a surrogate pair is no text
        encoded, cut = model.encode(tokenizer, [text for text in texts if text.strip()])
        counts.update(texts=len(texts), empty=len(texts) - len(encoded), cut=cut)
        left = iter(encoded)
        yield [
            (next(left) if text.strip() else None, fields)
            for text, (_, fields) in zip(texts, some, strict=True)
        ]


def answer(probabilities, classes, output_format, threshold=0.0, fields=None):
    """One line. probabilities: a float for each class, none for an empty text, whose label is empty
    and score 0.

    output_format: "tsv", "jsonl", or "fields" for the object `fields` with label and score added.
    """
    score = max(probabilities, default=0.0)
    label = classes[probabilities.index(score)] if probabilities else ""
    if probabilities and score < threshold:
        label = UNSURE
    if output_format == "tsv":
        return f"{label}\t{score:.4f}"
    found = {**(fields or {}), "label": label, "score": score}
    if output_format == "jsonl":
        found["probabilities"] = dict(zip(classes, probabilities, strict=False))
    return json.dumps(found, ensure_ascii=False)


def write(lines):
    """Write and flush; a closed pipe, such as head leaves, ends the script with 141, as it ends
    other filters.
    """
    try:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    except OSError as error:
        # What could not be written waits in a buffer, and Python would try again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(141) from None
        raise


def prompt():
    print("> ", end="", file=sys.stderr, flush=True)


def summary(counts, longest):
    """For example "10 texts: 2 longer than 512 tokens and cut, 1 empty and without a label"."""
    words = [f"{counts['cut']:,} longer than {longest} tokens and cut"] if counts["cut"] else []
    words += [f"{counts['empty']:,} empty and without a label"] if counts["empty"] else []
    return f"{counts['texts']:,} texts: {', '.join(words)}"


def load(args):
    """(tokenizer, classifier where it computes, precision)."""
    # oneDNN and torch keep a kernel for each shape. 128 are as fast as the default of 1,024, which
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
        raise UserError("no TEXT is given and standard input is closed; one of them is needed")
    tokenizer, classifier, precision = load(args)
    classes = names_of(classifier)

    typed = not args.text and sys.stdin.isatty()
    if args.text:
        records = iter([[(text, {}) for text in args.text]])
    else:
        source = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)  # a raw read does not wait
        records = read(stream.lines(source), args.text_column)
    if typed:
        end = "Ctrl-D (on Windows Ctrl-Z and Enter) ends."
        print(f"One review a line, please; {end}", file=sys.stderr)
        prompt()
    # JSON spells half of a surrogate pair with a backslash.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    counts, no_bar = Counter(), typed or sys.stdout.isatty()
    bar = tqdm(unit=" texts", delay=5, disable=True if no_bar else None)
    try:
        for chunk in stream.ahead(encode(records, tokenizer, counts)):
            reviews = [ids for ids, _ in chunk if ids is not None]
            logits = inference.logits(classifier, reviews, precision, bar.update)
            found = iter(logits.double().softmax(dim=1).tolist())
            rows = [([] if ids is None else next(found), fields) for ids, fields in chunk]
            shape = classes, args.output_format, args.threshold
            write(answer(probabilities, *shape, fields) for probabilities, fields in rows)
            if typed:
                prompt()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # quietly: it is how one leaves
    finally:
        bar.close()
        if typed:
            print(file=sys.stderr)
    if counts["empty"] or counts["cut"]:
        print(summary(counts, tokenizer.model_max_length), file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        if end.code:  # the thread that reads ahead may be in torch, and Python's end would abort
            os._exit(end.code)  # everything has been written by now
        raise
