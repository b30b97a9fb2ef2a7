"""predict.py as a filter: input, output and timing."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pandas
import pytest
import tiny
from safetensors.torch import load_file, save_file

import predict
from sentiment.errors import UserError
from sentiment.runtime import stream

WORDS = [sys.executable, tiny.ROOT / "predict.py", "--model_name_or_path"]


class Trickle:
    """A stream whose reads return given blocks, like a pipe."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    def read(self, most):
        return self.pieces.pop(0) if self.pieces else b""


def lines_of(source):
    return [line for some in stream.lines(source, "here") for line in some]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", []),
        (b"one", ["one"]),
        (b"one\n", ["one"]),
        (b"\n\n", ["", ""]),
        (b"one\r\ntwo\rthree\r\n", ["one\r", "two\rthree\r"]),
        (b"\xef\xbb\xbfone\n\xef\xbb\xbftwo", ["one", "\ufefftwo"]),
        (b"\xef\xbb\xbf", []),
        ("ça\u2028\u0085\x0b\n🙂".encode(), ["ça\u2028\u0085\x0b", "🙂"]),
        ("ça\u0a0a\n🙂".encode("utf-16"), ["ça\u0a0a", "🙂"]),
        (b"\xfe\xff" + "ça\n🙂\n".encode("utf-16-be"), ["ça", "🙂"]),
        (b"caf\xe9\nx\xf0\x9f", ["caf\ufffd", "x\ufffd"]),
        (b"x" * 200_000 + b"\n\0\n", ["x" * 200_000, "\0"]),
        (b"line\n" * 5000, ["line"] * 5000),
    ],
)
def test_lines_are_the_same_however_the_bytes_arrive(content, wanted):
    assert lines_of(io.BytesIO(content)) == wanted
    if len(content) < 100:
        pieces = Trickle(*(content[i : i + 1] for i in range(len(content))))
        assert lines_of(pieces) == wanted


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b"superb film", mtime=0),
        bz2.compress(b"superb film"),
        lzma.compress(b"superb film"),
        b"PAR1\x15\x04\x15\x00",
        b"PK\x03\x04\x14\x00",
        "superb film".encode("utf-16-le"),
    ],
)
def test_binary_input_is_refused(content):
    with pytest.raises(UserError, match="here looks like binary data"):
        lines_of(io.BytesIO(content))


def test_an_endless_line_is_truncated_at_the_same_byte_for_any_blocks():
    content = "ab" * stream.LONGEST
    whole = content.encode()
    for pieces in ([whole], [whole[i : i + 70_001] for i in range(0, len(whole), 70_001)]):
        for end in (b"", b"\n"):
            assert lines_of(Trickle(*pieces, end)) == [content[: stream.LONGEST]]


def test_read_ahead_is_ordered_bounded_and_propagates_errors():
    made = []

    def lists():
        for number in range(50):
            made.append(number)
            yield [number] * 300
        raise ZeroDivisionError

    found, ahead = [], stream.ahead(lists())
    found += next(ahead)
    time.sleep(0.1)
    assert 300 * len(made) <= len(found) + stream.WAITING + 2 * 300
    while len(found) < 50 * 300:
        found += next(ahead)
    assert found == [number for number in range(50) for _ in range(300)]
    with pytest.raises(ZeroDivisionError):
        next(ahead)


