"""What evaluate.py reports and publishes: baselines, predictions, plots, the model card, and the
push to a Hub.
"""

import codecs
import csv
import json
import re
import sys

import huggingface_hub
import pytest
import tiny
import torch
import transformers
from huggingface_hub import ModelCard
from loopback_hub import Fault, LoopbackHub

import evaluate
import predict
from sentiment import metrics
from sentiment.hub import push as hub
from sentiment.report import card
from sentiment.run import Run

REPO = "tester/critic"
PUSHED = {
    "README.md",
    "config.json",
    "metrics.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def scored(tmp_path, trained):
    """A function that runs evaluate.py on the trained model with these settings; returns its output
    folder.
    """

    def call(**settings):
        evaluate.main(
            tiny.flags(model_name_or_path=trained, output_dir=tmp_path / "scored", **settings)
        )
        return tmp_path / "scored"

    return call


@pytest.fixture
def loopback(tmp_path, monkeypatch):
    """A loopback Hub for huggingface_hub in this process, with a write token."""
    with LoopbackHub() as server:
        for name, value in {**server.env, "HF_TOKEN": "hf_write"}.items():
            monkeypatch.setenv(name, value)
        for module in (huggingface_hub.constants, huggingface_hub.hf_api.constants):
            monkeypatch.setattr(module, "ENDPOINT", server.endpoint)
            monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
            monkeypatch.setattr(module, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.endpoint)
        monkeypatch.setattr(hub, "WAITS", (0.01, 0.02, 0.03))
        # it keeps connections, and the time limit of an earlier test
        huggingface_hub.close_session()
        yield server
    huggingface_hub.close_session()


# --- Baselines, predictions, pictures


def test_baselines_learn_from_the_same_reviews(scored, reviews, capsys):
    """An opinion word reveals the class in these reviews, which TF-IDF learns; the majority gets
    half of them right.
    """
    folder = scored(baseline=True)
    found, wanted = tiny.read(folder, "metrics.json"), tiny.read(folder, "metrics.json")["accuracy"]
    majority, regression = found["baselines"].values()
    assert (majority["accuracy"], regression["accuracy"]) == (0.5, 1.0)
    assert majority["difference"] == pytest.approx(wanted - 0.5)
    low, high = majority["difference_interval"]
    assert low < wanted - 0.5 < high
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("majority class") and "0.5000" in line]
    assert [line for line in lines if line.startswith("TF-IDF regression") and "1.0000" in line]


def test_a_baseline_needs_the_training_reviews(tmp_path, trained, distilbert, reviews, refusal):
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    given = tiny.flags(model_name_or_path=tmp_path, dataset_name=reviews, baseline=True)
    assert "run.json" in refusal(evaluate.main, given)
    assert not (tmp_path / "metrics.json").exists()


