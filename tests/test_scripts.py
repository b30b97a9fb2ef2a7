"""evaluate.py and predict.py on a trained model, and what all scripts share."""

import argparse
import errno
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import datasets
import pytest
import tiny
import torch
import transformers

import evaluate
import predict
import train
from sentiment.errors import RunError, UserError
from sentiment.runtime.exits import script
from sentiment.runtime.flags import number

TEXTS = [
    "superb moving film",
    "dull stale film",
    "Ça m'a plu ★ 🙂",
    "film " * 200,
    "lovely\tcast",
    "NA",
]


@pytest.fixture
def copy(tmp_path, trained):
    """A copy of the trained model's folder, to write into."""
    return shutil.copytree(trained, tmp_path / "copy")


def evaluated(folder, output_dir, **settings):
    evaluate.main(tiny.flags(model_name_or_path=folder, output_dir=output_dir, **settings))
    return tiny.read(output_dir, "metrics.json")


def test_evaluate_gives_exactly_the_numbers_that_training_ended_with(copy, trained, capsys):
    (copy / "metrics.json").unlink()
    evaluate.main(tiny.flags(model_name_or_path=copy))
    assert tiny.read(copy, "metrics.json") == tiny.read(trained, "metrics.json")
    assert (copy / "README.md").read_bytes() == (trained / "README.md").read_bytes()
    shown = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["accuracy", f"{tiny.read(trained, 'metrics.json')['accuracy']:.4f}"] in shown


@pytest.mark.parametrize("split", ["test", "none"])
def test_evaluate_scores_the_rows_that_training_sampled(tmp_path, distilbert, reviews, split):
    """With a test split, and with reviews held out of the training split."""
    dataset = reviews if split == "test" else reviews / "train.csv"
    given = {"max_eval_samples": 4, "num_train_epochs": 1, "seed": 5}
    folder = tiny.train(distilbert, dataset, tmp_path / "run", **given)
    identity = tiny.read(folder, "run.json")["reviews"]["eval"]
    assert identity["rows"] != [0, 1, 2, 3]
    assert evaluated(folder, tmp_path / "out") == tiny.read(folder, "metrics.json")
    rows = tiny.reviews(20, seed=2) if split == "test" else tiny.reviews(41, seed=1)
    tiny.write(tmp_path / "same.csv", [rows[row] for row in identity["rows"]])
    own = evaluated(folder, tmp_path / "own", dataset_name=tmp_path / "same.csv")
    ended = tiny.read(folder, "metrics.json")
    assert (own["loss"], own["confusion_matrix"]) == (
        pytest.approx(ended["loss"]),
        ended["confusion_matrix"],
    )


