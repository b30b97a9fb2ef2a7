"""The default model and data set from a loopback Hub, then from the cache."""

import contextlib
import time
from types import SimpleNamespace

import datasets
import pytest
import tiny
from loopback_hub import Fault, LoopbackHub

from sentiment.errors import UserError
from sentiment.hub import access

MODEL, DATASET = "distilbert/distilbert-base-uncased", "stanfordnlp/imdb"
CARD = """---
configs:
- config_name: plain_text
  data_files:
  - {split: train, path: plain_text/train-*}
  - {split: test, path: plain_text/test-*}
  - {split: unsupervised, path: plain_text/unsupervised-*}
---
"""


def imdb(folder):
    """The files of a small stanfordnlp/imdb: Parquet with ClassLabel neg and pos, and reviews
    without a label.
    """
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    files = {"README.md": CARD.encode()}
    for split, count, seed in (("train", 24, 1), ("test", 10, 2), ("unsupervised", 6, 3)):
        ids = (
            {"negative": 0, "positive": 1}
            if split != "unsupervised"
            else {"negative": -1, "positive": -1}
        )
        rows = [{"text": text, "label": ids[label]} for text, label in tiny.reviews(count, seed)]
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "part.parquet")
        files[f"plain_text/{split}-00000-of-00001.parquet"] = (folder / "part.parquet").read_bytes()
    return files


def losses(folder):
    return [step["loss"] for step in tiny.read_log(folder)[0]]


@pytest.mark.slow
def test_the_defaults_load_from_the_hub_then_from_the_cache(tmp_path, distilbert):
    files = {path.name: path.read_bytes() for path in distilbert.iterdir()}
    launch = [tiny.sys.executable, "-m", "accelerate.commands.launch", tiny.ROOT / "train.py"]
    with LoopbackHub() as server:
        model = server.add_repo(
            "model", MODEL, {**files, "pytorch_model.bin": b"never read", "README.md": b"a card"}
        )
        dataset = server.add_repo("dataset", DATASET, imdb(tmp_path))
        server.faults.append(Fault("GET", "/api/datasets", 503, times=2))
        env = {**server.env, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
        online = tiny.process(*launch, cwd=tmp_path, env=env)
        assert online.returncode == 0, online.stderr
        assert "is busy (status 503)" in online.stderr
        own = (
            "/",
            "http://datasets-server.127.0.0.1",
        )  # datasets asks the Hub's second host about a data set's size
        assert all(request.path.startswith(own) for request in server.requests)
        assert {request.authorization for request in server.requests} == {None}
        assert not any("pytorch_model.bin" in request.path for request in server.requests)

    run = tiny.read(tmp_path / "outputs/model", "run.json")
    assert (run["settings"]["model_name_or_path"], run["settings"]["dataset_name"]) == (
        MODEL,
        DATASET,
    )
    assert run["labels"] == ["negative", "positive"]
    assert run["commits"] == {"model": model, "dataset": dataset}
    card = (tmp_path / "outputs/model/README.md").read_text(encoding="utf-8")
    assert f"base_model: {MODEL}" in card
    assert f"- {DATASET}" in card

    with LoopbackHub() as busy:
        for method in ("GET", "HEAD"):
            busy.faults.append(Fault(method, "/", 429, times=10**6, headers={"Retry-After": "300"}))
        again = *launch, "--output_dir", "while busy", "--revision", model
        done = tiny.process(*again, cwd=tmp_path, env={**env, **busy.env})
        assert done.returncode == 0, done.stderr
        assert busy.requests
    assert losses(tmp_path / "while busy") == losses(tmp_path / "outputs/model")

    cached = tiny.process(
        *launch, "--output_dir", "again", "--revision", model, cwd=tmp_path, env=env
    )
    assert cached.returncode == 0, cached.stderr
    assert losses(tmp_path / "again") == losses(tmp_path / "outputs/model")

    env["HF_HOME"] = str(tmp_path / "empty")
    started = time.perf_counter()
    tiny.script("train", "--help", cwd=tmp_path, env=env)
    imported = time.perf_counter()
    nothing = tiny.script("train", "--output_dir", "nothing", cwd=tmp_path, env=env)
    assert (
        time.perf_counter() - imported < imported - started + 5
    )  # the libraries alone try for 75 s
    assert (nothing.returncode, len(nothing.stderr.splitlines())) == (2, 1)
    assert MODEL in nothing.stderr or DATASET in nothing.stderr
    assert server.endpoint in nothing.stderr
    assert "sample/" in nothing.stderr
    assert not (tmp_path / "nothing").exists()


@pytest.mark.slow
def test_repository_errors_are_one_line(tmp_path, distilbert):
    parts = {path.name: path.read_bytes() for path in distilbert.iterdir()}
    broken = {
        "some/script": {"script.py": b"import os"},
        "some/csv": {"train.csv": b'text,label\n"good film,1\n'},
        "some/columns": {"train.csv": b"text,label\ngood,1\n", "test.csv": b"body,label\ngood,1\n"},
        "some/parquet": {"train.parquet": b"none"},
        "some/missing": None,
    }
    code = """
import sys, train
for name in sys.argv[1:]:
    flag = "--model_name_or_path" if name == "some/model" else "--dataset_name"
    try:
        train.main([flag, name, "--output_dir", "out"])
    except SystemExit as stop:
        assert stop.code == 2, stop.code
    except Exception as error:
        print(name, repr(error), file=sys.stderr)
"""
    with LoopbackHub() as server:
        for name, files in broken.items():
            if files:
                server.add_repo(
                    "dataset", name, {**files, "README.md": b"---\nlicense: mit\n---\n"}
                )
        server.add_repo("dataset", DATASET, imdb(tmp_path))
        server.add_repo("model", MODEL, parts)
        server.add_repo(
            "model",
            "some/model",
            {name: parts[name] for name in ("config.json", "model.safetensors")},
        )
        env = {
            **server.env,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "cache"),
            "PYTHONPATH": str(tiny.ROOT),
        }
        done = tiny.process(
            tiny.sys.executable, "-c", code, *broken, "some/model", cwd=tmp_path, env=env
        )
    lines = done.stderr.splitlines()
    for name in (*broken, "some/model"):
        assert [line for line in lines if line.startswith(f"train.py: error: {name}: ")], (
            done.stderr
        )
    assert len(lines) == len(broken) + 1


