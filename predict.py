"""Label texts with a fine-tuned model: the arguments, or standard input, one text per line.

echo "A gripping, funny film." | python predict.py
python predict.py "A gripping, funny film." "Two hours I will never get back."
python predict.py --output_format jsonl < reviews.txt > answers.jsonl
python predict.py --jsonl --text_column body --threshold 0.8 < reviews.jsonl > labelled.jsonl
python predict.py --csv < reviews.csv > labelled.csv
python predict.py --input_file reviews.parquet
"""

from sentiment.runtime import before_torch  # noqa: F401

# isort: split
import csv
import gc
import gzip
import io
import json
import math
import os
import re
import shlex
import sys
from collections import Counter
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import numpy
import torch
from tqdm import tqdm

from sentiment import columns, inference, model, tokens
from sentiment.errors import UserError, first_line
from sentiment.fast import int8, packing
from sentiment.hub import access, trial
from sentiment.labels import names_of, some
from sentiment.runtime import device, stream
from sentiment.runtime.exits import script
from sentiment.runtime.flags import Parser, number

UNSURE = "unsure"
SIZE = 256  # most texts to tokenize at once
ADDED = ("label", "score")  # to each row of CSV
UNFINISHED = "unexpected end of data"  # csv's error inside a quoted field


def parse_args(argv):
    hint = "; a TEXT that begins with - goes after --"
    about = "Label texts with a fine-tuned model, one prediction per line."
    parser = Parser(hint, description=about)
    add = parser.add_argument
    help = "texts to label (default: the lines of standard input)"
    add("text", nargs="*", metavar="TEXT", help=help)
    help = "folder that train.py wrote, or Hub id; give it again to average several models"
    help += f" (default: {model.DEFAULT_FOLDER})"
    add("--model_name_or_path", action="append", metavar="MODEL", help=help)
    help = "branch, tag or commit of the models on the Hub (default: %(default)s)"
    add("--revision", default="main", help=help)
    form = parser.add_mutually_exclusive_group().add_argument
    help = "input lines are JSON objects; label and score are added to each"
    form("--jsonl", action="store_true", help=help)
    help = "input is CSV with a header; the columns label and score are added"
    form("--csv", action="store_true", help=help)
    help = "read this instead of standard input: what train.py reads, or lines of text; also .gz"
    add("--input_file", help=help)
    help = "text column, or several as title,body (default: as in training, or text)"
    add("--text_column", help=help)
    help = "tsv: label, probability; jsonl: all probabilities"
    help += " (default: tsv, or with --jsonl as the input)"
    add("--output_format", choices=["tsv", "jsonl"], help=help)
    help = f"label as {UNSURE} if the top probability is below this (default: %(default)s)"
    add("--threshold", type=number(float, 0, 1), default=0.0, help=help)
    help = "linear layers in 8 bits: for CPUs without bf16, where fp32 takes twice as long or more"
    add("--int8", action="store_true", help=help)
    for word in sys.argv[1:] if argv is None else argv:
        if word == "--":
            break
        if word.startswith("-h") and word != "-h":  # Python 3.13 would show the help
            parser.error(f"unrecognized arguments: {word}")
    args = parser.parse_args(argv)
    args.model_name_or_path = args.model_name_or_path or [model.DEFAULT_FOLDER]
    check(args)
    args.output_format = args.output_format or ("fields" if args.jsonl else "tsv")
    return args


def check(args):
    """Raise UserError for arguments that do not go together, and for a TEXT that names a file."""
    forms = [f"--{name}" for name in ("jsonl", "csv", "input_file") if getattr(args, name)]
    if args.text_column and not forms:
        raise UserError("--text_column needs --jsonl, --csv or --input_file")
    if args.text and forms:
        raise UserError(f"{forms[0]} reads texts from elsewhere; drop it, or drop TEXT")
    if "" in args.model_name_or_path:
        raise UserError("--model_name_or_path is empty")
    if args.text_column and kind_of(args) == "lines":
        way = f"{args.input_file} is read as lines of text, by its name; add --csv or --jsonl"
        raise UserError(f"--text_column: {way}")
    if (args.csv or args.jsonl) and (args.input_file or "").endswith(".parquet"):
        raise UserError(f"{forms[0]}: {args.input_file} is Parquet, by its name; drop {forms[0]}")
    if args.csv and args.output_format:
        raise UserError("--csv answers in CSV; drop --output_format")
    if args.input_file and not is_file(args.input_file):
        reason = (
            "a folder; give a file in it" if os.path.exists(args.input_file) else "no such file"
        )
        raise UserError(f"--input_file {args.input_file}: {reason}")
    words = "for these words themselves, use standard input"
    for text in args.text:
        if text == "-":
            raise UserError("-: leave it out to read standard input")
        if is_file(text):
            way = f"python predict.py --input_file {shlex.quote(text)} labels its texts"
            raise UserError(f"{text} is a file: {way}; {words}")
        if text and is_file(os.path.join(text, "config.json")):
            way = f"python predict.py --model_name_or_path {shlex.quote(text)} TEXT uses it"
            raise UserError(f"{text} is a model: {way}; {words}")
        if re.fullmatch(access.FILE, text) and len(text.split()) == 1:
            raise UserError(f"{text}: no such file; {words}")


