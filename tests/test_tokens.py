"""Token ids in memory and in files; large data sets, made of small ones by a low limit."""

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import datasets
import numpy
import pytest
import tiny
import torch
import transformers

import evaluate
import train as script
from sentiment import data, tokens
from sentiment.errors import Stopped

TEXTS = [text for text, _ in tiny.reviews(30, seed=9)]
SETTINGS = {"train_batch_size": 8, "num_train_epochs": 2, "learning_rate": 3e-3}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def large(monkeypatch, cache):
    """More than ten reviews are many."""
    for module in (tokens, data):
        monkeypatch.setattr(module, "LARGE", 10)


@pytest.fixture
def tokenizer(distilbert):
    tokenizer = transformers.AutoTokenizer.from_pretrained(distilbert)
    tokenizer.model_max_length = 12
    return tokenizer


class Texts(list):
    """In place of data.Reviews."""

    def __init__(self, texts, sha256="digest"):
        super().__init__(texts)
        self.sha256 = sha256


def files_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def lists(encoded):
    return [ids.tolist() for ids in encoded]


def never(*given, **more):
    raise AssertionError("tokenized again")


def test_a_file_holds_what_memory_holds(cache, tokenizer, monkeypatch):
    wanted = [tokenizer(text, truncation=True)["input_ids"] for text in TEXTS]
    for encoded in (
        tokens.encode(tokenizer, TEXTS),
        tokens.encode_once(tokenizer, Texts(TEXTS), ()),
    ):
        assert lists(encoded) == wanted
        assert encoded[3].dtype == torch.int64
        assert encoded.ids.dtype == numpy.uint16
        assert encoded.truncated == sum(len(tokenizer(text)["input_ids"]) > 12 for text in TEXTS)
        assert encoded.lengths.tolist() == list(map(len, wanted))
    monkeypatch.setattr(tokens, "write", never)
    assert lists(tokens.encode_once(tokenizer, Texts(TEXTS), ())) == wanted
    assert len(files_in(cache)) == 1


def test_no_texts_have_no_tokens(tokenizer):
    encoded = tokens.encode(tokenizer, [])
    assert (lists(encoded), len(encoded), encoded.truncated) == ([], 0, 0)
    tokenizer.backend_tokenizer.post_processor = None  # adds special tokens
    assert lists(tokens.encode(tokenizer, ["", ""])) == [[], []]


def test_large_vocabularies_take_32_bits(tokenizer):
    words = {f"word{i}": i + 100 for i in range(70_000)}
    tokenizer.add_tokens(list(words))
    encoded = tokens.encode(tokenizer, ["word69999 word1"])
    assert encoded.ids.dtype == numpy.uint32
    assert lists(encoded) == [tokenizer("word69999 word1")["input_ids"]]
    assert max(lists(encoded)[0]) >= 2**16


@pytest.mark.parametrize("change", ["texts", "limit", "side", "rules", "vocabulary"])
def test_other_texts_or_rules_get_another_file(cache, tokenizer, change):
    before = lists(tokens.encode_once(tokenizer, Texts(TEXTS), ()))
    digest = "digest"
    if change == "texts":
        digest = "another"
    elif change == "limit":
        tokenizer.model_max_length = 9
    elif change == "side":
        tokenizer.truncation_side = "left"
    elif change == "rules":
        tokenizer.backend_tokenizer.normalizer.lowercase = False
    else:
        tokenizer.add_tokens([TEXTS[0][:2]])
    after = lists(tokens.encode_once(tokenizer, Texts(TEXTS, digest), ()))
    assert after == lists(tokens.encode(tokenizer, TEXTS))
    assert (after == before) == (change in ("texts", "rules"))  # these texts are in lower case
    assert len(files_in(cache)) == 2


def test_the_last_call_of_the_tokenizer_does_not_matter(cache, tokenizer, monkeypatch):
    tokens.encode_once(tokenizer, Texts(TEXTS), ())
    tokenizer(["some text"], padding=True, truncation=True, max_length=5)
    monkeypatch.setattr(tokens, "write", never)
    tokens.encode_once(tokenizer, Texts(TEXTS), ())


def test_progress_and_remaining_time_are_shown(tokenizer, monkeypatch, capsys):
    monkeypatch.setattr(tokens, "BAR", {**tokens.BAR, "delay": 0, "mininterval": 0})
    tokens.encode(tokenizer, TEXTS * 70)
    error = capsys.readouterr().err
    assert "tokenized:  48%" in error  # 1,000 of 2,100
    assert "2000/2100 [00:00<00:00, " in error
    assert "2100/2100" in error