def answers(trained, content, *flags, monkeypatch, capsys):
    """stdout and stderr of predict.py for these bytes on standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    predict.main(["--model_name_or_path", str(trained), *flags])
    return capsys.readouterr()


def test_empty_and_long_lines_are_answered_and_counted_once(trained, monkeypatch, capsys):
    content = b"superb film\n\n \t\n" + b"film " * 200 + b"\n" + b"dull " * 200_000
    shown = answers(trained, content, monkeypatch=monkeypatch, capsys=capsys)
    lines = [line.split("\t") for line in shown.out.splitlines()]
    assert [label in ("negative", "positive") for label, _ in lines] == [
        True,
        False,
        False,
        True,
        True,
    ]
    assert lines[1:3] == [["", "0.0000"]] * 2
    assert lines[4][0] == "negative"
    assert shown.err == "5 texts: 2 truncated to 64 tokens, 2 empty and not labelled\n"


def test_json_lines_keep_their_fields_and_get_label_and_score(trained, monkeypatch, capsys):
    rows = [
        {"id": 10**20, "text": "superb 🙂", "label": "?", "more": [1.5, {"x": None}]},
        {"text": ""},
        {"text": "dull"},
        {"text": None},
    ]
    content = (
        "".join(json.dumps(row) + "\n" for row in rows).encode() + b'\n{"text": "half \\ud800"}\n'
    )
    options = {"monkeypatch": monkeypatch, "capsys": capsys}
    lines = answers(trained, content, "--jsonl", **options).out.splitlines()
    found = [json.loads(line) for line in lines]
    for row, answer in zip(rows, found, strict=False):
        assert answer == {**row, "label": answer["label"], "score": answer["score"]}
    empty = {"label": "", "score": 0.0}
    assert found[3] == {"text": None, **empty}
    assert (found[1], found[4], found[5]["text"]) == ({"text": "", **empty}, empty, "half \ud800")
    tsv = [f"{answer['label']}\t{answer['score']:.4f}" for answer in found]
    assert (
        answers(trained, content, "--jsonl", "--output_format", "tsv", **options).out.splitlines()
        == tsv
    )
    body = content.replace(b'"text"', b'"body"')
    flags = ["--jsonl", "--output_format", "jsonl", "--text_column", "body"]
    every = [
        json.loads(line)["probabilities"]
        for line in answers(trained, body, *flags, **options).out.splitlines()
    ]
    assert [max(of.values(), default=0) for of in every] == [answer["score"] for answer in found]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"superb", "Expecting value"),
        (b"[1]", "JSON object with a field text: list (--input_file FILE.json reads an array)"),
        (b'{"txt": "superb"}', "text; fields: txt"),
        (b'{"text": 5}', "no string"),
        (b'{"text": "x", "n": NaN}', "NaN"),
        (b'{"text": "x", "n": 1e999}', "1e999"),
        (b'{"text": "x", "n": ' + b"[" * 100_000, "recursion"),
    ],
)
def test_an_invalid_json_line_stops_after_the_answers_before_it(
    line, named, trained, monkeypatch, capsys
):
    good = b'{"text": "superb film"}\n'
    with pytest.raises(SystemExit) as stop:
        answers(
            trained,
            good * 300 + line + b"\n" + good,
            "--jsonl",
            monkeypatch=monkeypatch,
            capsys=capsys,
        )
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert "line 301 of standard input" in shown.err
    assert named in shown.err
    assert len(shown.out.splitlines()) == 300


def labelled(trained, texts, monkeypatch, capsys):
    """(label, probability) of each text, asked as a line of JSON."""
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    shown = answers(trained, content, "--jsonl", monkeypatch=monkeypatch, capsys=capsys)
    found = map(json.loads, shown.out.splitlines())
    return [(answer["label"], f"{answer['score']:.4f}") for answer in found]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_keeps_its_rows_and_gets_two_columns(mark, trained, monkeypatch, capsys):
    """pandas, which also reads training data, is the oracle."""
    texts = ["superb, witty; film\t🙂", 'a "dull"\n\nboring\r\nfilm', "", "=1+1", "007 NA"]
    table = io.StringIO(newline="")
    rows = [[f" {i:03} ", text, "?", "1,5"] for i, text in enumerate(texts)]
    writer = csv.writer(table, delimiter=mark, lineterminator="\r\n")
    writer.writerows([["id", "text", "label", "score"], *rows])
    content = b"\xef\xbb\xbf" + table.getvalue().encode()
    options = {"monkeypatch": monkeypatch, "capsys": capsys}
    shown = answers(trained, content, "--csv", **options)
    assert shown.err == "5 texts: 1 empty and not labelled\n"
    read = {"sep": mark, "dtype": str, "keep_default_na": False, "engine": "python"}
    given = pandas.read_csv(io.StringIO(table.getvalue(), newline=""), **read)
    found = pandas.read_csv(io.StringIO(shown.out, newline=""), **read)
    assert list(found) == ["id", "text", "label_given", "score_given", "label", "score"]
    assert found.iloc[:, :4].values.tolist() == given.values.tolist() == rows
    assert list(map(tuple, found.iloc[:, 4:].values)) == labelled(trained, texts, **options)


def test_rows_of_csv_are_written_as_they_were(trained, monkeypatch, capsys):
    rows = ['"1", a ', '2,"""b""\n\r\nc"', '"",""', "3,"]
    content = "\r\n\n".join(['text,"i\nd"', *rows]).encode()
    shown = answers(trained, content, "--csv", monkeypatch=monkeypatch, capsys=capsys)
    whole = re.sub(r",(positive|negative)?,[01]\.[0-9]{4}\n", "\n", shown.out)
    assert whole == "\n".join(['text,"i\nd",label,score', *rows, ""])