def is_file(path):
    """Pipes included."""
    return os.path.exists(path) and not os.path.isdir(path)


def text_columns(args, classifiers):
    """[--text_column or training's, such as "title,body"]. For lines of text, those of all models,
    to recognize a header; else UserError if they differ.
    """
    if args.text_column:
        return [args.text_column]
    found = {}  # in order
    for classifier in classifiers:
        names = getattr(classifier.config, "text_columns", None)
        known = isinstance(names, list) and all(isinstance(name, str) for name in names)
        found[",".join(names) if known and names else "text"] = None
    if len(found) > 1 and kind_of(args) != "lines":
        raise UserError(
            f"the models read different columns: {'; '.join(found)}; give --text_column"
        )
    return list(found)


def read(args, wanted):
    """(records, separator and header of the answers in CSV, else None and []). Raises UserError.

    records: lists of (text, fields), where label and score are added to fields. At an invalid line,
    they end with what came before it; then UserError.
    """
    path, where = args.input_file, args.input_file or "standard input"
    if args.text:
        return iter([[(text, {}) for text in args.text]]), None, []
    kind, column = kind_of(args), wanted[0]
    if kind == "table":
        return read_table(path, column), None, []
    lines = stream.lines(open_bytes(path), where, "strict" if kind == "csv" else "replace")
    if kind == "lines":
        return read_lines(lines, wanted, where), None, []
    if kind == "jsonl":
        return read_json(lines, column, where), None, []
    rows, separator, header = read_csv(lines, column, where)
    if args.csv:
        return rows, separator, header
    return ([(text, {}) for text, _ in chunk] for chunk in rows), None, []


def kind_of(args):
    """How to read the input: by the flags, or an --input_file by its name."""
    if args.csv or args.jsonl:
        return "csv" if args.csv else "jsonl"
    name = (args.input_file or "").lower().removesuffix(".gz")
    kinds = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
    kinds |= {".json": "table", ".parquet": "table"}
    return kinds.get(os.path.splitext(name)[1], "lines")


def open_bytes(path):
    """A file, or standard input; not buffered, so that a read returns what is there."""
    if not path:
        raw = getattr(sys.stdin.buffer, "raw", None)
        if raw and os.name != "nt":
            os.set_blocking(raw.fileno(), True)  # the parent may have made it non-blocking
        return raw or sys.stdin.buffer
    return gzip.open(path) if path.lower().endswith(".gz") else io.FileIO(path)


def read_lines(lines, wanted, where):
    """Each line is a text; fields is {}. UserError if the first one begins something else."""
    first = True
    for chunk in lines:
        for column in wanted if first else []:
            if kind := structured(chunk[0], column):
                way = "or begin with an empty line to label each line as it is"
                raise UserError(f"{where} looks like {kind}, {way}")
        first = False
        yield [(line.removesuffix("\r"), {}) for line in chunk]


def structured(line, column):
    """What a line seems to begin, with the flag that reads it; or None."""
    if re.match(r'\s*(\{\s*"|\[\s*\{|[\[{]\s*$)', line):
        return "JSON: use --jsonl for an object in each line, --input_file FILE.json for an array"
    names = [name.strip().strip('"').casefold() for name in split(line)[1]]
    is_header = max(len(name.split()) for name in names or [line]) < 4  # and no sentence
    if is_header and set(columns.of_text(column.casefold(), names)) <= set(names):
        return f"CSV with a column {column}: use --csv"
    return None


