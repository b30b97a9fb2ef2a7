"""Data sets in the layouts that they have on the Hub, from a loopback Hub and then the cache."""

import io
import json

import datasets
import pytest
import tiny
from loopback_hub import LoopbackHub

STARS = [f"{n} star{'s' if n > 1 else ''}" for n in range(1, 6)]
SENTIMENT = ["negative", "neutral", "positive"]
EMOTIONS = ["sadness", "joy", "love", "anger", "fear", "surprise"]


def parquet(columns, names, count, origin, unlabelled=False):
    """A Parquet file with `count` rows: texts in `columns`, an index, and a ClassLabel."""
    kinds = {name: datasets.Value("string") for name in columns}
    kinds |= {"label": datasets.ClassLabel(names=names), "idx": datasets.Value("int32")}
    data = {name: [f"{name} {i} of {origin}" for i in range(count)] for name in columns}
    data |= {"label": [-1 if unlabelled else i % len(names) for i in range(count)]}
    data |= {"idx": list(range(count))}
    file = io.BytesIO()
    datasets.Dataset.from_dict(data, features=datasets.Features(kinds)).to_parquet(file)
    return file.getvalue()


def card(configs, default=None):
    """README.md: {configuration: (folder, splits)}."""
    lines = ["---", "license: other", "configs:"]
    for name, (folder, splits) in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in splits:
            lines += [f"  - split: {split}", f"    path: {folder}/{split}-*"]
        lines += ["  default: true"] * (name == default)
    return "\n".join([*lines, "---", "# A card", ""]).encode()


def repository(configs, columns, names, sizes, default=None, shards=1):
    """Files of a data set. configs: {configuration: folder}; sizes: {split: rows of each shard}, a
    negative number if there are no labels; default: a configuration; shards: of the split train.
    """
    files = {"README.md": card({name: (at, sizes) for name, at in configs.items()}, default)}
    for folder in configs.values():
        for split, size in sizes.items():
            of = shards if split == "train" else 1
            for i in range(of):
                path = f"{folder}/{split}-{i:05}-of-{of:05}.parquet"
                files[path] = parquet(columns, names, abs(size), path, unlabelled=size < 0)
    return files


SST2 = {"train": 40, "validation": 12, "test": -10}
MNLI = {"train": 40, "validation_matched": 12, "validation_mismatched": 9, "test_matched": -10}
THREE = {"train": 42, "test": 18, "validation": 12}
GLUE = {"cola": "cola", "sst2": "sst2", "mnli": "mnli"}


def glue():
    files = repository({"sst2": "sst2"}, ["sentence"], ["negative", "positive"], SST2)
    files |= repository({"cola": "cola"}, ["sentence"], ["unacceptable", "acceptable"], SST2)
    names = ["entailment", "neutral", "contradiction"]
    files |= repository({"mnli": "mnli"}, ["premise", "hypothesis"], names, MNLI)
    splits = {name: (name, MNLI if name == "mnli" else SST2) for name in GLUE}
    return {**files, "README.md": card(splits)}


