"""predict.py as a filter: input, output and timing."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest
import tiny

import predict
from sentiment.runtime import stream

WORDS = [sys.executable, tiny.ROOT / "predict.py", "--model_name_or_path"]


class Trickle:
    """A stream whose reads return given blocks, like a pipe."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    def read(self, most):
        return self.pieces.pop(0) if self.pieces else b""


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", []),
        (b"one", [b"one"]),
        (b"one\n", [b"one"]),
        (b"\n\n", [b"", b""]),
        (b"one\r\ntwo\rthree\r\n", [b"one", b"two\rthree"]),
        (b"\xef\xbb\xbfone\n\xef\xbb\xbftwo", [b"one", b"\xef\xbb\xbftwo"]),
        (b"\xef\xbb\xbf", [b""]),
        (b"x" * 200_000 + b"\n\0\n", [b"x" * 200_000, b"\0"]),
        (b"line\n" * 5000, [b"line"] * 5000),
    ],
)
def test_lines_are_the_same_however_the_bytes_arrive(content, wanted):
    assert [line for some in stream.lines(io.BytesIO(content)) for line in some] == wanted
    if len(content) < 100:
        pieces = Trickle(*(content[i : i + 1] for i in range(len(content))))
        assert [line for some in stream.lines(pieces) for line in some] == wanted


def test_an_endless_line_is_truncated_at_the_same_byte_for_any_blocks():
    content = b"ab" * stream.LONGEST
    for pieces in ([content], [content[i : i + 70_001] for i in range(0, len(content), 70_001)]):
        for end in (b"", b"\n"):
            assert list(stream.lines(Trickle(*pieces, end)))[-1] == [content[: stream.LONGEST]]


def test_read_ahead_is_ordered_bounded_and_propagates_errors():
    made = []

    def lists():
        for number in range(50):
            made.append(number)
            yield [number]
        raise ZeroDivisionError

    found, ahead = [], stream.ahead(lists())
    found += next(ahead)
    time.sleep(0.1)
    assert len(made) <= len(found) + stream.WAITING + 1
    while len(found) < 50:
        found += next(ahead)
    assert found == list(range(50))
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
    assert (found[1], found[3], found[4]["text"]) == ({"text": "", **empty}, empty, "half \ud800")
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
        (b"[1]", "an object"),
        (b'{"txt": "superb"}', "text; fields: txt"),
        (b'{"text": null}', "no string"),
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
    ],
)
def test_flags_that_do_not_go_together_are_refused(argv, named, trained, refusal):
    line = refusal(predict.main, ["--model_name_or_path", trained, *argv])
    assert all(word in line for word in named.split())


def start(trained, **streams):
    return subprocess.Popen([*WORDS, trained], bufsize=0, **streams)


@pytest.mark.slow
def test_interactive_input_is_answered_at_once_and_ctrl_c_exits_quietly(trained):
    process = start(trained, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    waits = []
    for text in (b"superb film\n", b"dull film\n", b"witty film\n"):
        process.stdin.write(text)
        started = time.perf_counter()
        assert process.stdout.readline().count(b"\t") == 1
        waits.append(time.perf_counter() - started)
    assert max(waits[1:]) < 1
    process.send_signal(signal.SIGINT)
    assert (process.wait(10), process.stderr.read()) == (130, b"")


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