def test_a_lone_carriage_return_stays_in_its_field(trained, monkeypatch, capsys):
    shown = answers(
        trained,
        b'id,text\n1,"good\rfilm"\n2,bad\n',
        "--csv",
        monkeypatch=monkeypatch,
        capsys=capsys,
    )
    rows = list(csv.reader(io.StringIO(shown.out, newline="")))
    assert [row[:2] for row in rows] == [["id", "text"], ["1", "good\rfilm"], ["2", "bad"]]


def test_a_pipe_can_be_an_input_file(tmp_path, trained, capsys):
    os.mkfifo(tmp_path / "pipe.csv")
    writer = threading.Thread(target=(tmp_path / "pipe.csv").write_text, args=["text\nsuperb\n"])
    writer.start()
    model = ["--model_name_or_path", str(trained)]
    predict.main([*model, "--input_file", str(tmp_path / "pipe.csv")])
    writer.join()
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_answers_in_csv_can_be_answered_again():
    assert predict.answered(["text"]) == ["text", "label", "score"]
    once = predict.answered(["label", "text"])
    assert once == ["label_given", "text", "label", "score"]
    twice = ["label_given", "text", "label_given_given", "score_given", "label", "score"]
    assert predict.answered(once) == twice


def test_rows_of_csv_are_read_as_soon_as_they_have_arrived():
    """Those before an unfinished one too."""
    pieces = [b"text,id\n", b"one,1\n", b'two,2\n"thr\nee', b"\nlines", b'",3\n\n', b"four,4"]
    made = []

    class Source(Trickle):
        def read(self, most):
            made.append(None)
            return super().read(most)

    lines = stream.lines(Source(*pieces), "here", "strict")
    rows, separator, header = predict.read_csv(lines, "text", "here")
    assert (separator, header, len(made)) == (",", ["text", "id", "label", "score"], 1)
    assert (next(rows), len(made)) == ([("one", "one,1")], 2)
    assert (next(rows), len(made)) == ([("two", "two,2")], 3)
    assert (next(rows), len(made)) == ([("thr\nee\nlines", '"thr\nee\nlines",3')], 5)
    assert list(rows) == [[("four", "four,4")]]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_spaces_after_separators_belong_to_no_field_of_csv(mark):
    header, row = f'id{mark} "text"', f'1{mark}  "one{mark} two"'
    rows, separator, names = predict.read_csv(iter([[header, row]]), "text", "here")
    assert (separator, names) == (mark, ["id", " text", " label", " score"])
    assert list(rows) == [[(f"one{mark} two", row)]]
    lines = [predict.in_csv(names, mark), f"{row}{mark}good{mark}0.9"]  # the answers
    again, _, names = predict.read_csv(iter([lines]), "text", "there")
    assert names == ["id", " text", " label_given", " score_given", " label", " score"]
    assert [text for text, _ in next(again)] == [f"one{mark} two"]
    assert "use --csv" in predict.structured(header, "text")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"superb, witty,1", "line 302 of standard input: 3 fields, but 2 in the header"),
        (b"superb", "line 302 of standard input: 1 fields"),
        (b'"superb" film,1', "line 302"),
        (b'"superb film,1', "unexpected end of data"),
        (b"superb,1" + b"0" * stream.LONGEST, "4,194,304 characters"),
        ("superb été,1".encode("latin-1"), "save it as UTF-8"),
    ],
)
def test_an_invalid_row_stops_after_the_answers_before_it(
    line, named, trained, monkeypatch, capsys
):
    content = b"text,id\n" + b"superb film,1\n" * 300 + line + b"\nsuperb film,1\n"
    with pytest.raises(SystemExit, match="2"):
        answers(trained, content, "--csv", monkeypatch=monkeypatch, capsys=capsys)
    shown = capsys.readouterr()
    assert named in shown.err
    assert len(shown.out.splitlines()) == (0 if "UTF" in named else 301)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"text,label\nsuperb,1\n", "--csv"),
        (b'"id";"Text"\n1;superb\n', "--csv"),
        (b'{"text": "superb"}\n', "--jsonl"),
        (b'[{"text": "superb"},\n', "FILE.json"),
        (b"[\n", "FILE.json"),
        (gzip.compress(b"superb", mtime=0), "binary"),
    ],
)
def test_input_that_is_not_lines_of_text_is_refused_with_the_flag(
    content, named, trained, monkeypatch, capsys
):
    options = {"monkeypatch": monkeypatch, "capsys": capsys}
    with pytest.raises(SystemExit, match="2"):
        answers(trained, content, **options)
    shown = capsys.readouterr()
    assert (shown.out, named in shown.err, shown.err.count("\n")) == ("", True, 1)
    if named != "binary":
        assert len(answers(trained, b"\n" + content, **options).out.splitlines()) > 1


