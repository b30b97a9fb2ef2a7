"""Validation split, best epoch, early stopping and class weights, against a plain loop."""

import copy
import itertools
import math
import random
import sys
from argparse import Namespace

import numpy
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file
from scipy.optimize import brentq
from sklearn.metrics import accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight

import evaluate
import train as script
from sentiment import checkpoint, data, files, inference, tokens
from sentiment.hub import trial
from sentiment.report import card
from sentiment.run import Run
from sentiment.tokens import Encoded

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
SETTINGS = {"learning_rate": 5e-3, "num_train_epochs": 6, "train_batch_size": 8, "seed": 3}
SETTINGS |= {"label_smoothing_factor": 0}
BEST = {"load_best_model_at_end": True}
NAMES = ["negative", "positive"]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("calm"), "distilbert", **tiny.NO_DROPOUT)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """A folder with wrong training labels, so that a model soon overfits. Of 33 training reviews
    (with batches of 8 a last one of 1), 14 are positive.
    """
    folder = tmp_path_factory.mktemp("splits")
    rows = [
        row for i, row in enumerate(tiny.reviews(66, seed=11)) if row[1] == "negative" or i % 8 == 1
    ]
    other = {"negative": "positive", "positive": "negative"}
    train = [
        (text, other[label] if i % 5 == 0 else label) for i, (text, label) in enumerate(rows[:33])
    ]
    tiny.write(folder / "train.csv", train)
    tiny.write(folder / "validation.csv", tiny.reviews(30, seed=12))
    tiny.write(folder / "test.csv", tiny.reviews(20, seed=13))
    return folder


def read(path):
    reviews, _, _ = data.load_split(settings(path.parent), path.stem)
    return list(reviews), [NAMES.index(label) for label in reviews.labels]


def settings(dataset, **given):
    sizes = {"seed": 42, "max_train_samples": 0, "max_eval_samples": 0}
    return Namespace(**data.DEFAULTS | sizes | {"dataset_name": str(dataset)} | given)


class Plain:
    """A plain loop over whole, padded batches: one process, no Accelerate."""

    def __init__(self, model, folder, weighted, smoothing=0.0, rate=SETTINGS["learning_rate"]):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        torch.manual_seed(SETTINGS["seed"])
        load = transformers.AutoModelForSequenceClassification.from_pretrained
        self.classifier = load(model, dtype=torch.float32)
        texts, labels = read(folder / "train.csv")
        weight = compute_class_weight("balanced", classes=numpy.arange(2), y=labels)
        self.weight = torch.tensor(weight if weighted else [1.0, 1.0], dtype=torch.float32)
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
        matrices = [p for p in self.classifier.parameters() if p.dim() > 1]
        others = [p for p in self.classifier.parameters() if p.dim() == 1]
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=False, foreach=False)
        size, epochs = SETTINGS["train_batch_size"], SETTINGS["num_train_epochs"]
        steps = epochs * math.ceil(len(texts) / size)
        warmup = math.ceil(steps / 10)
        self.losses, self.scores, self.states = [], [], []
        for epoch in range(1, epochs + 1):
            order = list(range(len(texts)))
            random.Random(f"{SETTINGS['seed']}/{epoch}").shuffle(order)
            for batch in (order[start : start + size] for start in range(0, len(order), size)):
                logits = self.logits([texts[i] for i in batch])
                targets = torch.tensor([labels[i] for i in batch])
                weights = self.weight[targets]  # of the reviews
                loss = (weights * self.loss(logits, targets)).sum() / weights.sum()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.classifier.parameters(), 1.0)
                done = len(self.losses)
                scale = min((done + 1) / warmup, (steps - done) / (steps - warmup))
                for group in optimizer.param_groups:
                    group["lr"] = scale * rate
                optimizer.step()
                self.losses.append(loss.item())
            self.scores.append(self.score(folder / "validation.csv"))
            self.states.append(copy.deepcopy(self.classifier.state_dict()))

    def logits(self, texts):
        inputs = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return self.classifier.train()(**inputs).logits  # without dropout, as in evaluation

    @torch.no_grad()
    def score(self, path):
        texts, labels = read(path)
        logits = self.logits(texts)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
        guesses = logits.argmax(1)
        return {
            "loss": loss,
            "accuracy": accuracy_score(labels, guesses),
            "f1": f1_score(labels, guesses),
        }

    def best(self, metric):
        """The best epoch, from 1; of equals the earliest."""
        values = [(1 if metric == "loss" else -1) * scores[metric] for scores in self.scores]
        return values.index(min(values)) + 1

    @torch.no_grad()
    def calibrate(self, folder, epoch):
        """Give the classifier the weights of an epoch, with a temperature. Returns that."""
        self.classifier.load_state_dict(self.states[epoch - 1])
        texts, labels = read(folder / "validation.csv")
        logits = self.logits(texts).double().numpy()
        targets = numpy.eye(2)[labels] + 1 / len(labels)  # one more review of each class

        def slope(factor):  # of the cross-entropy
            odds = numpy.exp(factor * logits)
            probabilities = odds / odds.sum(1, keepdims=True)
            return (logits * (probabilities * targets.sum(1, keepdims=True) - targets)).sum()

        temperature = 1 / brentq(slope, 0.1, 10)
        for parameter in self.classifier.classifier.parameters():
            parameter /= temperature
        return temperature


