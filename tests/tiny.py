"""Tiny models, reviews and runs for the tests, and helpers that start the scripts."""

import csv
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

ROOT = Path(__file__).parents[1]
OPINIONS = {
    "positive": "superb moving witty gripping lovely",
    "negative": "dull clumsy boring stale dreadful",
}
FILLERS = "the film a story was and its cast with music scene ending really quite very"
WORDS = " ".join([FILLERS, *OPINIONS.values()]).split()


def reviews(count, seed):
    """`count` different (text, label) pairs of 4 to 14 words; all words of opinion in a text are of
    its label.
    """
    rng, found = random.Random(seed), {}
    while len(found) < count:
        label = ("negative", "positive")[len(found) % 2]
        words = rng.choices(FILLERS.split(), k=rng.randint(2, 11))
        words += rng.choices(OPINIONS[label].split(), k=rng.randint(2, 3))
        rng.shuffle(words)
        found[" ".join(words)] = label
    return list(found.items())


def write(path, rows, columns=("text", "label")):
    """Write rows into a .csv or .jsonl file; returns its path."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([columns, *rows])
        else:
            file.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    return path


def read_log(folder):
    """The steps and the evaluations in log.jsonl."""
    lines = [
        json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [line for line in lines if "loss" in line], [line for line in lines if "eval" in line]


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def save_model(folder, kind, positions=None, **settings):
    """Save a model of 2 layers, 32 wide, with its tokenizer and random weights, as a pretrained
    one: without a head.
    """
    torch.manual_seed(0)
    size = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    size |= {
        "initializer_range": 0.2
    }  # weights of a size that lets so small a model learn within seconds
    if kind == "roberta":
        learned = ByteLevelBPETokenizer()
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        learned.train_from_iterator(
            [" ".join(WORDS)], vocab_size=400, special_tokens=special, show_progress=False
        )
        model = json.loads(learned.to_str())["model"]
        tokenizer = transformers.RobertaTokenizer(
            model["vocab"], [tuple(pair) for pair in model["merges"]]
        )
        size |= {"vocab_size": len(tokenizer), "max_position_embeddings": positions or 514}
        model = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**size, **settings))
    else:
        pieces = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            *WORDS,
            *"abcdefghijklmnopqrstuvwxyz",
            "##s",
            "##e",
        ]
        vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
        size |= {"vocab_size": len(vocabulary), "max_position_embeddings": positions or 64}
        if kind == "bert":
            tokenizer = transformers.BertTokenizer(vocabulary)
            model = transformers.BertModel(transformers.BertConfig(**size, **settings))
        else:
            tokenizer = transformers.DistilBertTokenizer(vocabulary)
            names = {
                "hidden_size": "dim",
                "num_hidden_layers": "n_layers",
                "num_attention_heads": "n_heads",
            }
            size = {
                {**names, "intermediate_size": "hidden_dim"}.get(name, name): n
                for name, n in size.items()
            }
            model = transformers.DistilBertForMaskedLM(
                transformers.DistilBertConfig(**size, **settings)
            )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}  # DistilBERT's


def flags(**settings):
    """Settings as command-line arguments; True is a flag without a value."""
    argv = []
    for name, value in settings.items():
        argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return argv


def train(model, dataset, output_dir, **settings):
    """train.py's main in this process, in fp32."""
    import train as script

    given = {
        "model_name_or_path": model,
        "dataset_name": dataset,
        "output_dir": output_dir,
        "mixed_precision": "no",
    }
    script.main(flags(**{**given, **settings}))
    return output_dir


class Crash(Exception):
    """A bug or a kill: no code handles it."""


def crash_at(monkeypatch, module, name, times):
    """Make a function crash at its `times`-th call."""
    function, calls = getattr(module, name), itertools.count(1)

    def crashing(*args, **options):
        if next(calls) == times:
            raise Crash
        return function(*args, **options)

    monkeypatch.setattr(module, name, crashing)


def add_put(monkeypatch):
    """From now on DistilBERT also uses `put_`, which has no deterministic kernel on any device."""
    kind = transformers.DistilBertForSequenceClassification
    forward = kind.forward

    def with_put(*args, **inputs):
        output = forward(*args, **inputs)
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
        return output

    monkeypatch.setattr(kind, "forward", with_put)


def process(*argv, cwd=ROOT, text=None, env=None):
    """Run a command to its end, in the environment of the tests changed by `env`; `text` goes to
    standard input.
    """
    environment = {**os.environ, **(env or {})}
    argv = [str(arg) for arg in argv]
    options = {
        "capture_output": True,
        "encoding": "utf-8",
        "timeout": 120,
        "env": environment,
        "cwd": cwd,
    }
    return subprocess.run(argv, input=text or "", **options)


def script(name, *argv, **options):
    """`process` for `python NAME.py ARGV...`."""
    return process(sys.executable, ROOT / f"{name}.py", *argv, **options)