REPOSITORIES = {
    "nyu-mll/glue": glue,
    "stanfordnlp/sst2": lambda: repository(
        {"default": "data"}, ["sentence"], ["negative", "positive"], SST2
    ),
    "cardiffnlp/tweet_eval": lambda: repository(
        {name: name for name in ("emoji", "irony", "sentiment")}, ["text"], SENTIMENT, THREE
    ),
    "fancyzhx/amazon_polarity": lambda: repository(
        {"amazon_polarity": "amazon_polarity"},
        ["title", "content"],
        ["negative", "positive"],
        {"train": 20, "test": 12},
        shards=4,
    ),
    "Yelp/yelp_review_full": lambda: repository(
        {"yelp_review_full": "yelp_review_full"}, ["text"], STARS, {"train": 50, "test": 20}
    ),
    "dair-ai/emotion": lambda: repository(
        {"split": "split", "unsplit": "unsplit"}, ["text"], EMOTIONS, THREE, default="split"
    ),
}
# Flags -> (rows to train, the scored split, its rows, the classes), or words of the error.
SENTENCE = ["--text_column", "sentence"]
CASES = {
    ("nyu-mll/glue",): ["--dataset_config_name", "cola", "mnli", "sst2"],
    ("nyu-mll/glue", "--dataset_config_name", "rte"): ["--dataset_config_name", "sst2"],
    ("nyu-mll/glue", "--dataset_config_name", "sst2"): ["--text_column", "sentence,", "idx"],
    ("nyu-mll/glue", "--dataset_config_name", "sst2", *SENTENCE): (
        (40, "validation", 12, ["negative", "positive"])
    ),
    ("nyu-mll/glue", "--dataset_config_name", "mnli", "--text_column", "premise,hypothesis"): (
        (36, "train", 4, ["entailment", "neutral", "contradiction"])
    ),
    (
        *("nyu-mll/glue", "--dataset_config_name", "mnli", "--text_column", "premise,hypothesis"),
        *("--validation_split_name", "validation_matched", "--test_split_name", "test_matched"),
    ): (40, "validation_matched", 12, ["entailment", "neutral", "contradiction"]),
    (
        *("nyu-mll/glue", "--dataset_config_name", "mnli", "--text_column", "premise,hypothesis"),
        *("--test_split_name", "matched"),
    ): ["--test_split_name", "matched", "validation_matched,", "validation_mismatched"],
    ("stanfordnlp/sst2", *SENTENCE): (40, "validation", 12, ["negative", "positive"]),
    ("stanfordnlp/sst2",): ["--text_column", "sentence"],
    ("cardiffnlp/tweet_eval",): ["--dataset_config_name", "emoji,", "irony,", "sentiment"],
    ("cardiffnlp/tweet_eval", "--dataset_config_name", "sentiment"): (42, "test", 18, SENTIMENT),
    ("fancyzhx/amazon_polarity",): ["--text_column", "title,", "content"],
    ("fancyzhx/amazon_polarity", "--text_column", "title,content"): (
        (80, "test", 12, ["negative", "positive"])
    ),
    ("Yelp/yelp_review_full",): (50, "test", 20, STARS),
    ("dair-ai/emotion",): (42, "test", 18, EMOTIONS),
    ("dair-ai/emotion", "--dataset_config_name", "unsplit"): (42, "test", 18, EMOTIONS),
    ("dair-ai/emotion", "--train_split_name", "all"): ["all", "train,", "test,", "validation"],
    ("some/script",): [
        "some/script",
        "loading",
        "script",
        "--dataset_revision",
        "refs/convert/parquet",
    ],
    ("some/script", "--dataset_revision", "refs/convert/parquet"): (
        (20, "test", 12, ["negative", "positive"])
    ),
    ("some/csv",): (30, "test", 10, ["0", "1"]),
    ("some/stale",): ["some/stale", "cannot be read"],
    ("some/gated",): ["some/gated", "gated", "HF_TOKEN"],
    ("some/nothing",): ["some/nothing", "HF_TOKEN"],
}
STALE = b"""---
dataset_info:
  splits:
  - name: train
    num_bytes: 100
    num_examples: 7
---
"""
LOAD = """
import json, sys
import train
from sentiment import data
from sentiment.errors import UserError
from sentiment.hub import access

for argv in json.load(sys.stdin):
    args = train.parse_args(["--dataset_name", *argv])
    try:
        access.connect(args.dataset_name)
        reviews, names, report = data.load_train_and_test(args)
        train_set, scored = reviews["train"], reviews["eval"]
        sizes = len(train_set), scored.split, len(scored), names
        print(json.dumps({"found": sizes, "report": report, "commit": train_set.commit}))
    except UserError as error:
        print(json.dumps({"error": str(error)}))
"""