ODD = [
    "Text, subtext, and pretext: a fine film.",
    "a\rtext,label",
    "long " * 100_000,
    '"',
    "text\0",
]


@pytest.mark.parametrize("line", ["text", "good, {really} good text", "[1] a film", *ODD])
def test_a_review_is_no_header(line):
    found = predict.read_lines([[line, "superb"]], "body", "here")
    assert list(found) == [[(line, {}), ("superb", {})]]


def test_an_input_file_is_read_as_in_training_or_as_lines(tmp_path, trained, monkeypatch, capsys):
    texts = [text for text, _ in tiny.reviews(5, seed=3)]
    options = {"monkeypatch": monkeypatch, "capsys": capsys}
    wanted = [f"{label}\t{score}" for label, score in labelled(trained, texts, **options)]
    frame = pandas.DataFrame({"id": range(5), "text": texts})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "A.TSV.gz", sep="\t", index=False)
    frame.to_json(tmp_path / "a.json", orient="records")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a b.txt").write_text("\n".join(texts), encoding="utf-16")
    (tmp_path / "lines.gz").write_bytes(gzip.compress("\r\n".join(texts).encode()))
    monkeypatch.setattr("sys.stdin", None)
    model = ["--model_name_or_path", str(trained), "--input_file"]
    for path in sorted(tmp_path.iterdir()):
        predict.main([*model, str(path)])
        shown = capsys.readouterr()
        assert (shown.out.splitlines(), shown.err) == (wanted, ""), path
    predict.main([*model, str(tmp_path / "a.csv"), "--csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [f"{row['label']}\t{row['score']}" for row in rows] == wanted
    assert [row["id"] for row in rows] == list("01234")


def test_below_the_threshold_is_unsure():
    classes = ["negative", "positive"]
    assert predict.answer([0.3, 0.7], classes, "tsv", threshold=0.8) == "unsure\t0.7000"
    assert predict.answer([0.3, 0.7], classes, "tsv", threshold=0.7) == "positive\t0.7000"
    assert predict.answer([], classes, "tsv", threshold=0.8) == "\t0.0000"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--text_column", "body", "superb"], "--text_column"),
        (["--jsonl", "superb"], "--jsonl"),
        (["--threshold", "1.5", "superb"], "--threshold 1.5"),
        (["--threshold", "nan"], "--threshold nan"),
        (["--csv", "superb"], "--csv"),
        (["--input_file", ""], "--input_file empty"),
        (["--text_column=", "--jsonl"], "--text_column empty"),
        (["--csv", "--jsonl"], "--csv --jsonl"),
        (["--csv", "--output_format", "jsonl"], "--csv --output_format"),
        (["--input_file", "@/reviews.txt", "superb"], "--input_file"),
        (["--input_file", "@/missing.txt"], "--input_file @/missing.txt"),
        (["--input_file", "@"], "--input_file @"),
        (["--input_file", "@/damaged.txt.gz"], "@/damaged.txt.gz damaged"),
        (["--input_file", "@/other.csv"], "--text_column text @/other.csv body"),
        (["--input_file", "@/reviews.txt", "--text_column", "a"], "read as lines --csv"),
        (["--csv", "--input_file", "@/other.csv"], "--text_column text @/other.csv body"),
        (["--csv", "--input_file", "@/other.parquet"], "--csv: @/other.parquet Parquet drop"),
        (["@/reviews.txt"], "--input_file @/reviews.txt"),
        (["good", "@/my model"], "--model_name_or_path '@/my model' TEXT"),
        (["@/missing.csv"], "@/missing.csv: no such file"),
        (["-"], "standard input"),
        (["--input_file", "@/my model"], "--input_file a folder"),
        (["-dull"], "-dull after --"),
        (["-hated it"], "-hated it after --"),
        (["--well-made"], "--well-made after --"),
    ],
)
def test_arguments_that_cannot_be_meant_so_are_refused(argv, named, trained, refusal, tmp_path):
    (tmp_path / "reviews.txt").write_text("superb film\n")
    (tmp_path / "damaged.txt.gz").write_bytes(gzip.compress(b"superb film\n" * 100)[:40])
    (tmp_path / "other.csv").write_text("id,body\n1,superb\n")
    (tmp_path / "other.parquet").touch()
    (tmp_path / "my model").mkdir()
    (tmp_path / "my model" / "config.json").write_text("{}")
    argv = [word.replace("@", str(tmp_path)) for word in argv]
    line = refusal(predict.main, ["--model_name_or_path", trained, *argv])
    assert all(word.replace("@", str(tmp_path)) in line for word in named.split())