def test_predictions_are_sorted_by_loss(scored, reviews, trained):
    folder = scored(predictions=True)
    assert (folder / "predictions.csv").read_bytes().startswith(codecs.BOM_UTF8)
    with open(folder / "predictions.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    given = tiny.reviews(20, seed=2)
    assert [(row["text"], row["label"]) for row in rows] == [given[int(row["row"])] for row in rows]
    assert sorted(int(row["row"]) for row in rows) == list(range(20))
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    classify = transformers.pipeline("text-classification", model=str(trained), device="cpu")
    for row, answer in zip(rows, classify([row["text"] for row in rows]), strict=True):
        assert (row["prediction"], float(row["probability"])) == (
            answer["label"],
            pytest.approx(answer["score"], abs=1e-4),
        )
        of_label = answer["score"] if row["label"] == row["prediction"] else 1 - answer["score"]
        assert float(row["loss"]) == pytest.approx(-torch.tensor(of_label).log().item(), abs=2e-3)


def test_plots_are_written_and_listed_in_the_card(scored, trained):
    folder = scored(plots=True)
    pictures = {"confusion.png", "curves.png", "reliability.png"}
    assert tiny.read(folder, "metrics.json")["pictures"].keys() == pictures | {"training.png"}
    for name in pictures:
        content = (folder / name).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert f"]({name})" in (folder / "README.md").read_text(encoding="utf-8")


def test_metrics_are_written_before_anything_is_drawn(scored, monkeypatch):
    from sentiment.report import plots

    def draw(folder, *given):
        assert tiny.read(folder, "metrics.json")["reviews"] == 20
        raise ZeroDivisionError

    monkeypatch.setattr(plots, "draw", draw)
    with pytest.raises(ZeroDivisionError):
        scored(plots=True)


def test_somebody_elses_card_stays(tmp_path, trained):
    (tmp_path / "README.md").write_text("mine")
    evaluate.main(tiny.flags(model_name_or_path=trained, output_dir=tmp_path, plots=True))
    assert (tmp_path / "README.md").read_text() == "mine"
    assert "pictures" in tiny.read(tmp_path, "metrics.json")


@pytest.mark.parametrize("name", ["dear $\\frac$", "$x", "a_b $$ c"])
def test_names_of_classes_are_drawn_as_plain_text(tmp_path, name):
    from sentiment.report import plots

    logits = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    labels = [i % 2 for i in range(20)]
    scores = {**metrics.score(logits, labels, [name, "other"]), "split": name}
    log = [{"step": 1, "loss": 0.5, "learning_rate": 0.1}]
    log += [{"step": 1, "eval": {"loss": 0.4, "split": name}}]
    assert len(plots.draw(tmp_path, scores, logits, labels, log)) == 4


def test_plots_with_several_classes_and_with_one(tmp_path):
    from sentiment.report import plots

    logits = torch.randn(30, 7, generator=torch.Generator().manual_seed(0))
    names = [f"{stars} stars" for stars in range(7)]
    for labels in ([i % 7 for i in range(30)], [3] * 30):
        scores = {**metrics.score(logits, labels, names), "split": "test"}
        written = plots.draw(tmp_path, scores, logits, labels, [])
        assert written.keys() == {"confusion.png", "curves.png", "reliability.png"}


@pytest.mark.slow
def test_without_matplotlib_plots_are_refused_before_any_work(tmp_path, trained):
    """In a process that cannot import the package."""
    code = "import sys, evaluate; sys.modules['matplotlib'] = None; evaluate.main(sys.argv[1:])"
    argv = tiny.flags(model_name_or_path=trained, output_dir=tmp_path / "out", plots=True)
    done = tiny.process(sys.executable, "-c", code, *argv)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "pip install matplotlib" in done.stderr
    assert not (tmp_path / "out").exists()


# --- The model card


def test_the_card_is_a_function_of_two_files(scored, trained):
    folder = scored(baseline=True, plots=True)
    run, scores = Run.read(trained), tiny.read(folder, "metrics.json")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert card.model_card(run, scores) == text
    results = {result.metric_type: result for result in ModelCard(text).data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        name: scores[name] for name in ("accuracy", "f1", "precision", "recall", "roc_auc")
    }
    assert (results["f1"].dataset_name, results["f1"].dataset_split) == ("reviews0", "test")
    data = ModelCard(text).data
    assert (data.pipeline_tag, data.library_name) == ("text-classification", "transformers")
    low, high = scores["intervals"]["accuracy"]
    assert f"    accuracy                {scores['accuracy']:.4f}  {low:.4f} to {high:.4f}" in text
    for setting, value in run.settings.items():
        assert f"    {setting} {card.public(str(value))}\n" in text
    assert "on 41 reviews of" in text
    assert "On 20 reviews of" in text
    assert f"transformers {transformers.__version__}" in text
    assert str(trained.parent) not in text


def test_the_card_of_the_defaults_names_licence_base_and_data(scored, trained):
    run, scores = Run.read(trained), tiny.read(trained, "metrics.json")
    run.settings |= {
        "model_name_or_path": "distilbert/distilbert-base-uncased",
        "dataset_name": "stanfordnlp/imdb",
    }
    run.commits = {"model": "a" * 40, "dataset": "b" * 40}
    scores |= {"dataset": "stanfordnlp/imdb", "dataset_commit": "b" * 40, "hub_model_id": REPO}
    text = card.model_card(run, scores)
    data = ModelCard(text).data
    assert (data.license, data.base_model) == ("apache-2.0", "distilbert/distilbert-base-uncased")
    assert (data.datasets, data.language, data.model_name) == (["stanfordnlp/imdb"], "en", "critic")
    assert data.eval_results[0].dataset_revision == "b" * 40
    assert f'model="{REPO}"' in text
    assert "a" * 12 in text


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        (str(tiny.ROOT / "reviews.csv"), "reviews.csv"),
        (f"--output_dir={tiny.ROOT / 'out'}", "--output_dir=out"),
        ("../secret/reviews", "reviews"),
        ("~/reviews", "reviews"),
        ("sample/reviews", "sample/reviews"),
        ("stanfordnlp/imdb", "stanfordnlp/imdb"),
        ("--learning_rate=3e-4", "--learning_rate=3e-4"),
        ("--plots", "--plots"),
        ("3e-4", "3e-4"),
    ],
)
def test_private_folders_are_not_shown(word, shown):
    assert card.public(word) == shown


