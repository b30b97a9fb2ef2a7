"""The training loop against independent code, and the run folder."""

import hashlib
import json
import math
import random
import shutil
import weakref
from collections import Counter

import accelerate
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file

import evaluate
import predict
import train as script
from sentiment import inference
from sentiment.errors import UserError
from sentiment.fast import packing
from sentiment.hub import trial

FILES = {
    *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"),
    *("run.json", "log.jsonl", "metrics.json", "status.json", "README.md"),
}
PLAIN = {"learning_rate": 4e-4, "num_train_epochs": 2, "train_batch_size": 8, "seed": 7}


@pytest.fixture(scope="module")
def without_dropout(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("plain"), "distilbert", **tiny.NO_DROPOUT)


def fresh(model, seed=42, **settings):
    """The pretrained encoder with a new head, initialised with this seed."""
    torch.manual_seed(seed)
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        model, dtype=torch.float32, **settings
    )


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("steps", "warmup_ratio", "rates"),
    [
        (1, 0, [6]),
        (1, 0.1, [6]),
        (3, 0, [6, 4, 2]),
        (3, 1, [2, 4, 6]),
        (4, 0.5, [3, 6, 6, 3]),
        (5, 0.3, [3, 6, 6, 4, 2]),
        (70, 0.1, [6 * n / 7 for n in range(1, 8)] + [6 * n / 63 for n in range(63, 0, -1)]),
    ],
)
def test_the_learning_rate_is_linear_in_both_phases(steps, warmup_ratio, rates):
    found = [script.learning_rate(step, steps, 6.0, warmup_ratio) for step in range(1, steps + 1)]
    assert found == pytest.approx(rates, rel=1e-12)


@pytest.mark.parametrize("model", ["distilbert", "bert", "roberta"])
def test_the_optimizer_gets_all_parameters_and_decays_only_matrices(model, request):
    classifier = fresh(request.getfixturevalue(model))
    optimizer = script.make_optimizer(list(classifier.parameters()), 0.3)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(decay)
    exempt = ("bias", "LayerNorm.weight", "layer_norm.weight")
    wanted = {
        id(p): 0 if name.endswith(exempt) else 0.3 for name, p in classifier.named_parameters()
    }
    assert decay == wanted


def close(losses):
    """Equal to a millionth, or to about two units in the last place of a loss near one."""
    return pytest.approx(losses, rel=1e-6, abs=3e-7)


def softened(rows):
    """The reviews with labels that are more or less sure, and sometimes wrong."""
    rng, found = random.Random(5), []
    for text, label in rows:
        other = {"negative": "positive", "positive": "negative"}[label]
        share = rng.uniform(0.4, 1)
        found.append((text, {label: share, other: 1 - share}))
    return found


def probabilities(label):
    return label if isinstance(label, dict) else {"negative": 0, "positive": 0, label: 1}


def smoothed(probability, epsilon):
    return probability * (1 - epsilon) + epsilon / 2