@pytest.mark.parametrize(
    ("action", "there"), [(200, True), (401, True), (503, True), ("drop", False), ("hang", False)]
)
def test_one_short_request_probes_the_hub(monkeypatch, action, there):
    with LoopbackHub() as server:
        server.faults.append(Fault("HEAD", "/", action, times=100))
        monkeypatch.setattr(access.constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(access.constants, "HF_HUB_OFFLINE", False)
        started = time.perf_counter()
        assert bool(access.with_timeout(access.ask_hub, access.PROBE_SECONDS)) is there
        assert time.perf_counter() - started < 10
        assert server.requests


@pytest.fixture
def busy(monkeypatch, tmp_path):
    """(a Hub with a model some/model; the seconds that `access` would have slept)."""
    slept = []
    monkeypatch.setattr(access, "time", SimpleNamespace(sleep=slept.append))
    with LoopbackHub() as server:
        server.add_repo("model", "some/model", {"config.json": b"{}", "vocab.txt": b"[PAD]"})
        monkeypatch.setattr(access.constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(access.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(access.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(access.constants, "HF_HUB_OFFLINE", False)
        yield server, slept


@pytest.mark.parametrize(("status", "headers"), [(429, {"Retry-After": "300"}), (503, {})])
@pytest.mark.parametrize("path", ["/api/", "/resolve/"])
def test_a_busy_hub_is_asked_again(busy, path, status, headers, capfd):
    server, slept = busy
    # Each attempt meets one or two: the first, and the one that may use the cache.
    server.faults.append(Fault("GET", path, status, times=3, headers=headers))
    folder = access.snapshot("some/model", "main", ["*"])
    assert (folder / "vocab.txt").read_bytes() == b"[PAD]"
    assert slept in ([5], [5, 5])
    said = f"{server.endpoint} is busy (status {status}); retrying for 60 s\n"
    errors = capfd.readouterr().err
    assert said in errors
    assert errors.count("busy") == 1


def test_a_hub_that_stays_busy_is_left_after_a_minute(busy):
    server, slept = busy
    server.faults.append(Fault("GET", "/", 429, times=10**6, headers={"Retry-After": "300"}))
    with pytest.raises(UserError, match=f"^some/model: {server.endpoint} is busy") as error:
        access.snapshot("some/model", "main", ["*"])
    assert sum(slept) == 60
    assert "HF_TOKEN" in str(error.value)


def test_an_error_after_another_hosts_failure_is_not_called_busy(busy):
    """datasets asks another host for a data set's size, and ignores its failure."""
    _, slept = busy
    with LoopbackHub() as other:
        other.faults.append(Fault("GET", "/size", 500))

        def load(cached):
            access.get_session().get(f"{other.endpoint}/size")
            raise ValueError("available: ['a', 'b']")

        with pytest.raises(ValueError, match="available"):
            access.patiently(load, "some/data")
    assert not slept


def test_a_result_that_the_library_took_from_its_cache_is_asked_for_again(busy):
    """datasets does so for any revision, and then says nothing."""
    server, slept = busy
    server.faults.append(Fault("GET", "/api/datasets", 429))
    asked = []

    def load(cached):
        asked.append(cached)
        if cached:
            raise ValueError
        with contextlib.suppress(access.HTTPError):
            access.get_session().get(f"{server.endpoint}/api/datasets/some/data")
            return "from the Hub"
        return "from the cache"

    server.add_repo("dataset", "some/data", {"README.md": b"---\n---\n"})
    assert access.patiently(load, "some/data") == "from the Hub"
    assert (asked, slept) == ([False, True, False], [5])


@pytest.mark.parametrize("folder", ["", "~/.cache"])
def test_a_cache_without_a_place_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"cannot be written or locked.*; set HF_HOME"):
        access.check_cache(folder, "HF_HUB_CACHE")
    assert not list(tmp_path.iterdir())


def test_the_check_of_a_cache_leaves_nothing_that_another_user_could_not_write(tmp_path):
    access.check_cache(str(tmp_path / "cache"), "HF_HUB_CACHE")
    assert not list((tmp_path / "cache").iterdir())


def test_a_busy_hub_is_not_waited_for_if_the_cache_has_the_files(busy, capfd):
    server, slept = busy
    folder = access.snapshot("some/model", "main", ["*"])
    for method in ("GET", "HEAD"):
        server.faults.append(Fault(method, "/", 429, times=10**6, headers={"Retry-After": "300"}))
    assert access.snapshot("some/model", "main", ["*"]) == folder
    assert not slept
    assert "busy" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("stanfordnlp/imdb", True),
        ("gpt2", True),
        ("a.b/c-d_e", True),
        ("reviews.csv", False),
        ("a/b/c", False),
    ]
    + [
        (name, False)
        for name in ("/a/b", "./a", "../a", "a b", "data/train.jsonl", "~/model", "a/b/", "-a")
    ],
)
def test_names_that_can_be_hub_ids(name, there, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if there:
        access.connect(name)
    else:
        with pytest.raises(UserError, match="no such file or folder"):
            access.connect(name)


def test_a_local_folder_takes_precedence_over_the_hub(monkeypatch, tmp_path):
    (tmp_path / "stanfordnlp" / "imdb").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(access.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(access, "with_timeout", lambda *_: pytest.fail("the Hub was asked"))
    access.connect("stanfordnlp/imdb")