def split(header):
    """(separator, names): a line of CSV is split by what gives the most columns."""
    found = []
    for separator in columns.SEPARATORS:
        with suppress(csv.Error):  # a long field, or a carriage return in the line
            names = next(csv.reader([header], delimiter=separator), [])
            found.append((separator, names))
    return max(found, key=lambda each: len(each[1]), default=(",", []))


def read_json(lines, column, where):
    """Each line is a JSON object, which is fields; an empty line is an empty text."""
    number = 0
    for chunk in lines:
        found = []
        for line in chunk:
            number += 1
            try:
                found.append(parse(line, column) if line.strip() else ("", {}))
            except (ValueError, RecursionError) as error:
                yield found
                raise UserError(f"line {number} of {where}: {error}") from error
        yield found


def parse(line, column):
    """A line of JSON -> (the text in its field `column`, the object). Raises ValueError."""
    try:
        fields = json.loads(line, parse_float=finite, parse_constant=finite)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at column {error.colno}"
        raise ValueError(f"no JSON object with a field {column}: {reason}") from error
    if not isinstance(fields, dict):
        way = " (--input_file FILE.json reads an array)" if isinstance(fields, list) else ""
        raise ValueError(f"no JSON object with a field {column}: {type(fields).__name__}{way}")
    texts = [fields.get(name, 0) for name in columns.of_text(column, fields)]
    if not all(isinstance(text, str | None) for text in texts):
        raise ValueError(f"no string field {column}; fields: {', '.join(fields)}")
    return columns.join(texts), fields