def test_other_splits_sizes_and_data_sets_are_scored(tmp_path, trained, reviews):
    ended = tiny.read(trained, "metrics.json")
    as_train = evaluated(trained, tmp_path / "a", split="train")
    assert (as_train["reviews"], as_train["split"]) == (41, "train")
    some = evaluated(trained, tmp_path / "b", max_eval_samples=6)
    assert (some["split"], list(map(sum, some["confusion_matrix"]))) == ("test", [3, 3])
    assert evaluated(trained, tmp_path / "c", max_eval_samples=0) == ended
    alone = evaluated(trained, tmp_path / "d", dataset_name=reviews / "test.csv")
    assert {**alone, "split": "test"} == {**ended, "dataset": "test.csv"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_held_out_reviews_exclude_training_reviews(tmp_path, distilbert, kind):
    path = tiny.write(tmp_path / "train.csv", tiny.reviews(41, seed=1))
    dataset = path if kind == "file" else tmp_path
    folder = tiny.train(distilbert, dataset, tmp_path / "run", num_train_epochs=1)
    scores = evaluated(folder, tmp_path / "a", max_eval_samples=0)
    assert scores == tiny.read(folder, "metrics.json")
    assert scores["split"] == "held out of train"
    as_train = evaluated(folder, tmp_path / "b", split="train")
    assert (as_train["reviews"], as_train["split"]) == (41, "train")


def test_held_out_texts_never_appear_in_training(tmp_path, distilbert, capsys):
    """Each text is in the file twice, so that some are sampled once only. Then the rows are
    renumbered.
    """
    rows = tiny.reviews(40, seed=1)
    path = tiny.write(tmp_path / "train.csv", rows * 2)
    folder = tiny.train(
        distilbert, path, tmp_path / "run", num_train_epochs=1, max_train_samples=20
    )
    run = tiny.read(folder, "run.json")["reviews"]
    trained_on = {rows[row % 40] for row in run["train"]["rows"]}
    held_out = evaluated(folder, tmp_path / "a", max_eval_samples=0)
    assert (held_out["split"], held_out["reviews"]) == (
        "held out of train",
        2 * (40 - len(trained_on)),
    )
    tiny.write(path, rows[1:] * 2)
    with pytest.raises(SystemExit, match="2"):
        evaluated(folder, tmp_path / "b", max_eval_samples=0)
    assert "changed since training (20, now 19); --split train scores" in capsys.readouterr().err
    assert evaluated(folder, tmp_path / "c", split="train")["reviews"] == 78


def test_column_names_are_remembered_and_can_be_overridden(tmp_path, distilbert):
    path = tiny.write(tmp_path / "train.csv", tiny.reviews(30, seed=3), columns=("review", "stars"))
    columns = {"text_column": "review", "label_column": "stars"}
    folder = tiny.train(distilbert, path, tmp_path / "run", num_train_epochs=1, **columns)
    assert evaluated(folder, tmp_path / "a")["reviews"] == 3
    other = tiny.write(tmp_path / "other.csv", tiny.reviews(8, seed=4), columns=("body", "label"))
    assert evaluated(folder, tmp_path / "b", dataset_name=other, text_column="body")["reviews"] == 8


@pytest.mark.parametrize(
    "names", [("pos", "neg"), ("Positive", "NEGATIVE"), (1, 0), ("1.0", "0.0")]
)
def test_labels_are_matched_by_name_or_by_id(tmp_path, trained, reviews, names):
    positive, negative = names
    rows = [
        (text, positive if label == "positive" else negative)
        for text, label in tiny.reviews(20, seed=2)
    ]
    path = tiny.write(tmp_path / "other.csv", rows)
    scores = evaluated(trained, tmp_path / "out", dataset_name=path)
    assert scores["confusion_matrix"] == tiny.read(trained, "metrics.json")["confusion_matrix"]


def test_classes_that_differ_by_case_alone_stay_two_if_a_class_label_says_so(tmp_path, distilbert):
    texts, labels = zip(*tiny.reviews(40, seed=3), strict=True)
    kinds = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["Good", "good"])}
    columns = {"text": texts, "label": [int(label == "positive") for label in labels]}
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    rows.to_parquet(tmp_path / "train.parquet")
    folder = tiny.train(
        distilbert, tmp_path / "train.parquet", tmp_path / "run", num_train_epochs=1
    )
    wanted = tiny.read(folder, "metrics.json")["confusion_matrix"]
    assert evaluated(folder, tmp_path / "out")["confusion_matrix"] == wanted


@pytest.mark.parametrize(
    "names", [("LABEL_0", "LABEL_1"), ("neg", "pos"), ("NEGATIVE", "POSITIVE")]
)
def test_a_model_without_run_json_is_scored(tmp_path, trained, reviews, names, monkeypatch):
    """LABEL_0 and LABEL_1 are the data set's classes, in order."""
    monkeypatch.setattr(
        evaluate.device, "pick_precision", lambda: "no"
    )  # the one that `trained` was scored in
    folder = shutil.copytree(trained, tmp_path / "model", ignore=shutil.ignore_patterns("run.json"))
    config = tiny.read(folder, "config.json") | {"id2label": dict(enumerate(names)), "label2id": {}}
    (folder / "config.json").write_text(json.dumps(config))
    scores = evaluated(folder, tmp_path / "out", dataset_name=reviews)
    assert scores["confusion_matrix"] == tiny.read(trained, "metrics.json")["confusion_matrix"]
    assert scores["labels"] == (["negative", "positive"] if names[0] == "neg" else list(names))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json"}


def expected(folder, texts):
    """pipeline()'s answers in fp32: {name: probability} for each text."""
    classify = transformers.pipeline(
        "text-classification", model=str(folder), device="cpu", top_k=None
    )
    return [
        {one["label"]: one["score"] for one in classify(text, truncation=True)[0]} for text in texts
    ]