@pytest.mark.parametrize("at", [0, 100, -1])
def test_a_damaged_file_is_written_again(cache, tokenizer, at):
    wanted = lists(tokens.encode_once(tokenizer, Texts(TEXTS), ()))
    [name] = files_in(cache)
    content = bytearray((cache / name).read_bytes())
    content[at] ^= 1
    (cache / name).write_bytes(content)
    assert lists(tokens.encode_once(tokenizer, Texts(TEXTS), ())) == wanted
    assert files_in(cache) == [name]


def test_a_signal_stops_and_leaves_no_file(cache, tokenizer):
    with pytest.raises(Stopped):
        tokens.encode_once(tokenizer, Texts(TEXTS), [signal.SIGTERM])
    assert files_in(cache) == []


def test_the_others_wait_for_the_one_that_tokenizes(cache, tokenizer, monkeypatch):
    """In threads: the lock works between those as well."""
    calls, write = [], tokens.write

    def slow(*given):
        calls.append(given)
        time.sleep(0.3)
        write(*given)

    monkeypatch.setattr(tokens, "write", slow)
    found = []

    def run():
        found.append(tokens.encode_once(tokenizer, Texts(TEXTS), ()))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert [lists(each) for each in found] == 4 * [lists(tokens.encode(tokenizer, TEXTS))]


# Elsewhere no file tells whether another is mapped.
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's maps in /proc")
def test_the_file_is_mapped_not_read(cache, tokenizer):
    encoded = tokens.encode_once(tokenizer, Texts(TEXTS), ())
    [name] = files_in(cache)
    assert name in Path("/proc/self/maps").read_text()
    del encoded
    assert name not in Path("/proc/self/maps").read_text()


# --- Training on many reviews


@pytest.fixture
def held_out(tmp_path):
    return tiny.write(tmp_path / "all.csv", tiny.reviews(150, seed=4))


def outcome(folder):
    steps, evaluations = tiny.read_log(folder)
    steps = [{**step, "seconds": None} for step in steps]
    return (folder / "model.safetensors").read_bytes(), steps, evaluations


@pytest.mark.parametrize("kind", ["two splits", "held out"])
def test_many_reviews_give_what_few_give(tmp_path, distilbert, reviews, held_out, kind, request):
    dataset = reviews if kind == "two splits" else held_out
    given = {"mixed_precision": "no", "max_train_samples": 32, **SETTINGS}
    few = tiny.train(distilbert, dataset, tmp_path / "few", **given)
    request.getfixturevalue("large")
    many = tiny.train(distilbert, dataset, tmp_path / "many", **given)
    assert outcome(few) == outcome(many)
    listed, ruled = (tiny.read(folder, "run.json")["reviews"] for folder in (few, many))
    assert len(listed["train"]["rows"]) == ruled["train"]["reviews"] == 32
    assert ruled["train"]["rows"] == "sampled by the settings"
    assert ruled["eval"]["rows"] == ("all" if kind == "two splits" else ruled["train"]["rows"])
    for name in ("train", "eval"):
        assert listed[name]["sha256"] == ruled[name]["sha256"]
    for folder in (few, many):
        evaluate.main(["--model_name_or_path", str(folder), "--predictions", "--baseline"])
    assert (few / "predictions.csv").read_text() == (many / "predictions.csv").read_text()
    scores = [tiny.read(folder, "metrics.json") for folder in (few, many)]
    assert {**scores[0], "command": None} == {**scores[1], "command": None}