def loaded(cases, environment):
    python = tiny.sys.executable, "-c", LOAD
    done = tiny.process(*python, text=json.dumps(cases), env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """{flags: what came of them online}, the same offline, and {repository: its commit}."""
    commits, cases = {}, list(CASES)
    with LoopbackHub() as server:
        for name, files in REPOSITORIES.items():
            commits[name] = server.add_repo("dataset", name, files())
        two = {"train": 20, "test": 12}
        plain = repository({"default": "default"}, ["text"], ["neg", "pos"], two)
        server.add_repo("dataset", "some/script", {"script.py": b"import os"})
        of = ("dataset", "some/script", "refs/convert/parquet")
        commits["some/script"] = server.add_reference(*of, plain)
        server.add_repo("dataset", "some/gated", plain, gated=True)
        rows = {"train": 30, "test": 10}
        csv = {
            f"{split}.csv": "text,label\n" + "".join(f"{split} {i},{i % 2}\n" for i in range(size))
            for split, size in rows.items()
        }
        csv = {name: content.encode() for name, content in csv.items()}
        commits["some/csv"] = server.add_repo("dataset", "some/csv", csv)
        server.add_repo("dataset", "some/stale", {**csv, "README.md": STALE})
        environment = {**server.env, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(tiny.ROOT)}
        environment["HF_HOME"] = str(tmp_path_factory.mktemp("home"))
        online = loaded(cases, environment)
    environment["HF_HUB_OFFLINE"] = "1"
    offline = loaded(cases, environment)
    return dict(zip(cases, online, strict=True)), dict(zip(cases, offline, strict=True)), commits


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_data_set_is_read_or_the_error_names_the_flags(outcomes, case):
    online, _, commits = outcomes
    wanted, found = CASES[case], online[case]
    if isinstance(wanted, list):
        assert "\n" not in found["error"]
        assert [word for word in wanted if word not in found["error"]] == []
    else:
        assert tuple(found["found"]) == wanted, found
        assert found["commit"] == commits[case[0]]


@pytest.mark.slow
def test_the_report_says_that_validation_takes_the_place_of_test(outcomes):
    sst2 = outcomes[0]["nyu-mll/glue", "--dataset_config_name", "sst2", *SENTENCE]
    assert "test: no labels, not used" in sst2["report"]
    assert "validation: 12 reviews (negative: 6, positive: 6)" in sst2["report"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_offline_the_same_is_read_or_refused(outcomes, case):
    online, offline, _ = outcomes
    if case == ("some/script",):  # offline, the library takes any revision
        assert offline[case]["commit"] == outcomes[2]["some/script"]
    elif "error" not in online[case]:
        assert offline[case] == online[case]
    elif case[0].startswith("some/"):  # all that are refused
        assert "not in the cache" in offline[case]["error"]
    elif "rte" in case:  # those that can be read offline
        assert offline[case]["error"].endswith("--dataset_config_name, one of: mnli, sst2")
    else:
        assert offline[case] == online[case]


@pytest.mark.slow
def test_a_model_whose_safetensors_are_in_a_pull_request(tmp_path, trained):
    parts = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    weights = parts.pop("model.safetensors")
    flags = ["--model_name_or_path", "some/model"]
    with LoopbackHub() as server:
        server.add_repo("model", "some/model", {**parts, "pytorch_model.bin": b"never read"})
        whole = {**parts, "model.safetensors": weights}
        server.add_reference("model", "some/model", "refs/pr/3", whole)
        server.add_repo("model", "some/gated", whole, gated=True)
        home = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        environment = {**server.env, **home}
        refused = tiny.script("predict", *flags, "superb", env=environment)
        gated = ["--model_name_or_path", "some/gated"]
        gated = tiny.script("predict", *gated, "superb", env=environment)
        flags += ["--revision", "refs/pr/3"]
        read = tiny.script("predict", *flags, "superb", env=environment)
    for done, words in ((refused, "safetensors refs/pr/N"), (gated, "some/gated HF_TOKEN gated")):
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert [word for word in words.split() if word not in done.stderr] == []
    assert read.stdout == tiny.script("predict", "--model_name_or_path", trained, "superb").stdout