def test_predict_answers_as_the_pipeline_does_in_both_formats(trained, capsys):
    texts = [*TEXTS, *[text for text, _ in tiny.reviews(300, seed=9)]]  # over one chunk
    wanted = expected(trained, texts)
    predict.main([*tiny.flags(model_name_or_path=trained, output_format="jsonl"), *texts])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == len(texts)
    for answer, probabilities in zip(answers, wanted, strict=True):
        assert answer.keys() == {"label", "score", "probabilities"}
        assert list(answer["probabilities"]) == ["negative", "positive"]
        assert answer["probabilities"] == pytest.approx(
            probabilities, abs=0.02
        )  # bf16 where the hardware has it
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert (
            answer["score"]
            == answer["probabilities"][answer["label"]]
            == max(answer["probabilities"].values())
        )
    clear = [max(p, key=p.get) if abs(p["positive"] - 0.5) > 0.02 else None for p in wanted]
    assert clear.count(None) < len(clear) / 4
    assert all(name in (None, answer["label"]) for name, answer in zip(clear, answers, strict=True))
    predict.main([*tiny.flags(model_name_or_path=trained), *texts])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{answer['label']}\t{answer['score']:.4f}" for answer in answers]


def test_an_answer_is_a_line_of_tabs_or_of_json():
    probabilities, classes = [0.25, 0.75], ["schwach", "groß"]
    assert predict.answer(probabilities, classes, "tsv") == "groß\t0.7500"
    wanted = '{"label": "groß", "score": 0.75, "probabilities": {"schwach": 0.25, "groß": 0.75}}'
    assert predict.answer(probabilities, classes, "jsonl") == wanted


@pytest.mark.slow
def test_each_line_of_standard_input_gets_one_answer_in_order(trained):
    """Empty lines and lines with odd separators in them too, and the last one without a newline at
    its end.
    """
    odd = "dull\u2028boring\x0bstale\x85film"
    lines = ["superb lovely film", "", odd, "Ça m'a plu ★ 🙂", "--help", "dull dreadful film"]
    done = tiny.script(
        "predict", "--model_name_or_path", trained, text="\n".join(lines), cwd=trained.parent
    )
    assert (done.returncode, done.stderr) == (0, "6 texts: 1 empty and not labelled\n")
    answers = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(answers) == len(lines)
    assert answers.pop(1) == ["", "0.0000"]
    for (label, probability), wanted in zip(
        answers, expected(trained, [lines[0], *lines[2:]]), strict=True
    ):
        assert float(probability) == pytest.approx(wanted[label], abs=0.05)


@pytest.mark.slow
def test_predict_loads_neither_datasets_nor_scikit_learn(trained):
    code = "import sys, predict; predict.main(sys.argv[1:]); "
    code += "print('datasets' in sys.modules, 'sklearn' in sys.modules)"
    done = tiny.process(tiny.sys.executable, "-c", code, "--model_name_or_path", trained, "superb")
    assert done.stdout.splitlines()[1:] == ["False False"], done.stderr


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_invalid_utf8_is_replaced_and_answered(trained, monkeypatch, capsys, errors):
    """Python opens standard input in either way, depending on the locale."""
    standard_input = io.BytesIO("superb film\nça m'a plu\n".encode("latin-1"))
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(standard_input, encoding="utf-8", errors=errors)
    )
    predict.main(["--model_name_or_path", str(trained)])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_numbers_are_range_checked():
    count, share = number(int, 0), number(float, 0, 1, above=True)
    assert (count("0"), count("3"), share("1e-3"), share("1")) == (0, 3, 1e-3, 1.0)
    bad = [(count, text) for text in ("-1", "1.0", "x", "", "nan", "9" * 400)]
    for parse, text in bad + [(share, text) for text in ("0", "2", "nan", "inf", "1,5")]:
        with pytest.raises(argparse.ArgumentTypeError, match=f"expected a.*, got '{text}'"):
            parse(text)