@pytest.fixture(scope="module")
def plain(calm, splits):
    loops = {weighted: Plain(calm, splits, weighted) for weighted in (False, True)}
    assert all(1 < loop.best("loss") < 6 for loop in loops.values())
    return loops


def close(values, rel=1e-4):
    return pytest.approx(values, rel=rel, abs=1e-6)


def evaluations(folder):
    return [entry["eval"] for entry in tiny.read_log(folder)[1]]


def check(folder, loop, splits, metric, epochs=6):
    """That a run's log, metrics, weights and card are those of the plain loop."""
    steps, _ = tiny.read_log(folder)
    assert [step["loss"] for step in steps] == close(loop.losses[: 5 * epochs])
    *scored, last = evaluations(folder)
    assert [each["split"] for each in scored] == ["validation"] * epochs
    for name in ("loss", "accuracy", "f1"):
        wanted = [each[name] for each in loop.scores[:epochs]]
        assert [each[name] for each in scored] == close(wanted)
    epoch, metrics = loop.best(metric), tiny.read(folder, "metrics.json")
    temperature = loop.calibrate(splits, epoch)
    wanted = loop.score(splits / "test.csv")
    for found in (last, metrics):
        assert (found["split"], found["kept_epoch"]) == ("test", epoch)
        assert found["temperature"] == close(temperature)
        assert {name: found[name] for name in wanted} == close(wanted)
    run = tiny.read(folder, "run.json")
    assert run["history"] == [each[metric] for each in scored]
    assert [part["split"] for part in run["reviews"].values()] == ["train", "validation", "test"]
    saved = load_file(folder / "model.safetensors")
    for name, tensor in loop.classifier.state_dict().items():
        if "k_lin.bias" not in name:  # softmax cancels it: its gradient is rounding alone
            assert torch.allclose(saved[name], tensor, atol=1e-4), name
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"Epoch {epoch} was kept, by its {metric} on the split validation" in text


@pytest.mark.parametrize(
    ("weighted", "metric", "max_tokens"),
    [(True, "loss", 8192), (True, "f1", 30), (False, "loss", 30)],
)
def test_a_run_with_selection_equals_a_plain_loop(
    tmp_path, calm, splits, plain, weighted, metric, max_tokens
):
    given = {
        **SETTINGS,
        **BEST,
        "metric_for_best_model": metric,
        "max_tokens_per_device": max_tokens,
    }
    given |= {"class_weight": "balanced"} if weighted else {}
    folder = tiny.train(calm, splits, tmp_path / "run", **given)
    check(folder, plain[weighted], splits, metric)


def test_class_weights_and_label_smoothing_go_together(tmp_path, calm, splits):
    more = {"class_weight": "balanced", "label_smoothing_factor": 0.2, "learning_rate": 1e-3}
    folder = tiny.train(calm, splits, tmp_path / "run", **SETTINGS | more)
    wanted = Plain(calm, splits, weighted=True, smoothing=0.2, rate=1e-3).losses
    assert [step["loss"] for step in tiny.read_log(folder)[0]] == close(wanted)


def test_class_weights_are_scikit_learns():
    for seed in range(20):
        labels = torch.randint(4, (50,), generator=torch.Generator().manual_seed(seed))
        encoded = Encoded("train", None, labels, None, None)
        found = encoded.class_weights("balanced", 5)
        wanted = compute_class_weight("balanced", classes=numpy.arange(4), y=labels.numpy())
        assert found.tolist() == pytest.approx([*wanted, 0], rel=1e-6)
    assert encoded.class_weights("none", 5).tolist() == [1] * 5