def plain_loop(model, folder, settings, reviews):
    """(losses, learning rates, tokens) of a plain loop over the same batches: whole, padded,
    without Accelerate. reviews: (text, {name: probability}).
    """
    tokenizer, classifier = (
        transformers.AutoTokenizer.from_pretrained(model),
        fresh(model, settings["seed"]),
    )
    rows = tiny.read(folder, "run.json")["reviews"]["train"]["rows"]
    reviews = reviews if rows == "all" else [reviews[row] for row in rows]
    lengths = [len(tokenizer(text)["input_ids"]) for text, _ in reviews]
    counts = Counter(max(label, key=label.get) for _, label in reviews)
    balanced = settings.get("class_weight") == "balanced"
    weights = {name: 1 / count if balanced else 1.0 for name, count in counts.items()}
    decay = [p for p in classifier.parameters() if p.dim() > 1]
    groups = [
        {"params": decay},
        {"params": [p for p in classifier.parameters() if p.dim() == 1], "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=False, foreach=False)
    steps, losses = (
        settings["num_train_epochs"] * math.ceil(len(reviews) / settings["train_batch_size"]),
        [],
    )
    for epoch in range(1, settings["num_train_epochs"] + 1):
        order, size = list(range(len(reviews))), settings["train_batch_size"]
        random.Random(f"{settings['seed']}/{epoch}").shuffle(order)
        for batch in (order[start : start + size] for start in range(0, len(order), size)):
            longest_first = sorted(
                batch, key=lambda i: -lengths[i]
            )  # dropout draws its numbers in this order
            texts, labels = zip(*[reviews[i] for i in longest_first], strict=True)
            inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            classes, smoothing = ["negative", "positive"], settings["label_smoothing_factor"]
            targets = torch.tensor(
                [
                    [smoothed(label[name], smoothing * (1 in label.values())) for name in classes]
                    for label in labels
                ]
            )
            place = f"{settings['seed']}/{len(losses) + 1}/0"  # seed, step, process
            torch.manual_seed(int(hashlib.sha256(place.encode()).hexdigest()[:8], 16))
            losses_of = -(targets * classifier.train()(**inputs).logits.log_softmax(1)).sum(1)
            shares = torch.tensor([weights[max(label, key=label.get)] for label in labels])
            loss = (losses_of * shares).sum() / shares.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
            done, warmup = len(losses), math.ceil(steps / 10)
            rising, falling = (done + 1) / warmup, (steps - done) / (steps - warmup)
            optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = settings[
                "learning_rate"
            ] * min(rising, falling)
            optimizer.step()
            losses.append(
                (
                    loss.item(),
                    optimizer.param_groups[0]["lr"],
                    inputs["attention_mask"].sum().item(),
                )
            )
    return zip(*losses, strict=True)


@pytest.mark.parametrize(
    ("model", "labels", "max_tokens", "padded", "smoothing", "class_weight"),
    [
        ("without_dropout", "hard", 8192, False, 0.0, "none"),
        ("without_dropout", "hard", 30, False, 0.1, "none"),
        ("without_dropout", "hard", 30, True, 0.0, "none"),
        ("without_dropout", "soft", 8192, False, 0.0, "none"),
        ("without_dropout", "mixed", 30, False, 0.1, "balanced"),
        # dropout draws the oracle's numbers in a stock model only
        ("distilbert", "hard", 8192, True, 0.0, "none"),
    ],
)
def test_a_run_equals_a_plain_loop_step_by_step(
    tmp_path,
    model,
    labels,
    max_tokens,
    padded,
    smoothing,
    class_weight,
    reviews,
    monkeypatch,
    request,
):
    """With micro-batches of up to 30 tokens too, and with a last batch of one review in every
    epoch.
    """
    rows = tiny.reviews(41, seed=1)
    given = {"hard": rows, "soft": softened(rows), "mixed": [*rows[:20], *softened(rows[20:])]}
    if labels != "hard":
        folder = tmp_path / "data"
        shutil.copytree(reviews, folder)
        (folder / "train.csv").unlink()
        tiny.write(folder / "train.jsonl", given[labels])
        reviews = folder
    if padded:
        monkeypatch.setattr(packing, "install", lambda *_: None)
    settings = {**PLAIN, "label_smoothing_factor": smoothing, "class_weight": class_weight}
    model = request.getfixturevalue(model)
    folder = tiny.train(
        model, reviews, tmp_path / "run", max_tokens_per_device=max_tokens, **settings
    )
    steps, _ = tiny.read_log(folder)
    targets = [(text, probabilities(label)) for text, label in given[labels]]
    losses, rates, tokens = plain_loop(model, folder, settings, targets)
    assert len(steps) == len(losses) == 12
    assert [step["loss"] for step in steps] == close(losses)
    assert [step["learning_rate"] for step in steps] == pytest.approx(rates, rel=1e-12)
    assert [step["tokens"] for step in steps] == list(tokens)


def assert_same_metrics(*folders):
    """Exactly, except for means of probabilities, which differ by rounding."""
    wanted, found = (tiny.read(folder, "metrics.json") for folder in folders)
    for name in ("loss", "brier_score", "calibration_error"):
        assert found.pop(name) == pytest.approx(wanted.pop(name), rel=1e-5)
    assert found == {**wanted, "command": found["command"]}


class Scarce:
    """Replaces a classifier's forward: where fails(pass, reviews) is true, it runs out of memory,
    with torch's own message.

    Pass 1 is the trial of the model that was loaded.
    """

    def __init__(self, monkeypatch, fails):
        kind = transformers.DistilBertForSequenceClassification
        self.forward, self.fails, self.passes, self.failures = kind.forward, fails, 0, 0
        monkeypatch.setattr(kind, "forward", lambda *args, **inputs: self(*args, **inputs))

    def __call__(self, model, input_ids, **inputs):
        self.passes += 1
        if self.fails(self.passes, len(input_ids)):
            self.failures += 1
            torch.empty(2**60, dtype=torch.uint8)
        return self.forward(model, input_ids, **inputs)


def test_out_of_memory_halves_the_token_budget_and_keeps_the_result(
    tmp_path, without_dropout, reviews, monkeypatch, capfd
):
    """Reviews go longest first, so passes of three precede the first of four: gradients are there
    to be cleared.
    """
    runs = [tiny.train(without_dropout, reviews, tmp_path / "ample", **PLAIN)]
    capfd.readouterr()
    scarce = Scarce(monkeypatch, lambda _, reviews: reviews >= 4)
    runs += [
        tiny.train(without_dropout, reviews, tmp_path / "scarce", max_tokens_per_device=60, **PLAIN)
    ]
    lines = [line for line in capfd.readouterr().err.splitlines() if "out of memory" in line]
    assert len(lines) == scarce.failures > 0
    assert lines[0] == "out of memory: continuing with at most 30 tokens per pass"
    losses = [[step["loss"] for step in tiny.read_log(folder)[0]] for folder in runs]
    assert losses[1] == close(losses[0])
    assert_same_metrics(*runs)
    assert tiny.read(runs[1], "run.json")["settings"]["max_tokens_per_device"] == 60


def test_the_graph_of_a_failed_pass_is_freed_before_the_next(
    tmp_path, distilbert, reviews, monkeypatch
):
    """Memory peaks at the start of the backward pass."""
    backward, failed, left = accelerate.Accelerator.backward, [], []

    def failing(self, loss):
        if failed:
            return backward(self, loss)
        failed.append(weakref.ref(loss))
        raise RuntimeError("CUDA out of memory.")

    monkeypatch.setattr(accelerate.Accelerator, "backward", failing)
    monkeypatch.setattr(inference, "clear_device_cache", lambda: left.append(failed[0]()))
    tiny.train(distilbert, reviews, tmp_path / "run", num_train_epochs=1)
    assert left == [None]


def test_a_retry_after_out_of_memory_repeats_the_dropout_masks(
    tmp_path, distilbert, reviews, monkeypatch
):
    """The run is then bit-identical to one with the smaller budget from the start."""
    tiny.train(distilbert, reviews, tmp_path / "small", max_tokens_per_device=32, **PLAIN)
    scarce = Scarce(monkeypatch, lambda number, _: number == 3)
    tiny.train(distilbert, reviews, tmp_path / "halved", max_tokens_per_device=64, **PLAIN)
    assert scarce.failures == 1
    losses = [
        [step["loss"] for step in tiny.read_log(tmp_path / name)[0]] for name in ("small", "halved")
    ]
    assert losses[0] == losses[1]


def test_out_of_memory_with_one_review_is_a_one_line_error(
    tmp_path, distilbert, reviews, monkeypatch
):
    Scarce(monkeypatch, lambda number, _: number > 2)  # two are the model's trial
    given = {
        "model_name_or_path": distilbert,
        "dataset_name": reviews,
        "output_dir": tmp_path / "run",
    }
    with pytest.raises(SystemExit) as stop:
        script.main(tiny.flags(**given, mixed_precision="no"))
    assert stop.value.code == 1
    assert "out of memory with one review" in tiny.read(tmp_path / "run", "status.json")["reason"]


@pytest.mark.parametrize("model", ["distilbert", "bert", "roberta"])
def test_one_step_changes_every_parameter(tmp_path, reviews, model, request):
    model = request.getfixturevalue(model)
    tiny.train(
        model,
        reviews,
        tmp_path / "run",
        num_train_epochs=1,
        train_batch_size=41,
        learning_rate=1e-2,
    )
    before, after = dict(fresh(model).named_parameters()), weights(tmp_path / "run")
    assert len(tiny.read_log(tmp_path / "run")[0]) == 1
    assert before.keys() == after.keys()
    assert [name for name in after if torch.equal(before[name], after[name])] == []


def test_a_model_overfits_eight_reviews(tmp_path, distilbert):
    rows = [
        (f"{word} film", label)
        for label, words in tiny.OPINIONS.items()
        for word in words.split()[:4]
    ]
    tiny.write(tmp_path / "train.csv", rows)
    tiny.write(tmp_path / "test.csv", [(f"{text} a", label) for text, label in rows])
    tiny.train(distilbert, tmp_path, tmp_path / "run", num_train_epochs=40, learning_rate=3e-3)
    tiny.write(tmp_path / "again.csv", rows)
    evaluate.main(
        tiny.flags(model_name_or_path=tmp_path / "run", dataset_name=tmp_path / "again.csv")
    )
    assert tiny.read(tmp_path / "run", "metrics.json")["accuracy"] == 1.0


def test_the_same_command_twice_gives_the_same_weights_and_log(tmp_path, distilbert, reviews):
    for name in ("one", "two"):
        torch.manual_seed(len(name))
        tiny.train(distilbert, reviews, tmp_path / name, num_train_epochs=2)
    assert (
        len({(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")}) == 1
    )
    losses = [
        [step["loss"] for step in tiny.read_log(tmp_path / name)[0]] for name in ("one", "two")
    ]
    assert losses[0] == losses[1]


def test_the_seed_changes_the_head_and_the_losses(tmp_path, distilbert, reviews):
    for seed in (1, 2):
        tiny.train(
            distilbert,
            reviews,
            tmp_path / str(seed),
            num_train_epochs=1,
            seed=seed,
            learning_rate=1e-12,
        )
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert not torch.allclose(one["classifier.weight"], two["classifier.weight"])
    encoder = "distilbert.embeddings.word_embeddings.weight"
    assert torch.allclose(one[encoder], weights(distilbert)[encoder])
    losses = [[step["loss"] for step in tiny.read_log(tmp_path / name)[0]] for name in "12"]
    assert losses[0] != losses[1]


def test_a_run_leaves_exactly_these_files_with_this_in_them(trained, reviews):
    assert {path.name for path in trained.iterdir()} == FILES
    assert tiny.read(trained, "status.json").keys() == {"status", "time"}
    assert tiny.read(trained, "status.json")["status"] == "finished"

    run = tiny.read(trained, "run.json")
    assert run.keys() == {
        *("command", "git_commit", "versions", "platform", "settings", "labels"),
        *(
            "device",
            "processes",
            "threads",
            "precision",
            "commits",
            "reviews",
            "model_sha256",
            "seconds",
            "history",
            "directory",
        ),
    }
    assert run["commits"] == {"model": None, "dataset": None}
    assert (run["processes"], run["precision"], run["labels"]) == (
        1,
        "no",
        ["negative", "positive"],
    )
    assert (run["settings"]["learning_rate"], run["settings"]["dataset_name"]) == (
        3e-3,
        str(reviews),
    )
    known = [
        {name: run["reviews"][x][name] for name in ("split", "rows", "reviews")}
        for x in run["reviews"]
    ]
    assert known == [
        {"split": "train", "rows": "all", "reviews": 41},
        {"split": "test", "rows": "all", "reviews": 20},
    ]
    assert run["versions"]["transformers"] == transformers.__version__

    steps, evaluations = tiny.read_log(trained)
    assert [step["step"] for step in steps] == list(range(1, 25))
    assert {tuple(step) for step in steps} == {
        ("step", "epoch", "loss", "learning_rate", "tokens", "seconds")
    }
    assert [evaluation["step"] for evaluation in evaluations] == [6, 12, 18, 24]
    metrics = tiny.read(trained, "metrics.json")
    origin = {"dataset": reviews.name, "dataset_commit": None, "split": "test"}
    origin["label_matching"] = "by name"
    assert metrics == {**evaluations[-1]["eval"], **origin, "command": metrics["command"]}
    assert run["seconds"] == sum(step["seconds"] for step in steps)
    assert metrics["reviews"] == 20

    config = tiny.read(trained, "config.json")
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    assert config["label2id"] == {"negative": 0, "positive": 1}
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert f"accuracy                {metrics['accuracy']:.4f}  " in card


@pytest.mark.parametrize("model", ["bert", "roberta"])
def test_bert_and_roberta_train_evaluate_and_predict(tmp_path, model, reviews, request, capsys):
    folder = tiny.train(
        request.getfixturevalue(model), reviews, tmp_path / "run", num_train_epochs=1
    )
    assert {path.name for path in folder.iterdir()} == FILES
    ended = tiny.read(folder, "metrics.json")
    evaluate.main(tiny.flags(model_name_or_path=folder))
    assert tiny.read(folder, "metrics.json") == ended
    capsys.readouterr()
    texts = [text for text, _ in tiny.reviews(20, seed=2)]
    predict.main([*texts, *tiny.flags(model_name_or_path=folder)])
    labels = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    classify = transformers.pipeline("text-classification", model=str(folder), device="cpu")
    assert (
        sum(one != other["label"] for one, other in zip(labels, classify(texts), strict=True)) <= 1
    )  # bf16


def test_five_classes_train_under_their_names(tmp_path, distilbert):
    rows = [(text, stars % 5 + 1) for stars, (text, _) in enumerate(tiny.reviews(50, seed=4))]
    path = tiny.write(tmp_path / "stars.jsonl", rows)
    folder = tiny.train(distilbert, path, tmp_path / "run", num_train_epochs=1)
    assert tiny.read(folder, "config.json")["id2label"] == {str(i): str(i + 1) for i in range(5)}
    metrics = tiny.read(folder, "metrics.json")
    assert (metrics["reviews"], len(metrics["confusion_matrix"])) == (5, 5)


@pytest.mark.parametrize(("model", "longest"), [("distilbert", 64), ("bert", 64), ("roberta", 512)])
def test_the_default_length_is_512_or_what_the_model_takes(tmp_path, model, longest, request):
    rows = [
        ("superb " * 600, "positive"),
        ("dull " * 600, "negative"),
        ("film", "positive"),
        ("story", "negative"),
    ]
    path = tiny.write(tmp_path / "train.csv", rows)
    tiny.write(tmp_path / "test.csv", [("lovely " * 600, "positive")])
    folder = tiny.train(
        request.getfixturevalue(model), path.parent, tmp_path / "run", num_train_epochs=1
    )
    assert tiny.read(folder, "run.json")["settings"]["max_length"] == longest
    assert transformers.AutoTokenizer.from_pretrained(folder).model_max_length == longest
    assert tiny.read_log(folder)[0][0]["tokens"] in range(2 * longest + 6, 2 * longest + 20)


def test_more_tokens_than_roberta_has_usable_positions_are_refused(
    tmp_path, roberta, reviews, refusal
):
    given = {"model_name_or_path": roberta, "dataset_name": reviews, "output_dir": tmp_path / "run"}
    line = refusal(script.main, tiny.flags(**given, mixed_precision="no", max_length=513))
    assert "--max_length 513: the model's limit is 512 tokens" in line
    assert not (tmp_path / "run").exists()


def test_a_length_above_the_default_is_kept_by_evaluate(tmp_path):
    """Only the beginning of a 600-token review tells its class, in training and evaluation."""
    model = tiny.save_model(tmp_path / "long", "distilbert", positions=640)
    rows = [(f"{text}{' film' * 590}", label) for text, label in tiny.reviews(16, seed=6)]
    tiny.write(tmp_path / "train.csv", rows[:10])
    tiny.write(tmp_path / "test.csv", rows[10:])
    folder = tiny.train(
        model, tmp_path, tmp_path / "run", max_length=640, num_train_epochs=1, learning_rate=1e-2
    )
    ended = tiny.read(folder, "metrics.json")
    evaluate.main(tiny.flags(model_name_or_path=folder))
    assert tiny.read(folder, "metrics.json") == ended


@pytest.mark.parametrize("kind", ["distilbert", "bert", "roberta"])
def test_the_saved_tokenizer_truncates_at_the_start_and_reads_breaks_as_spaces(
    tmp_path, reviews, kind, request
):
    """Also for plain transformers, and when the model is trained further."""
    base = request.getfixturevalue(kind)
    folder = tiny.train(base, reviews, tmp_path / "run", num_train_epochs=1)
    # A class that transformers 4 also knows.
    assert (
        tiny.read(folder, "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    )
    own, saved = map(transformers.AutoTokenizer.from_pretrained, (base, folder))
    for text in [text for text, _ in tiny.reviews(20, seed=8)]:
        assert dict(saved(text)) == dict(own(text))
        assert saved(text.replace(" ", "<br/><BR>", 1)).input_ids == own(text).input_ids
        assert saved(text.replace(" ", "<br /><br />")).input_ids == own(text).input_ids
    words = (tiny.WORDS * 40)[:700]
    cls, *ids, sep = own(" ".join(words)).input_ids
    length = saved.model_max_length
    assert saved("<br />".join(words), truncation=True).input_ids == [cls, *ids[2 - length :], sep]
    again = tiny.train(folder, reviews, tmp_path / "again", num_train_epochs=1)
    assert (again / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()


def failing(model, folder, output_dir, refusal, **settings):
    given = {
        "model_name_or_path": model,
        "dataset_name": folder,
        "output_dir": output_dir,
        "mixed_precision": "no",
    }
    line = refusal(script.main, tiny.flags(**given, **settings), code=1)
    status = tiny.read(output_dir, "status.json")
    assert status["status"] == "failed"
    assert status["reason"] in line
    assert not (output_dir / "model.safetensors").exists()
    return line


@pytest.mark.parametrize("steps", [1, 2])
def test_diverging_weights_are_a_one_line_error(tmp_path, distilbert, reviews, refusal, steps):
    """After the last step no loss would show it."""
    size = {"num_train_epochs": 1, "train_batch_size": 41 if steps == 1 else 21}
    failing(distilbert, reviews, tmp_path / "run", refusal, learning_rate=1e38, **size)


@pytest.mark.parametrize("name", ["evaluations/mine.txt", "trackers/mine.txt", "training.png"])
def test_a_folder_with_what_a_run_would_replace_is_refused(
    name, tmp_path, distilbert, reviews, refusal
):
    mine = tmp_path / "run" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    given = {"model_name_or_path": distilbert, "dataset_name": reviews}
    line = refusal(script.main, tiny.flags(**given, output_dir=tmp_path / "run"))
    assert f"already holds {name.split('/')[0]};" in line
    assert mine.read_text() == "mine"


def test_a_used_folder_is_refused_or_replaced_entirely(
    tmp_path, distilbert, bert, reviews, refusal
):
    folder = tiny.train(bert, reviews, tmp_path / "run", num_train_epochs=1)
    (folder / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    given = tiny.flags(model_name_or_path=distilbert, dataset_name=reviews, output_dir=folder)
    assert f"--output_dir {folder}: already holds" in refusal(script.main, given)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    tiny.train(distilbert, reviews, folder, overwrite_output_dir=True, num_train_epochs=2)
    assert {path.name for path in folder.iterdir()} == FILES | {"notes.txt"}
    assert [line["step"] for line in tiny.read_log(folder)[0]] == [1, 2, 3, 4, 5, 6]
    assert tiny.read(folder, "config.json")["model_type"] == "distilbert"


def test_a_failed_run_leaves_nothing_of_the_one_it_replaced(tmp_path, distilbert, reviews, refusal):
    folder = tiny.train(distilbert, reviews, tmp_path / "run", num_train_epochs=1)
    failing(
        distilbert,
        reviews,
        folder,
        refusal,
        learning_rate=1e38,
        train_batch_size=4,
        overwrite_output_dir=True,
    )
    assert {path.name for path in folder.iterdir()} == {"run.json", "log.jsonl", "status.json"}


@pytest.mark.parametrize(
    ("kind", "setting"),
    [("distilbert", "attention_dropout"), ("bert", "attention_probs_dropout_prob")],
)
def test_attention_dropout_defaults_to_the_models(tmp_path, reviews, kind, setting):
    model = tiny.save_model(tmp_path / "model", kind, **{setting: 0.4})
    folders = [
        tiny.train(model, reviews, tmp_path / name, num_train_epochs=1, **more)
        for name, more in (("off", {"attention_dropout": 0}), ("own", {}))
    ]
    assert [tiny.read(folder, "config.json")[setting] for folder in folders] == [0.0, 0.4]
    losses = [[step["loss"] for step in tiny.read_log(folder)[0]] for folder in folders]
    assert losses[0] != losses[1]
    model = tiny.save_model(tmp_path / "stock", kind, **{setting: 0.0})
    stock = tiny.train(model, reviews, tmp_path / "run", num_train_epochs=1)
    assert [step["loss"] for step in tiny.read_log(stock)[0]] == losses[0]


def test_attention_dropout_is_refused_for_a_model_that_has_none(tmp_path, distilbert):
    folder = shutil.copytree(distilbert, tmp_path / "model")
    size = {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 64}
    transformers.XLNetForSequenceClassification(transformers.XLNetConfig(**size)).save_pretrained(
        folder
    )
    args = script.parse_args(tiny.flags(model_name_or_path=folder, attention_dropout=0.1))
    with pytest.raises(UserError, match=r"--attention_dropout: .* has no such setting"):
        trial.load_for_training(args, ["negative", "positive"], ["text"])


def test_training_keeps_a_fitting_head_or_makes_a_new_one(tmp_path, trained, reviews):
    """The head is kept if the number of classes is the same."""
    tiny.train(trained, reviews, tmp_path / "same", num_train_epochs=1, learning_rate=1e-12)
    same_head = weights(tmp_path / "same")["classifier.weight"]
    assert torch.allclose(same_head, weights(trained)["classifier.weight"])
    rows = [
        (text, label + str(i % 4 // 2)) for i, (text, label) in enumerate(tiny.reviews(41, seed=1))
    ]
    path = tiny.write(tmp_path / "four.csv", rows)
    tiny.train(trained, path, tmp_path / "four", num_train_epochs=1)
    assert weights(tmp_path / "four")["classifier.weight"].shape[0] == 4


def test_the_configuration_keeps_its_padding_token(tmp_path, roberta, reviews):
    """RoBERTa counts positions from the padding id of its configuration."""
    model = shutil.copytree(roberta, tmp_path / "model")
    config = tiny.read(model, "config.json")
    (model / "config.json").write_text(json.dumps({**config, "pad_token_id": 3}))
    folder = tiny.train(model, reviews, tmp_path / "run", num_train_epochs=1)
    assert tiny.read(folder, "config.json")["pad_token_id"] == 3
    ended = tiny.read(folder, "metrics.json")
    evaluate.main(tiny.flags(model_name_or_path=folder))
    assert tiny.read(folder, "metrics.json")["loss"] == ended["loss"]