def finite(text):
    """A JSON number as a float. ValueError for NaN and Infinity, and for what is too large."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value


def read_csv(lines, column, where):
    """(records, separator, header of the answers). fields: the row as it was written.

    lines: decoded with errors="strict", since rows are written again. Waits for the header.
    """
    csv.field_size_limit(stream.LONGEST)
    chunks = with_ends(lines, where)
    first = next(chunks, ["\n"])
    separator, names = split(first[0])
    # As in training: if the header has spaces after separators, they belong to no field.
    spaces = any(name.startswith(" ") for name in names)
    options = {"delimiter": separator, "strict": True, "skipinitialspace": spaces}
    records = read_rows(chain([first], chunks), options, column, where)
    name, *names = answered(next(records))
    # Rows keep their spaces; the header's tell the next reader.
    return records, separator, [name, *(" " * spaces + name for name in names)]


def with_ends(lines, where):
    """Lists of lines with "\\n". UserError for a truncated line, and for other text than UTF-8."""
    try:
        for chunk in lines:
            if max(map(len, chunk)) == stream.LONGEST:
                raise UserError(f"{where}: a line has {stream.LONGEST:,} characters or more")
            yield [f"{line}\n" for line in chunk]
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8; save it as UTF-8") from error


def read_rows(chunks, options, column, where):
    """The header, then lists of (text, row as it was written), as soon as whole rows have arrived.

    options: for csv.reader. Blank lines are left out. Raises UserError after the rows before an
    invalid one.
    """
    header, lines, read, error = None, [], 0, None
    for chunk in chunks:
        lines += chunk
        reader, rows, end = csv.reader(lines, **options), [], 0
        try:
            for row in reader:
                if header is None:
                    header = row
                    place, *more = [row.index(name) for name in find_columns(column, row, where)]
                    yield header
                elif len(row) == len(header):
                    text = columns.join([row[i] for i in (place, *more)]) if more else row[place]
                    written = "".join(lines[end : reader.line_num]).rstrip("\r\n")
                    rows.append((text, written))
                elif row:  # [] is a blank line
                    raise csv.Error(f"{len(row)} fields, but {len(header)} in the header")
                end = reader.line_num
            error = None
        except csv.Error as caught:
            error, line = caught, read + reader.line_num
        if rows:
            yield rows
        if error and str(error) != UNFINISHED:
            break
        read, lines = read + end, lines[end:]  # those of an unfinished row are read again
    if error:
        way = "quote a text that holds a separator, quote or line break, and double its quotes"
        raise UserError(f"line {line} of {where}: {error} ({way})") from error


def find_columns(column, there, where):
    """--text_column as a list of columns that are there. Raises UserError."""
    if set(names := columns.of_text(column, there)) <= set(there):
        return names
    found = f"{some(there, 20) or 'none'} (CSV: its first line; JSON: each object's keys)"
    raise UserError(f"--text_column {column}: {where} has columns {found}")


def answered(header):
    """The header with the added columns; one that has such a name becomes label_given."""
    names = list(header)
    for added in ADDED:
        given = added
        while given in names:
            given += "_given"
        names = [given if name == added else name for name in names]
    return [*names, *ADDED]


def read_table(path, column):
    """Records, without fields, of .json or .parquet, read as in training."""
    from sentiment import data
    from sentiment.hub import source

    rows, where, *_ = source.read_files([Path(path)])
    names = find_columns(column, rows.column_names, where)
    table = rows.with_format("arrow")[:]
    parts = [data.values(data.as_texts(table[name], f"{where}, column {name}")) for name in names]
    texts = map(columns.join, zip(*parts, strict=True))
    try:
        while chunk := list(islice(texts, SIZE)):
            yield [(text, {}) for text in chunk]
    except ValueError as error:  # strings that are not UTF-8
        raise UserError(f"{where}: cannot be read: {first_line(error)}") from error


def encode(records, tokenizers, counts):
    """Lists of (text, fields) -> lists, of at most SIZE, of (token ids by each tokenizer, or None
    for an empty text; fields). Counts texts, empty ones and those with U+FFFD in `counts`; also
    those truncated by tokenizer number i, under i.
    """
    for chunk in (each[i : i + SIZE] for each in records for i in range(0, len(each), SIZE)):
        # Replace lone surrogates.
        texts = [text.encode("utf-8", "replace").decode() for text, _ in chunk]
        counts["replaced"] += sum("\ufffd" in text for text in texts)
        kept = [text for text in texts if text.strip()]
        encoded = [tokens.encode(tokenizer, kept) for tokenizer in tokenizers]
        counts.update(texts=len(texts), empty=len(texts) - len(kept))
        counts.update({i: each.truncated for i, each in enumerate(encoded)})
        ids = zip(*encoded, strict=True)
        yield [
            (next(ids) if text.strip() else None, fields)
            for text, (_, fields) in zip(texts, chunk, strict=True)
        ]


def answer(probabilities, classes, output_format, threshold=0.0, fields=None):
    """One line of output. probabilities: one float per class; empty for an empty text, which gets
    an empty label and score 0.

    output_format: "tsv", "jsonl", "fields" for the object `fields` with label and score added, or
    the separator for a row of CSV with both added.
    """
    score = max(probabilities, default=0.0)
    label = classes[probabilities.index(score)] if probabilities else ""
    if probabilities and score < threshold:
        label = UNSURE
    if output_format in columns.SEPARATORS:
        return f"{fields}{output_format}{label}{output_format}{score:.4f}"
    if output_format == "tsv":
        return f"{label}\t{score:.4f}"
    record = {**(fields or {}), "label": label, "score": score}
    if output_format == "jsonl":
        record["probabilities"] = dict(zip(classes, probabilities, strict=False))
    return json.dumps(record, ensure_ascii=False)


def in_csv(fields, separator):
    file = io.StringIO()
    # Python 3.11 does not quote a lone carriage return by itself.
    quoting = csv.QUOTE_ALL if "\r" in "".join(fields) else csv.QUOTE_MINIMAL
    csv.writer(file, delimiter=separator, lineterminator="\n", quoting=quoting).writerow(fields)
    return file.getvalue().removesuffix("\n")


def write(answers):
    """Write lines and flush.

    A closed pipe, as after `| head`, exits with 141, like other filters.
    """
    try:
        sys.stdout.write("".join(f"{line}\n" for line in answers))
        sys.stdout.flush()
    except OSError as error:
        # Python would try to flush the buffer again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(141) from None
        raise


def prompt():
    print("> ", end="", file=sys.stderr, flush=True)


def summary(counts, limits):
    """For example "10 texts: 2 truncated to 512 tokens, 1 empty and not labelled", or "".

    limits: of each tokenizer.
    """
    cut = [(counts[i], limit) for i, limit in enumerate(limits) if counts[i]]
    # Most models have the same tokenizer.
    notes = [f"{count:,} truncated to {limit} tokens" for count, limit in dict.fromkeys(cut)]
    if counts["empty"]:
        notes += [f"{counts['empty']:,} empty and not labelled"]
    if counts["replaced"]:
        notes += [f"{counts['replaced']:,} with invalid UTF-8 or U+FFFD"]
    texts = "1 text" if counts["texts"] == 1 else f"{counts['texts']:,} texts"
    return f"{texts}: {', '.join(notes)}" if notes else ""


def load(args):
    """(tokenizers, classifiers on their device, precision). Raises UserError if classes differ."""
    # oneDNN and torch cache a kernel per shape. 128 are as fast as the default of 1,024, which
    # take 700 MB more after many short texts.
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "128")
    place = device.pick_device()
    device.set_up(place)
    precision = device.pick_precision("no" if args.int8 else "auto")
    if args.int8 and not (place.type == "cpu" and torch.cpu.get_capabilities().get("avx2")):
        raise UserError(f"--int8 needs a CPU with AVX2, not {device.describe()}; drop it")
    models = [trial.load_trained(name, args.revision) for name in args.model_name_or_path]
    tokenizers, classifiers = zip(*models, strict=True)
    for name, classifier in zip(args.model_name_or_path, classifiers, strict=True):
        found = [sorted(names_of(each)) for each in (classifiers[0], classifier)]
        if found[0] != found[1]:
            odd = some(sorted(set(found[0]) ^ set(found[1])) or found[1])
            reason = f"and {name} have different classes, such as {odd}; they have no mean"
            raise UserError(f"{args.model_name_or_path[0]} {reason}")
        packing.install(device.place(classifier, place), precision)
        if args.int8 and not packing.applies(classifier):
            kinds = f"{', '.join(packing.ENCODERS)}, not {classifier.config.model_type}"
            raise UserError(f"--int8 is for {kinds} ({name}); drop it")
        if args.int8:
            int8.install(classifier.base_model)
    return tokenizers, classifiers, precision


def mean_probabilities(classifiers, reviews, precision, advance):
    """[[float] * C] of N reviews, in the first model's order of classes.

    reviews: for each, its token ids by each model; advance: see inference.logits.
    """
    by_name = [numpy.argsort(names_of(each), kind="stable") for each in classifiers]
    total = torch.zeros(len(reviews), len(by_name[0]), dtype=torch.float64)
    for i, classifier in enumerate(classifiers):
        ids = [review[i] for review in reviews]
        progress = [advance] if i == len(classifiers) - 1 else []  # each review counts once
        logits = inference.logits(classifier, ids, precision, *progress)
        total[:, by_name[0]] += logits.double().softmax(dim=1)[:, by_name[i]]
    return (total / len(classifiers)).tolist()


@script
def main(argv=None):
    args = parse_args(argv)
    if not (args.text or args.input_file) and sys.stdin is None:
        raise UserError("no TEXT given, and standard input is closed")
    tokenizers, classifiers, precision = load(args)
    gc.freeze()  # the garbage collector need not visit the libraries' objects again
    classes = names_of(classifiers[0])

    typed = not (args.text or args.input_file) and sys.stdin.isatty()
    if typed:
        end = "Ctrl-D (on Windows Ctrl-Z, Enter) to finish."
        print(f"Enter one review per line; {end}", file=sys.stderr)
        prompt()
    sys.stdout = sys.stdout.stream  # see write: a reader that is gone ends the work
    counts, no_bar = Counter(), typed or sys.stdout.isatty()
    bar = tqdm(unit=" texts", delay=5, disable=True if no_bar else None)
    try:
        given, separator, header = read(args, text_columns(args, classifiers))
        if header:
            write([in_csv(header, separator)])
            classes = [in_csv([name], separator) for name in classes]  # quoted where needed
        for chunk in stream.ahead(encode(given, tokenizers, counts)):
            reviews = [ids for ids, _ in chunk if ids is not None]
            results = iter(mean_probabilities(classifiers, reviews, precision, bar.update))
            rows = [([] if ids is None else next(results), fields) for ids, fields in chunk]
            shape = classes, separator or args.output_format, args.threshold
            answers = [answer(probabilities, *shape, fields) for probabilities, fields in rows]
            write(answers)
            if typed:
                prompt()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # quietly: this is how users leave
    finally:
        bar.close()
        if typed:
            print(file=sys.stderr)
    if notes := summary(counts, [each.model_max_length for each in tokenizers]):
        print(notes, file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        if end.code:  # the reader thread may be in torch: a normal exit would abort
            os._exit(end.code)  # everything has been written by now
        raise