@pytest.mark.parametrize(
    ("main", "flag"),
    [
        (train.main, "--output_dir"),
        (train.main, "--dataset_name"),
        (evaluate.main, "--output_dir"),
        (evaluate.main, "--dataset_name"),
        (predict.main, "--input_file"),
    ],
)
def test_an_empty_value_is_refused(main, flag, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"{flag} is empty" in refusal(main, [flag, ""])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("--x 3:\n  too much"), 2, "--x 3: too much"),
        (RunError("lost"), 1, "lost"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "[Errno 28] No space left on device"),
        (MemoryError(), 1, "out of memory: MemoryError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_script_ends_with_an_exit_code_and_one_line(error, code, line, capsys):
    @script
    def main(argv=None):
        raise error

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == code
    assert capsys.readouterr().err == f"test_scripts.py: error: {line}\n"


def test_out_of_memory_outside_a_pass_is_a_one_line_error(capsys):
    @script
    def main(argv=None):
        torch.empty(2**60)

    with pytest.raises(SystemExit, match="1"):
        main()
    assert re.fullmatch(
        r"test_scripts.py: error: out of memory: .*DefaultCPUAllocator.*\n", capsys.readouterr().err
    )


def test_help_names_defaults_where_there_are_any(capsys):
    with pytest.raises(SystemExit, match="0"):
        train.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "(default: 5e-05)" in shown
    assert "default: None" not in shown
    assert "default: False" not in shown


def test_a_bug_keeps_its_traceback():
    @script
    def main(argv=None):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def unread(*argv):
    """(exit code, stderr) of a script whose standard output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=tiny.ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    os.close(writing)
    return done.returncode, done.stderr.decode()


def test_training_and_scoring_go_on_when_nobody_reads_the_output(tmp_path, distilbert, reviews):
    folder = tmp_path / "run"
    given = {"model_name_or_path": distilbert, "dataset_name": reviews, "output_dir": folder}
    argv = tiny.flags(**given, num_train_epochs=2, train_batch_size=8)
    assert unread("train.py", *argv) == (0, "")
    assert tiny.read(folder, "status.json")["status"] == "finished"
    (folder / "metrics.json").unlink()
    argv = tiny.flags(model_name_or_path=folder, output_dir=tmp_path / "scored")
    assert unread("evaluate.py", *argv) == (0, "")
    assert tiny.read(tmp_path / "scored", "metrics.json")["reviews"] == 20


# `>&-` is POSIX; cmd.exe has nothing like it.
@pytest.mark.skipif(os.name == "nt", reason="its shell cannot close a stream")
def test_closed_streams_are_no_error(tmp_path, distilbert, reviews):
    given = {"model_name_or_path": distilbert, "dataset_name": reviews, "num_train_epochs": 1}
    for name, closed in (("out", ">&-"), ("both", ">&- 2>&-")):
        argv = tiny.flags(**given, output_dir=tmp_path / name)
        command = shlex.join([sys.executable, "train.py", *argv])
        done = tiny.process("sh", "-c", f"{command} {closed}")
        assert (done.returncode, done.stderr) == (0, "")
        assert tiny.read(tmp_path / name, "status.json")["status"] == "finished"


# The only file that is full for everyone, without root.
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_behind_the_output_is_an_error_of_one_line(trained, tmp_path):
    argv = tiny.flags(model_name_or_path=trained, output_dir=tmp_path)
    command = shlex.join([sys.executable, "evaluate.py", *argv])
    done = tiny.process("sh", "-c", f"{command} > /dev/full")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert "No space left on device" in done.stderr


def test_a_system_without_sigusr1_is_supported(trained):
    """Windows has none."""
    code = "import enum, runpy, signal; names = {s.name: s.value for s in signal.Signals}; "
    code += "del names['SIGUSR1'], signal.SIGUSR1; signal.Signals = enum.IntEnum('Signals', names);"
    code += "runpy.run_path('predict.py', run_name='__main__')"
    argv = ["--model_name_or_path", trained, "dull"]
    done = tiny.process(sys.executable, "-c", code, *argv)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == tiny.script("predict", *argv).stdout


def test_names_outside_the_terminals_code_page_are_printed_in_utf8(tmp_path, distilbert):
    names = {"negative": "差评", "positive": "好评"}
    folder = tmp_path / "отзывы"
    folder.mkdir()
    for split, seed in (("train", 1), ("test", 2)):
        rows = [(text, names[label]) for text, label in tiny.reviews(30, seed=seed)]
        tiny.write(folder / f"{split}.csv", rows)
    given = {"model_name_or_path": distilbert, "dataset_name": folder, "num_train_epochs": 1}
    code_page = {"PYTHONIOENCODING": "cp1252"}
    argv = tiny.flags(**given, output_dir=tmp_path / "run")
    done = tiny.script("train", *argv, env=code_page)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("отзывы", "差评", "好评"))
    done = tiny.script("evaluate", "--model_name_or_path", tmp_path / "run", env=code_page)
    assert done.returncode == 0, done.stderr
    assert "predicted 差评" in done.stdout
    argv = ["--dataset_name", "нет.csv", "--output_dir", tmp_path / "none"]
    done = tiny.script("train", *argv, env=code_page)
    assert (done.returncode, "нет.csv: no such file" in done.stderr) == (2, True)