def torchrun(calm, splits, folder, *more, env=None):
    given = {"model_name_or_path": calm, "dataset_name": splits, "output_dir": folder}
    given |= {**SETTINGS, **BEST, "class_weight": "balanced", "mixed_precision": "no"}
    argv = [*TORCHRUN, "--nproc-per-node", 2, "train.py", *tiny.flags(**given), *more]
    return tiny.process(*argv, env=env)


@pytest.mark.slow
def test_two_processes_a_kill_and_a_resume_equal_the_plain_loop(tmp_path, calm, splits, plain):
    """Killed by SIGKILL in the step after the best epoch is two epochs old."""
    done = torchrun(calm, splits, tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    check(tmp_path / "whole", plain[True], splits, "loss")

    hook = tmp_path / "hook"
    hook.mkdir()
    step = 5 * (plain[True].best("loss") + 2) + 2
    (hook / "sitecustomize.py").write_text(KILL)
    path = {"PYTHONPATH": str(hook), "KILL_AT": str(step)}
    done = torchrun(calm, splits, tmp_path / "killed", env=path)
    assert done.returncode != 0
    assert tiny.read(tmp_path / "killed", "status.json")["status"] == "running"
    assert tiny.read_log(tmp_path / "killed")[0][-1]["step"] == step - 1
    done = torchrun(calm, splits, tmp_path / "killed", "--resume")
    assert done.returncode == 0, done.stderr
    assert f"after step {5 * (step // 5)}" in done.stdout
    check(tmp_path / "killed", plain[True], splits, "loss")
    whole, killed = (
        load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")
    )
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


KILL = """
import os, signal, sys, threading

def watch(frame, event, arg):
    if event == "call" and frame.f_code.co_name == "dropout_seed":
        if frame.f_locals["step"] == int(os.environ["KILL_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)

if "train.py" in " ".join(sys.orig_argv) and "RANK" in os.environ:
    sys.setprofile(watch)
"""


def result(folder):
    """All that must be equal in a resumed and an uninterrupted run."""
    steps, scored = tiny.read_log(folder)
    run = tiny.read(folder, "run.json")
    assert not (folder / "checkpoints").exists()
    weights = (folder / "model.safetensors").read_bytes()
    return weights, [{**step, "seconds": None} for step in steps], scored, run["history"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, distilbert, splits):
    folder = tmp_path_factory.mktemp("whole") / "run"
    found = result(tiny.train(distilbert, splits, folder, **SETTINGS, **BEST))
    assert 1 < tiny.read(folder, "metrics.json")["kept_epoch"] < 5
    return found


@pytest.mark.parametrize(
    ("module", "name", "times", "more"),
    [
        (inference, "shared_logits", 3, {}),
        (
            inference,
            "shared_logits",
            6,
            {"checkpointing_steps": 2},
        ),  # the best is not among the newest
        (inference, "shared_logits", 7, {}),  # for the temperature, with the best weights
        (inference, "shared_logits", 8, {}),  # the test split, with the temperature
        (checkpoint, "write", 4, {}),
        (checkpoint, "load", 2, {}),  # of the best epoch
        (card, "write_results", 1, {"checkpointing_steps": 7}),
    ],
)
def test_a_crashed_run_resumes_to_the_same_best_epoch(
    tmp_path, distilbert, splits, undisturbed, monkeypatch, module, name, times, more
):
    """With dropout."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        tiny.crash_at(patch, module, name, times)
        with pytest.raises(tiny.Crash):
            tiny.train(distilbert, splits, folder, **SETTINGS, **BEST, **more)
    tiny.train(distilbert, splits, folder, resume=True, **SETTINGS, **BEST)
    assert result(folder) == undisturbed


@pytest.mark.parametrize("at", [4, 7, 8])
def test_a_signal_in_an_evaluation_loses_nothing(
    tmp_path, distilbert, splits, undisturbed, monkeypatch, at
):
    """In that of the test split too, when the best weights have been loaded."""
    shared, calls, folder = inference.shared_logits, itertools.count(1), tmp_path / "run"

    def stopping(*given):
        *args, stop = given
        return shared(*args, [*stop, 15] if next(calls) == at else stop)

    with monkeypatch.context() as patch:
        patch.setattr(inference, "shared_logits", stopping)
        with pytest.raises(SystemExit) as ended:
            tiny.train(distilbert, splits, folder, **SETTINGS, **BEST)
    assert ended.value.code == 143
    assert tiny.read(folder, "status.json")["status"] == "preempted"
    tiny.train(distilbert, splits, folder, resume=True, **SETTINGS, **BEST)
    assert result(folder) == undisturbed


@pytest.fixture
def scripted(monkeypatch):
    """A function that makes the evaluations give these losses. Records the weights scored."""
    seen = []

    def use(losses, name="loss"):
        score, values = script.metrics.score, itertools.chain(losses, itertools.repeat(9.0))
        shared = inference.shared_logits

        def shared_logits(accelerator, classifier, *args):
            seen.append(copy.deepcopy(classifier.state_dict()))
            return shared(accelerator, classifier, *args)

        monkeypatch.setattr(inference, "shared_logits", shared_logits)
        monkeypatch.setattr(
            script.metrics, "score", lambda *args: {**score(*args), name: next(values)}
        )
        return seen

    return use


@pytest.mark.parametrize(
    ("losses", "more", "epochs", "kept"),
    [
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4], BEST, 6, 2),  # the earlier epoch wins a tie
        ([0.5, 0.4, 0.4, 0.41, 0.1], {**BEST, "early_stopping_patience": 2}, 4, 2),
        ([0.5, 0.4, 0.45, 0.39, 0.4, 0.3], {**BEST, "early_stopping_patience": 2}, 6, 6),
        ([0.5, 0.6], {**BEST, "early_stopping_patience": 1}, 2, 1),
        ([0.5, 0.4, 0.4], {"early_stopping_patience": 1}, 3, 3),  # stops, and keeps the last
        ([0.5, 0.4, 0.6, 0.7, 0.8, 0.9], {}, 6, 6),
    ],
)
def test_the_epoch_kept_and_the_end(
    tmp_path, distilbert, splits, scripted, capsys, losses, more, epochs, kept
):
    seen = scripted(losses)
    folder = tiny.train(distilbert, splits, tmp_path / "run", **SETTINGS, **more)
    metrics, log = tiny.read(folder, "metrics.json"), evaluations(folder)
    assert metrics["kept_epoch"] == log[-1]["kept_epoch"] == kept
    assert f"(test, epoch {kept})" in capsys.readouterr().out
    assert len(tiny.read_log(folder)[0]) == 5 * epochs
    assert [each["split"] for each in log] == ["validation"] * epochs + ["test"]
    saved = load_file(folder / "model.safetensors")
    *_, calibrated = seen
    assert all(torch.equal(saved[name], tensor) for name, tensor in calibrated.items())
    for name, tensor in seen[kept - 1].items():
        of_head = name in ("classifier.weight", "classifier.bias")
        wanted = tensor / metrics["temperature"] if of_head else tensor
        assert torch.equal(saved[name], wanted), name


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_the_highest_score_is_the_best(tmp_path, distilbert, splits, scripted, metric):
    scripted([0.5, 0.7, 0.7, 0.6, 0.4, 0.1], metric)
    more = {**BEST, "metric_for_best_model": metric}
    folder = tiny.train(distilbert, splits, tmp_path / "run", **SETTINGS, **more)
    assert tiny.read(folder, "metrics.json")["kept_epoch"] == 2


def test_the_best_checkpoint_is_kept_besides_the_newest_two(
    tmp_path, distilbert, splits, scripted, monkeypatch
):
    scripted([0.3, 0.2, 0.4, 0.5, 0.6, 0.7])
    tiny.crash_at(monkeypatch, card, "write_results", 1)
    with pytest.raises(tiny.Crash):
        tiny.train(distilbert, splits, tmp_path / "run", **SETTINGS, **BEST, checkpointing_steps=3)
    names = [path.name[:13] for path in checkpoint.paths(tmp_path / "run")]
    assert names == ["step-00000030", "step-00000027", "step-00000010"]


def test_a_damaged_best_checkpoint_is_an_error_of_one_line(
    tmp_path, distilbert, splits, scripted, monkeypatch, refusal
):
    folder = tmp_path / "run"
    scripted([0.3, 0.2, 0.4, 0.5, 0.6, 0.7])
    with monkeypatch.context() as patch:
        tiny.crash_at(patch, card, "write_results", 1)
        with pytest.raises(tiny.Crash):
            tiny.train(distilbert, splits, folder, **SETTINGS, **BEST)
    [best] = checkpoint.paths(folder, 10)
    content = bytearray(best.read_bytes())
    content[-1] ^= 1
    best.write_bytes(content)
    given = {"model_name_or_path": distilbert, "dataset_name": splits, "output_dir": folder}
    argv = tiny.flags(**given, **SETTINGS, **BEST, mixed_precision="no", resume=True)
    line = refusal(script.main, argv, code=1)
    assert "checkpoint of step 10 is damaged, or not shared" in line
    assert files.is_whole(checkpoint.paths(folder)[0])


FLAGS = ["--load_best_model_at_end", "--early_stopping_patience=2"]


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("case", ["none", "is test", "left out", "copy of test", "one file"])
def test_without_a_validation_split_selection_is_refused(
    tmp_path, distilbert, reviews, splits, refusal, flag, case
):
    folder, more = reviews, []
    if case == "is test":
        folder, more = splits, ["--test_split_name", "validation"]
    elif case == "left out":
        folder, more = splits, ["--validation_split_name", "none"]
    elif case == "copy of test":
        folder = tmp_path / "data"
        folder.mkdir()
        tiny.write(folder / "train.csv", tiny.reviews(30, seed=1))
        for name in ("test", "validation"):
            tiny.write(folder / f"{name}.csv", tiny.reviews(10, seed=2))
    elif case == "one file":
        folder = reviews / "train.csv"
    given = {"model_name_or_path": distilbert, "dataset_name": folder, "mixed_precision": "no"}
    line = refusal(script.main, [*tiny.flags(**given, output_dir=tmp_path / "run"), flag, *more])
    assert "need a validation split; give --validation_split_name, other than test" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--metric_for_best_model", "auc"], "loss"),
        (["--early_stopping_patience", "0"], ">= 1"),
        (["--class_weight", "2"], "balanced"),
    ],
)
def test_flags_that_cannot_work_are_refused(tmp_path, distilbert, splits, refusal, flags, words):
    given = {"model_name_or_path": distilbert, "dataset_name": splits, "output_dir": tmp_path / "a"}
    assert words in refusal(script.main, [*tiny.flags(**given), *flags])


def load(folder, selects=False, **given):
    return data.load_train_and_test(settings(folder, **given), selects)


def test_each_split_loses_the_texts_of_those_scored_before_it(tmp_path):
    rows, more = tiny.reviews(30, seed=1), tiny.reviews(20, seed=2)
    tiny.write(tmp_path / "train.csv", [*rows, more[0], more[1], more[9], more[9]])
    tiny.write(tmp_path / "validation.csv", [*more[:10], more[15]])
    tiny.write(tmp_path / "test.csv", more[8:])
    found, _, report = load(tmp_path)
    texts = {part: list(each) for part, each in found.items()}
    assert texts["eval"] == [text for text, _ in more[8:]]
    assert texts["validation"] == [text for text, _ in more[:8]]
    assert texts["train"] == [text for text, _ in rows]
    assert "validation: dropped 3 whose text is also scored" in report
    assert "train: dropped 4 whose text is also scored" in report
    assert report[-1] == "used: 30 of 30 reviews to train, 8 of 8 to validate, 12 of 12 to score"


def test_max_eval_samples_limits_both(splits):
    found, _, report = load(splits, max_eval_samples=10)
    assert {part: len(each) for part, each in found.items()} == {
        "train": 33,
        "validation": 10,
        "eval": 10,
    }
    assert report[-1].endswith("10 of 30 to validate, 10 of 20 to score")


def test_without_a_labelled_test_split_validation_is_scored_or_chooses(tmp_path):
    tiny.write(tmp_path / "train.csv", tiny.reviews(30, seed=1))
    tiny.write(tmp_path / "validation.csv", tiny.reviews(10, seed=2))
    tiny.write(tmp_path / "test.csv", [(text, -1) for text, _ in tiny.reviews(10, seed=3)])
    found, _, report = load(tmp_path)
    assert {part: each.split for part, each in found.items()} == {
        "train": "train",
        "eval": "validation",
    }
    found, _, report = load(tmp_path, selects=True)
    splits = {part: (each.split, len(each)) for part, each in found.items()}
    assert splits == {
        "train": ("train", 27),
        "validation": ("validation", 10),
        "eval": ("train", 3),
    }
    assert "3 reviews (10%) are held out of train to score" in "\n".join(report)


def test_a_validation_split_that_is_a_copy_of_test_is_not_used(tmp_path):
    tiny.write(tmp_path / "train.csv", tiny.reviews(30, seed=1))
    for name in ("test", "validation"):
        tiny.write(tmp_path / f"{name}.csv", tiny.reviews(10, seed=2))
    found, _, report = load(tmp_path)
    assert found.keys() == {"train", "eval"}
    assert "validation: dropped 10 whose text is also scored" in "\n".join(report)


def test_contradictions_name_their_split(tmp_path):
    rows = tiny.reviews(30, seed=1)
    tiny.write(tmp_path / "train.csv", rows)
    for name, seed in (("validation", 2), ("test", 3)):
        text = tiny.reviews(5, seed=seed)[0][0]
        tiny.write(tmp_path / f"{name}.csv", [(text, "negative"), (text, "positive")])
    _, _, report = load(tmp_path)
    lines = [line.split(", such")[0] for line in report if "different labels" in line]
    assert lines == [f"{split}: 1 texts with different labels" for split in ("test", "validation")]


@pytest.mark.parametrize("flag", ["test", "validation"])
def test_unknown_labels_in_a_scored_split_name_the_way_out(tmp_path, flag):
    tiny.write(tmp_path / "train.csv", tiny.reviews(30, seed=1))
    tiny.write(tmp_path / f"{flag}.csv", [("a film", "mixed")])
    with pytest.raises(data.UserError) as error:
        load(tmp_path)
    assert f"{flag} has labels that train lacks: mixed" in str(error.value)
    assert f"--{flag}_split_name none leaves it out" in str(error.value)


def test_evaluate_scores_the_test_reviews_again_and_can_score_validation(
    tmp_path, calm, splits, capsys
):
    folder = tiny.train(calm, splits, tmp_path / "run", **SETTINGS, **BEST, max_eval_samples=12)
    ended = tiny.read(folder, "metrics.json")
    evaluate.main(tiny.flags(model_name_or_path=folder, output_dir=tmp_path / "out"))
    found = tiny.read(tmp_path / "out", "metrics.json")
    for name in ("accuracy", "kept_epoch", "split", "reviews"):
        assert found[name] == ended[name]
    more = {"split": "validation", "output_dir": tmp_path / "again"}
    evaluate.main(tiny.flags(model_name_or_path=folder, **more))
    found, history = tiny.read(tmp_path / "again", "metrics.json"), Run.read(folder).history
    assert (found["split"], found["reviews"]) == ("validation", 12)
    texts, labels = read(splits / "validation.csv")
    scored = tiny.read(folder, "run.json")["reviews"]["validation"]["rows"]
    tokenizer, classifier = trial.load_trained(str(folder))
    logits = inference.logits(
        classifier, tokens.encode(tokenizer, [texts[i] for i in scored]), "no"
    )
    targets = torch.tensor([labels[i] for i in scored])
    for factor, wanted in (
        (1, found["loss"]),
        (ended["temperature"], history[ended["kept_epoch"] - 1]),
    ):
        loss = torch.nn.functional.cross_entropy(logits * factor, targets).item()
        assert loss == close(wanted)
    given = {"split": "validation", "max_eval_samples": 0, "output_dir": tmp_path / "other"}
    evaluate.main(tiny.flags(model_name_or_path=folder, **given))
    found = tiny.read(tmp_path / "other", "metrics.json")
    assert (found["split"], found["reviews"]) == ("validation", 30)


def test_texts_that_chose_an_epoch_are_never_scored_as_held_out(tmp_path, calm):
    rows = tiny.reviews(60, seed=21)
    folder = tmp_path / "data"
    folder.mkdir()
    tiny.write(folder / "train.csv", rows)
    tiny.write(folder / "validation.csv", rows[:20])
    run = tiny.train(calm, folder, tmp_path / "run", **SETTINGS, **BEST)
    assert tiny.read(run, "metrics.json")["reviews"] == 6
    more = {"max_eval_samples": 0, "output_dir": tmp_path / "out"}
    evaluate.main(tiny.flags(model_name_or_path=run, **more))
    found = tiny.read(tmp_path / "out", "metrics.json")
    assert (found["split"], found["reviews"]) == (data.HELD_OUT, 6)


def test_a_run_of_an_older_version_is_read(trained, tmp_path):
    run = tiny.read(trained, "run.json")
    del run["history"]
    for name in ("load_best_model_at_end", "metric_for_best_model", "early_stopping_patience"):
        del run["settings"][name]
    files.write_json(tmp_path / "run.json", run)
    assert Run.read(tmp_path).kept_epoch == 4