@pytest.fixture
def another(trained, tmp_path):
    """A model with other weights, another limit, and the classes in another order."""
    folder = shutil.copytree(trained, tmp_path / "another")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] = weights["classifier.weight"].flip(0) / 3
    weights["classifier.bias"] = weights["classifier.bias"].flip(0)
    save_file(weights, folder / "model.safetensors")
    for name, more in (
        ("config.json", {"id2label": {"0": "positive", "1": "negative"}}),
        ("tokenizer_config.json", {"model_max_length": 8}),
    ):
        (folder / name).write_text(json.dumps(tiny.read(folder, name) | more))
    return folder


def test_several_models_give_the_mean_of_their_probabilities(trained, another, capsys):
    texts = ["superb film", "dull plot and a boring story, but witty", ""]

    def found(*models):
        flags = [word for each in models for word in ("--model_name_or_path", str(each))]
        predict.main([*flags, "--output_format", "jsonl", *texts])
        shown = capsys.readouterr()
        assert shown.err == (
            "3 texts: 1 truncated to 8 tokens, 1 empty and not labelled\n"
            if another in models
            else "3 texts: 1 empty and not labelled\n"
        )
        return [json.loads(line) for line in shown.out.splitlines()]

    first, second, both = found(trained), found(another), found(trained, another)
    for one, other, mean in zip(first, second, both, strict=True):
        wanted = {
            name: (p + other["probabilities"][name]) / 2 for name, p in one["probabilities"].items()
        }
        assert list(mean["probabilities"]) == list(wanted)
        assert mean["probabilities"] == pytest.approx(wanted, abs=1e-6)
        assert mean["label"] == max(wanted, key=wanted.get, default="")
        assert not wanted or one["probabilities"] != pytest.approx(other["probabilities"], abs=0.01)


