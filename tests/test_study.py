"""The variants of benchmarks/study.py, and one study."""

import copy
import json
import subprocess
import sys
from argparse import Namespace

import pytest
import tiny
import torch
import transformers

sys.path.insert(0, str(tiny.ROOT / "benchmarks"))

import study


@pytest.fixture
def classifier(distilbert):
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_pretrained(distilbert)


def test_the_learning_rate_decays_by_layer(classifier):
    parameters = dict(classifier.named_parameters())
    optimizer = study.train.make_optimizer(list(parameters.values()), 0.01)
    study.decay_by_layer(optimizer, classifier, 0.5)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(parameters)
    wanted = {"embeddings": 0.125, "layer.0.": 0.25, "layer.1.": 0.5, "classifier": 1.0}
    for name, parameter in parameters.items():
        assert [rates[id(parameter)]] == [rate for part, rate in wanted.items() if part in name], (
            name
        )


def test_averaged_weights_are_those_of_the_last_steps():
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    (mean,) = study.average_weights(optimizer, [weight], first=3)
    seen = []
    for step in range(1, 6):
        weight.grad = torch.tensor([1.0, float(step)])
        optimizer.step()
        seen.append(weight.detach().clone())
    assert torch.allclose(mean.float(), torch.stack(seen[2:]).mean(0))


def test_only_the_last_layers_are_reset(classifier):
    before = copy.deepcopy(classifier.state_dict())
    study.reinitialise(classifier, 1)
    changed = {
        name
        for name, tensor in classifier.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed
    assert all("layer.1." in name for name in changed)


@pytest.mark.parametrize(("tricks", "kept"), [({}, "dull"), ({"tail": True}, "superb")])
def test_one_end_of_a_long_review_is_read(distilbert, tricks, kept):
    args = Namespace(model_name_or_path=distilbert, attention_dropout=None, max_length=8, seed=0)
    tokenizer, _ = study.load(args, tricks, ["negative", "positive"])
    ids = tokenizer("dull " * 10 + "superb " * 10, truncation=True)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids)[1:-1] == [kept] * 6


@pytest.mark.slow
def test_an_interrupted_study_continues(distilbert, tmp_path):
    files = [
        tiny.write(tmp_path / f"{name}.csv", tiny.reviews(24, i))
        for i, name in enumerate(("train", "scored"))
    ]
    results, variants = (
        tmp_path / "results.jsonl",
        ["num_train_epochs=2", "num_train_epochs=2+average=0.5+tail"],
    )
    argv = [
        sys.executable,
        tiny.ROOT / "benchmarks/study.py",
        *variants,
        "--model",
        distilbert,
        "--train",
        files[0],
    ]
    argv += ["--scored", files[1], "--results", results, "--compare", variants[0], "--seeds"]
    subprocess.run([*argv, "1"], check=True, capture_output=True)
    done = subprocess.run([*argv, "1", "2"], check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert sorted((row["variant"], row["seed"]) for row in rows) == [
        (v, seed) for v in variants for seed in (1, 2)
    ]
    assert len({row["calibration_error"] for row in rows}) == 4
    assert done.stdout.count("\n") == 4