# --- The push


def push(trained, output_dir, **settings):
    evaluate.main(
        tiny.flags(model_name_or_path=trained, output_dir=output_dir, hub_model_id=REPO, **settings)
    )


@pytest.mark.slow
def test_a_push_can_be_used_by_pipeline_and_predict_from_anywhere(tmp_path, trained):
    """The real scripts and libraries, each in a process of its own with an empty cache; then
    without the Hub.
    """
    texts = [text for text, _ in tiny.reviews(8, seed=9)]
    code = f"""
import json, transformers
classify = transformers.pipeline("text-classification", model="{REPO}", device="cpu")
print(json.dumps([answer["label"] for answer in classify({texts!r})]))
"""
    with LoopbackHub() as server:
        env = {**server.env, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
        argv = tiny.flags(
            model_name_or_path=trained, output_dir=tmp_path / "out", hub_model_id=REPO, plots=True
        )
        done = tiny.script("evaluate", *argv, env={**env, "HF_TOKEN": "hf_write"})
        assert done.returncode == 0, done.stderr
        files = server.files("model", REPO)
        pictures = tiny.read(tmp_path / "out", "metrics.json")["pictures"].keys()
        assert files.keys() == PUSHED | pictures | {".gitattributes"}
        assert (
            b'"PreTrainedTokenizerFast"' in files["tokenizer_config.json"]
        )  # a name that transformers 4 knows
        assert len(server.commits("model", REPO)) == 2  # that of its creation, and ours
        for content in (*files.values(), done.stdout.encode(), done.stderr.encode()):
            assert b"hf_write" not in content
        for name, content in files.items():
            assert str(tmp_path.parent).encode() not in content, name
        assert json.loads(files["metrics.json"]) == tiny.read(tmp_path / "out", "metrics.json")

        piped = tiny.process(sys.executable, "-c", code, env=env)
        predicted = tiny.script("predict", *texts, "--model_name_or_path", REPO, env=env)
        commit = server.commits("model", REPO)[0][0]
        first = server.commits("model", REPO)[1][0]
        argv = ["x", "--model_name_or_path", REPO, "--revision"]
        twice = (
            f"import predict; predict.main({[*argv, commit]!r}); predict.main({[*argv, first]!r})"
        )
        pinned = tiny.process(sys.executable, "-c", twice, env=env)
    labels = [line.split("\t")[0] for line in predicted.stdout.splitlines()]
    assert labels == json.loads(piped.stdout), predicted.stderr + piped.stderr
    assert len(labels) == 8
    assert (pinned.returncode, len(pinned.stdout.splitlines())) == (2, 1), (
        pinned.stderr
    )  # the first commit has no model
    gone = tiny.script("predict", *texts, "--model_name_or_path", REPO, env=env)
    assert gone.stdout == predicted.stdout


def test_a_push_is_one_commit_and_keeps_other_files(tmp_path, trained, loopback):
    loopback.add_repo("model", REPO, {"notes.txt": b"mine", "LICENSE": b"MIT"})
    push(trained, tmp_path / "out")
    files = loopback.files("model", REPO)
    assert files.keys() == PUSHED | {"notes.txt", "LICENSE"}
    assert (files["notes.txt"], files["LICENSE"]) == (b"mine", b"MIT")
    assert len(loopback.commits("model", REPO)) == 2


def test_a_card_takes_the_place_of_a_card_only(tmp_path, trained, loopback, capsys):
    """A push keeps a README.md that a user wrote or edited, and any licence."""

    def readme():
        return loopback.files("model", REPO)["README.md"].decode()

    mine = "---\nlicense: mit\n---\n# Mine\n"
    loopback.add_repo("model", REPO, {"README.md": mine.encode(), "config.json": b"{}"})
    push(trained, tmp_path / "out")
    shown = capsys.readouterr().out
    assert (readme(), shown.count("--overwrite_card")) == (mine, 1)
    assert "replaced there: config.json\n" in shown
    push(trained, tmp_path / "out", overwrite_card=True)
    ours, shown = readme(), capsys.readouterr().out
    assert ("# Mine" in ours, ModelCard(ours).data.license) == (False, "other")
    assert "replaced there: README.md, config.json, metrics.json, model.safetensors" in shown
    relicensed = ours.replace("license: other\nlicense_name: that-of-the-base-model\n", "", 1)
    relicensed = relicensed.replace("---\n", "---\nlicense: mit\n", 1)
    assert relicensed != ours
    for edited, changes in ((relicensed, True), (ours.replace("## Limits", "## Mine"), False)):
        loopback.commit("model", REPO, {"README.md": edited.encode()}, "edited")
        push(trained, tmp_path / "out", max_eval_samples=6)
        assert (readme() != edited, ModelCard(readme()).data.license) == (
            changes,
            ModelCard(edited).data.license,
        )


def test_a_licence_in_the_local_card_is_pushed(tmp_path, trained, loopback):
    push(trained, tmp_path / "out")
    path = tmp_path / "out" / "README.md"
    text = path.read_text(encoding="utf-8").replace("license: other", "license: mit", 1)
    path.write_text(text, encoding="utf-8")
    argv = tiny.flags(model_name_or_path=trained, output_dir=tmp_path / "out")
    evaluate.main([*argv, "--hub_model_id", "tester/second"])
    pushed = loopback.files("model", "tester/second")["README.md"].decode()
    assert (ModelCard(pushed).data.license, 'model="tester/second"' in pushed) == ("mit", True)


def test_another_commit_during_a_push_is_not_overwritten(tmp_path, trained, loopback, monkeypatch):
    upload = hub.huggingface_hub.create_commit

    def beaten(*given, **options):
        loopback.commit("model", REPO, {"README.md": b"mine"}, "at the same moment")
        return upload(*given, **options)

    monkeypatch.setattr(hub.huggingface_hub, "create_commit", beaten)
    with pytest.raises(SystemExit, match="1"):
        push(trained, tmp_path / "out")
    assert loopback.files("model", REPO)["README.md"] == b"mine"


def test_private_makes_a_private_repository(tmp_path, trained, loopback):
    push(trained, tmp_path / "out", private=True)
    assert huggingface_hub.model_info(REPO).private


def fine_grained(*entities):
    scoped = [{"entity": {"name": name}, "permissions": ["repo.write"]} for name in entities]
    return {"user": "tester", "role": "fineGrained", "scoped": scoped}


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("token", "allowed", "words"),
    [
        ("hf_none", (False, False), ["invalid", "hf auth login", "HF_TOKEN"]),
        ("", (False, False), ["no token", "hf auth login", "HF_TOKEN"]),
        ("hf_read", (False, False), ["may not", "hf auth login", "HF_TOKEN"]),
        ("hf_write", (True, True), []),
        ("hf_namespace", (True, True), []),
        ("hf_repository", (True, False), ["may not", "hf auth login"]),
        ("hf_elsewhere", (False, False), ["may not", "hf auth login"]),
        ("hf_other", (False, False), []),
    ],
)
def test_a_read_only_token_is_refused_before_any_work(
    tmp_path, trained, loopback, refusal, monkeypatch, token, allowed, words, there
):
    loopback.tokens |= {"hf_namespace": fine_grained("tester"), "hf_repository": fine_grained(REPO)}
    loopback.tokens |= {
        "hf_elsewhere": fine_grained("tester/other"),
        "hf_other": {"user": "other", "role": "write"},
    }
    monkeypatch.setenv("HF_TOKEN", token)
    if there:
        loopback.add_repo("model", REPO, {"notes.txt": b"mine"})
    if allowed[0 if there else 1]:
        push(trained, tmp_path / "out")
        assert loopback.files("model", REPO).keys() >= PUSHED
        return
    given = tiny.flags(model_name_or_path=trained, output_dir=tmp_path / "out", hub_model_id=REPO)
    line = refusal(evaluate.main, given)
    assert f"--hub_model_id {REPO}" in line
    assert all(word in line for word in words), line
    assert not (tmp_path / "out").exists()
    assert token == "" or token not in line
    if there:
        assert loopback.files("model", REPO) == {"notes.txt": b"mine"}
    else:
        with pytest.raises(KeyError):
            loopback.files("model", REPO)