TWO_RANKS = """
import os, sys
import train
from sentiment import data, tokens

def counted(file, tokenizer, texts, stop):
    if len(texts) > 2:  # two are the trial of the model
        with open(os.environ["COUNT"], "a") as count:
            count.write("x")
    write(file, tokenizer, texts, stop)

write, tokens.write = tokens.write, counted
tokens.LARGE = data.LARGE = 10
train.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_two_ranks_tokenize_once(tmp_path, distilbert, reviews):
    """The training and the test split; what is scored after an epoch is the same file."""
    (tmp_path / "two.py").write_text(TWO_RANKS)
    given = {"model_name_or_path": distilbert, "dataset_name": reviews, **SETTINGS}
    argv = tiny.flags(**given, output_dir=tmp_path / "run")
    environment = {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(tiny.ROOT)}
    environment["COUNT"] = str(tmp_path / "count")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    two = [*torchrun, "--nproc-per-node", 2, tmp_path / "two.py"]
    done = tiny.process(*two, *argv, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "count").read_text() == "xx"
    assert tiny.read(tmp_path / "run", "run.json")["processes"] == 2


def test_sampled_rows_are_refused_once_the_data_changed(
    tmp_path, distilbert, held_out, large, refusal
):
    folder = tiny.train(distilbert, held_out, tmp_path / "run", max_train_samples=32, **SETTINGS)
    rows = tiny.reviews(150, seed=4)
    tiny.write(held_out, rows[1:])
    os.utime(held_out, (2e9, 2e9))
    line = refusal(evaluate.main, ["--model_name_or_path", folder])
    assert "reviews that run.json names have changed since training" in line


def test_a_later_run_and_evaluate_use_the_file(
    tmp_path, distilbert, reviews, large, cache, monkeypatch
):
    first = tiny.train(distilbert, reviews, tmp_path / "a", **SETTINGS)
    names = files_in(cache)
    assert len(names) == 2
    monkeypatch.setattr(tokens, "write", never)
    two_texts = [torch.tensor([2, 5, 3]), torch.tensor([2, 5, 6, 3])]  # for the model's trial
    monkeypatch.setattr(tokens, "encode", lambda *given: two_texts)
    tiny.train(distilbert, reviews, tmp_path / "b", **SETTINGS)
    evaluate.main(["--model_name_or_path", str(first)])
    assert files_in(cache) == names


def test_an_epoch_is_scored_on_some_reviews_and_the_end_on_all(
    tmp_path, distilbert, reviews, monkeypatch
):
    monkeypatch.setattr(script, "LOGGED", 8)
    folder = tiny.train(
        distilbert, reviews, tmp_path / "run", **{**SETTINGS, "num_train_epochs": 3}
    )
    scored = [entry["eval"] for entry in tiny.read_log(folder)[1]]
    assert [entry["reviews"] for entry in scored] == [8, 8, 20]
    assert [sum(map(sum, entry["confusion_matrix"])) for entry in scored] == [8, 8, 20]
    assert list(map(sum, scored[0]["confusion_matrix"])) == [4, 4]  # stratified
    assert tiny.read(folder, "metrics.json")["reviews"] == 20


INTERRUPTED = """
import os, signal, sys
import train
from sentiment import data, tokens

tokens.LARGE = data.LARGE = 10

def interrupted(self, index):
    if isinstance(index, slice):
        os.kill(os.getpid(), signal.{name})
    return get(self, index)

get, data.Reviews.__getitem__ = data.Reviews.__getitem__, interrupted
train.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 143)])
def test_a_signal_while_tokenizing_preempts_the_run(tmp_path, distilbert, name, code):
    path = tiny.write(tmp_path / "train.csv", tiny.reviews(2500, seed=3))
    given = {"model_name_or_path": distilbert, "dataset_name": path, "max_train_samples": 0}
    given |= {**SETTINGS, "train_batch_size": 500, "output_dir": tmp_path / "run"}
    argv, environment = tiny.flags(**given), {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = tiny.process(sys.executable, "-c", INTERRUPTED.format(name=name), *argv, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert tiny.read(tmp_path / "run", "status.json")["status"] == "preempted"
    assert files_in(tmp_path / "cache" / "tokens") == []
    resumed = tiny.script("train", *argv, "--resume", env=environment)
    assert resumed.returncode == 0, resumed.stderr
    assert "no checkpoint yet" in resumed.stdout


def whole(path):
    return argparse.Namespace(**data.DEFAULTS, dataset_name=str(path))


def test_tokens_of_reviews_go_with_their_labels(tmp_path, tokenizer, large):
    path = tiny.write(tmp_path / "train.csv", tiny.reviews(30, seed=9))
    reviews, names, _ = data.load_split(whole(path), "train")
    some = reviews.at(numpy.array([4, 7, 21]))
    encoded = tokens.encode_reviews(tokenizer, some, {name: i for i, name in enumerate(names)})
    assert encoded.rows.tolist() == [4, 7, 21]
    assert [names[i] for i in encoded.labels] == [
        tiny.reviews(30, seed=9)[i][1] for i in (4, 7, 21)
    ]
    assert lists(encoded.ids) == lists(tokens.encode(tokenizer, [TEXTS[i] for i in (4, 7, 21)]))


def test_the_digest_is_of_json(tmp_path):
    """Runs of earlier versions are found by it."""
    path = tiny.write(tmp_path / "train.csv", tiny.reviews(30, seed=9))
    reviews, _, _ = data.load_split(whole(path), "train")
    content = json.dumps([list(reviews), list(reviews.labels)]).encode()
    assert reviews.sha256 == hashlib.sha256(content).hexdigest()