@pytest.mark.parametrize(
    ("more", "flags", "named"),
    [
        ({"id2label": {"0": "positive", "1": "good"}}, ["superb"], "such as good, negative"),
        ({"text_columns": ["title"]}, ["--jsonl"], "text; title; give --text_column"),
        ({"text_columns": ["title"]}, [], "CSV with a column title: use --csv"),
    ],
)
def test_models_that_do_not_fit_together_are_refused(
    more, flags, named, trained, another, refusal, monkeypatch
):
    (another / "config.json").write_text(json.dumps(tiny.read(another, "config.json") | more))
    models = ["--model_name_or_path", trained, "--model_name_or_path", another]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"id,title\n1,superb\n")))
    assert named in refusal(predict.main, [*models, *flags])


def test_classes_whose_names_read_the_same_keep_their_probabilities(trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "alike")
    names = {"id2label": {"0": "neg", "1": "negative"}, "label2id": {"neg": 0, "negative": 1}}
    path = folder / "config.json"
    path.write_text(json.dumps(tiny.read(folder, "config.json") | names))
    predict.main(["--model_name_or_path", str(trained), "superb film", "dull film"])
    wanted = capsys.readouterr().out.replace("positive", "negative")
    predict.main(["--model_name_or_path", str(folder), "superb film", "dull film"])
    assert capsys.readouterr().out == wanted


def test_a_text_is_labelled_as_it_is(trained, monkeypatch, capsys):
    """Python's argparse takes a word with a blank for a TEXT, even behind hyphens."""
    texts = ["--well-made and-superb film", "-5/10 dull", "- dash", "film in data.csv", ""]
    wanted = labelled(trained, texts, monkeypatch, capsys)
    predict.main(["--model_name_or_path", str(trained), *texts])
    assert [tuple(line.split("\t")) for line in capsys.readouterr().out.splitlines()] == wanted
    assert predict.parse_args(texts).text == texts


def start(trained, **streams):
    return subprocess.Popen([*WORDS, trained], bufsize=0, **streams)


@pytest.mark.slow
@pytest.mark.parametrize("blocking", [True, False])
def test_interactive_input_is_answered_at_once_and_ctrl_c_exits_quietly(trained, blocking):
    reading, writing = os.pipe()
    os.set_blocking(reading, blocking)  # some parents leave it non-blocking
    process = start(trained, stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.close(reading)
    waits = []
    for text in (b"superb film\n", b"dull film\n", b"witty film\n"):
        os.write(writing, text)
        started = time.perf_counter()
        assert process.stdout.readline().count(b"\t") == 1
        waits.append(time.perf_counter() - started)
    assert max(waits[1:]) < 1
    process.send_signal(signal.SIGINT)
    assert (process.wait(10), process.stderr.read()) == (130, b"")
    os.close(writing)


@pytest.mark.slow
def test_a_closed_pipe_ends_quietly_with_141(trained):
    process = start(trained, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def feed():
        try:
            for _ in range(10_000):
                process.stdin.write(b"superb film\n" * 100)
        except BrokenPipeError:
            pass

    threading.Thread(target=feed).start()
    assert process.stdout.readline()
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (141, b"")


@pytest.mark.slow
def test_an_early_exit_does_not_crash_the_reader_thread(trained):
    """Which would abort if it is in torch just then: what is registered for Python's end must not
    run.
    """
    code = "import atexit, runpy, sys; atexit.register(print, 'taken down', file=sys.stderr); "
    code += "del sys.argv[0]; "
    code += "runpy.run_path('predict.py', run_name='__main__')"
    reading, writing = os.pipe()
    os.close(reading)
    argv = [
        sys.executable,
        "-c",
        code,
        "predict.py",
        "--model_name_or_path",
        trained,
        "superb film",
    ]
    process = subprocess.Popen(argv, cwd=tiny.ROOT, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (process.stderr.read(), process.wait(60)) == (b"", 141)


def test_a_terminal_gets_a_prompt_and_an_answer_until_ctrl_d(trained):
    terminal, end = pty.openpty()
    process = start(trained, stdin=end, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.close(end)
    os.write(terminal, b"superb film\n")
    assert process.stdout.readline().count(b"\t") == 1
    os.write(terminal, b"\x04")  # Ctrl-D
    shown = process.stderr.read().decode()
    assert (process.wait(10), shown.count("> ")) == (0, 2)
    assert "Ctrl-D" in shown