@pytest.mark.parametrize("action", [500, 503, 429, "drop", "hang"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unreachable_hub_is_reported_before_any_work(
    tmp_path, trained, loopback, refusal, monkeypatch, method, action
):
    monkeypatch.setattr(hub, "OPEN_SECONDS", 0.3)
    loopback.faults.append(Fault(method, "/api/", action, times=100))
    given = tiny.flags(model_name_or_path=trained, output_dir=tmp_path / "out", hub_model_id=REPO)
    assert "does not answer" in refusal(evaluate.main, given)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_pushed_to_is_refused(tmp_path, trained, loopback, refusal):
    loopback.add_repo("model", REPO, {})
    given = tiny.flags(model_name_or_path=trained, output_dir=tmp_path / "out")
    assert "public" in refusal(evaluate.main, [*given, "--hub_model_id", REPO, "--private"])
    assert "USER/REPO" in refusal(evaluate.main, [*given, "--hub_model_id", "critic"])
    line = refusal(evaluate.main, [*given, "--hub_model_id", "a b/c"])
    assert "push later" not in line
    assert "a b/c" in line
    assert "may not write there" in refusal(
        evaluate.main, [*given, "--hub_model_id", "another/critic"]
    )
    assert "--hub_model_id" in refusal(evaluate.main, [*given, "--private"])


FAULTS = [
    ("POST", "/preupload/"),
    ("PUT", "/lfs-storage/"),
    ("POST", "/commit/"),
]


@pytest.mark.parametrize("action", [500, 503, 429, "drop", "lose answer"])
@pytest.mark.parametrize(("method", "path"), FAULTS)
def test_a_failed_request_is_retried_into_one_commit(
    tmp_path, trained, loopback, monkeypatch, method, path, action
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits too, for seconds
    fault = Fault(method, path, action)
    loopback.faults.append(fault)
    push(trained, tmp_path / "out")
    assert fault.times == 0
    assert loopback.files("model", REPO).keys() == PUSHED | {".gitattributes"}
    assert len(loopback.commits("model", REPO)) == 2


def test_retries_back_off_and_a_timeout_counts_as_a_failure(
    tmp_path, trained, loopback, monkeypatch
):
    slept = []
    monkeypatch.setattr(hub.time, "sleep", slept.append)
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.5)
    loopback.faults += [Fault("POST", "/commit/", "hang"), Fault("POST", "/commit/", 503)]
    push(trained, tmp_path / "out")
    assert slept == [0.01, 0.02]
    assert len(loopback.commits("model", REPO)) == 2


@pytest.mark.parametrize(("action", "tries"), [(503, 4), ("drop", 4), (403, 1), (413, 1)])
def test_a_push_that_fails_for_good_loses_nothing(
    tmp_path, trained, loopback, capfd, action, tries
):
    fault = Fault("POST", "/commit/", action, times=100)
    loopback.faults.append(fault)
    with pytest.raises(SystemExit) as stop:
        push(trained, tmp_path / "out")
    assert stop.value.code == 1
    assert 100 - fault.times == tries
    told = capfd.readouterr().err.splitlines()
    assert "nothing is lost" in told[-1]
    assert f"push again: python {sys.argv[0]}" in told[-1]
    assert tiny.read(tmp_path / "out", "metrics.json")["reviews"] == 20
    assert f'model="{REPO}"' in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    fault.times = 0
    push(trained, tmp_path / "out")
    assert loopback.files("model", REPO).keys() >= PUSHED


def test_pushing_a_model_without_run_json_keeps_the_local_card(
    tmp_path, trained, reviews, loopback, monkeypatch
):
    monkeypatch.setattr(
        evaluate.device, "pick_precision", lambda: "no"
    )  # the one that `trained` was scored in
    for name in PUSHED - {"README.md", "metrics.json"}:
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "README.md").write_text("mine")
    evaluate.main(tiny.flags(model_name_or_path=tmp_path, dataset_name=reviews, hub_model_id=REPO))
    assert (tmp_path / "README.md").read_text() == "mine"
    pushed = ModelCard(loopback.files("model", REPO)["README.md"].decode())
    assert (
        pushed.data.eval_results[0].metric_value == tiny.read(trained, "metrics.json")["accuracy"]
    )
    assert "How it was made" not in pushed.text


# --- Revisions and trackers


def test_a_revision_of_a_folder_is_refused(trained, refusal):
    line = refusal(predict.main, ["x", *tiny.flags(model_name_or_path=trained, revision="v1")])
    assert "--revision v1" in line


@pytest.mark.slow
def test_tensorboard_gets_losses_rates_speed_and_evaluations(tmp_path, distilbert, reviews):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    argv = tiny.flags(
        model_name_or_path=distilbert, dataset_name=reviews, output_dir=folder, mixed_precision="no"
    )
    done = tiny.script("train", *argv, "--report_to", "tensorboard", "--num_train_epochs", 2)
    assert done.returncode == 0, done.stderr
    events = EventAccumulator(str(folder / "trackers" / "sentiment")).Reload()
    steps, evaluations = tiny.read_log(folder)
    for name in ("loss", "learning_rate"):
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == [step["step"] for step in steps]
        assert [scalar.value for scalar in scalars] == pytest.approx([step[name] for step in steps])
    speeds = [scalar.value for scalar in events.Scalars("tokens_per_second")]
    assert speeds == pytest.approx([step["tokens"] / step["seconds"] for step in steps])
    accuracies = [scalar.value for scalar in events.Scalars("test/accuracy")]
    assert accuracies == pytest.approx([entry["eval"]["accuracy"] for entry in evaluations])


def test_an_unknown_tracker_is_refused_with_those_installed(tmp_path, distilbert, reviews, refusal):
    import train

    given = tiny.flags(
        model_name_or_path=distilbert, dataset_name=reviews, output_dir=tmp_path / "run"
    )
    line = refusal(train.main, [*given, "--report_to", "tensorbored"])
    assert "--report_to: invalid choice: 'tensorbored'" in line
    assert re.search(r"choose from '?none'?, '?tensorboard'?\)", line)
    assert not (tmp_path / "run").exists()
