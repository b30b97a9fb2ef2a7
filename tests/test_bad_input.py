"""User errors: one line that names the mistake, exit code 2, and nothing written."""

import gzip
import hashlib
import json
import os

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file

import evaluate
import predict
import train

MAIN = {"train": train.main, "evaluate": evaluate.main, "predict": predict.main}
GOOD = "text,label\ngood film,positive\nbad film,negative\n"
FILES = {
    "empty.csv": b"",
    "nothing.jsonl": b"",
    "header.csv": b"text,label\n",
    "blank.csv": b"text,label\n,positive\n  ,negative\n",
    "one_class.csv": "text,label\n" + "".join(f"film {i},positive\n" for i in range(20)),
    "no_label.csv": b"text,stars\ngood film,5\n",
    "unquoted.csv": b"text,label\ngood, very good film,positive\nbad, very bad film,negative\n",
    "more_fields.csv": GOOD + "good, very good film,positive\n",
    "open_quote.csv": 'text,label\n"good film,positive\nbad film,negative\n',
    "latin_1.csv": GOOD.replace("good", "été").encode("latin-1"),
    "utf_16.csv": GOOD.encode("utf-16"),
    "broken.jsonl": b'{"text": "good film", "label": 1}\n{"text": "bad fi',
    "numbers.jsonl": b'{"text": 5, "label": 1}\n{"text": 6, "label": 0}\n',
    "lists.jsonl": b'{"text": "good film", "label": [1]}\n{"text": "bad film", "label": [0]}\n',
    "scalars.jsonl": b'"good film"\n"bad film"\n',
    "none.parquet": GOOD,
    "short.csv.gz": gzip.compress(GOOD.encode() * 500)[:60],
    "none.csv.gz": GOOD,
    "none.jsonl.gz": GOOD,
    "reviews.txt": GOOD,
    "reviews.json": b"[]",
    "train_only/train.txt": GOOD,
    "two/train.csv": GOOD,
    "two/train.jsonl": b'{"text": "good film", "label": "positive"}\n',
    "test_only/test.csv": GOOD,
    "other_labels/train.csv": GOOD,
    "other_labels/test.csv": GOOD.replace("positive", "great").replace("film", "story"),
    "all_in_test/train.csv": GOOD,
    "all_in_test/test.csv": GOOD,
    "two_reviews.csv": GOOD,
    "great.csv": GOOD.replace("positive", "great"),
    "no_config/model.safetensors": b"",
    "bad_config/config.json": b'{"model_type": "distilbert"',
    "unknown_type/config.json": b'{"model_type": "nonsense"}',
    "no_type/config.json": b"{}",
    "bad_run/run.json": b'{"settings": ',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, distilbert, trained, reviews):
    """A folder with all files that the cases below use."""
    folder = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "directory.csv").mkdir()
    for name, target in {"model": distilbert, "trained": trained, "reviews": reviews}.items():
        (folder / name).symlink_to(target)

    def variant(name, origin, left_out=()):
        (folder / name).mkdir(exist_ok=True)
        for path in origin.iterdir():
            if path.name not in left_out and not (folder / name / path.name).exists():
                (folder / name / path.name).write_bytes(path.read_bytes())
        return folder / name

    variant("bad_run", trained)
    variant("no_weights", distilbert, ["model.safetensors"])
    variant("no_tokenizer", distilbert, ["tokenizer.json", "tokenizer_config.json"])
    variant("half_saved", trained, ["tokenizer.json", "tokenizer_config.json"])
    tensors, config = (
        load_file(distilbert / "model.safetensors"),
        tiny.read(distilbert, "config.json"),
    )
    torch.save(tensors, variant("pickled", folder / "no_weights") / "pytorch_model.bin")
    for name, change in {
        "other_size": {"dim": 64},
        "more_layers": {"n_layers": 3},
        "few_words": {"vocab_size": 20},
    }.items():
        (variant(name, distilbert) / "config.json").write_text(json.dumps(config | change))
    tensors["distilbert.embeddings.word_embeddings.weight"] = torch.zeros(20, 32)
    save_file(tensors, folder / "few_words" / "model.safetensors", {"format": "pt"})
    cut = (distilbert / "model.safetensors").read_bytes()[:-1000]
    (variant("cut_weights", distilbert) / "model.safetensors").write_bytes(cut)
    tokenizer = transformers.AutoTokenizer.from_pretrained(distilbert)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(variant("no_padding", distilbert))
    return folder


def contents(folder):
    """{path: hash} of all files below a folder, links followed."""
    paths = [
        os.path.join(root, name)
        for root, _, names in os.walk(folder, followlinks=True)
        for name in names
    ]
    return {path: hashlib.sha256(open(path, "rb").read()).hexdigest() for path in paths}


# Script, its arguments ("@" is the folder above), what the error must name. By default train gets
# a model, reviews, an output folder and fp32; evaluate and predict get a trained model.
DEFAULTS = {
    "train": [
        "--model_name_or_path=@/model",
        "--dataset_name=@/reviews",
        "--output_dir=out",
        "--mixed_precision=no",
    ],
    "evaluate": ["--model_name_or_path=@/trained", "--output_dir=out"],
    "predict": ["--model_name_or_path=@/trained"],
}
RANGES = {
    "--train_batch_size": ["0", "-1", "1.5", "x", "9" * 400],
    "--learning_rate": ["0", "-1e-5", "nan", "inf", "fast"],
    "--weight_decay": ["-0.1", "nan"],
    "--warmup_ratio": ["-0.1", "1.1", "nan"],
    "--num_train_epochs": ["0", "2.5"],
    "--max_grad_norm": ["-1", "inf"],
    "--seed": ["-1", "4294967296"],
    "--max_train_samples": ["-1"],
    "--max_eval_samples": ["-1"],
    "--max_length": ["7", "65"],
    "--mixed_precision": ["fp8", "FP16", "true"],
}
COMMAND_LINES = [
    *[
        ("train", f"{flag}={value}", f"{flag} {value}")
        for flag, values in RANGES.items()
        for value in values
    ],
    ("evaluate", "--max_eval_samples=-1", "--max_eval_samples -1"),
    ("evaluate", "--batch_size 8", "--batch_size"),
    ("predict", "good --output_format csv", "--output_format csv"),
    ("predict", "good --output json", "--output"),
    ("train", "--learning 1e-3", "--learning"),
    ("train", "--overwrite", "--overwrite"),
    ("train", "--overwrite_output_dir=yes", "--overwrite_output_dir yes"),
    ("evaluate", "--dataset @/reviews", "--dataset"),
    ("train", "--seed", "--seed"),
    ("train", "reviews.csv", "reviews.csv"),
]
PLAIN_DATA = (  # those of which the line names no more than the file
    "missing.csv missing blank.csv open_quote.csv broken.jsonl scalars.jsonl none.parquet "
    "short.csv.gz none.csv.gz "
    "none.jsonl.gz directory.csv"
)
DATA = {
    **{f"@/{name}": f"@/{name}" for name in PLAIN_DATA.split()},
    "missing/reviews.jsonl": "missing/reviews.jsonl",
    "no such reviews": "no such reviews",
    "@/empty.csv": "@/empty.csv empty",
    "@/nothing.jsonl": "@/nothing.jsonl no rows",
    "@/header.csv": "@/header.csv no rows",
    "@/no_label.csv": "--label_column label text, stars",
    "@/unquoted.csv": "@/unquoted.csv quote",
    "@/more_fields.csv": "@/more_fields.csv line 4",
    "@/latin_1.csv": "@/latin_1.csv UTF-8",
    "@/utf_16.csv": "@/utf_16.csv UTF-8",
    "@/numbers.jsonl": "--text_column 5",
    "@/lists.jsonl": "--label_column [1]",
    "@/reviews.txt": "@/reviews.txt .csv",
    "@/reviews.json": "@/reviews.json no rows",
}
ONLY_TRAIN = [
    ("@/model", "@/model train"),
    ("@/two", "@/two train.csv train.jsonl"),
    ("@/one_class.csv", "@/one_class.csv positive"),
    ("@/train_only", "@/train_only train"),
    ("@/test_only", "@/test_only train"),
    ("@/other_labels", "@/other_labels great"),
    ("@/all_in_test", "@/all_in_test train"),
    ("@/two_reviews.csv", "@/two_reviews.csv"),
    ("@/reviews --text_column body", "--text_column body text, label"),
    ("@/reviews --max_train_samples=1", "1 reviews --max_train_samples"),
]
PLAIN_MODELS = (
    "missing reviews.txt bad_config unknown_type no_type no_weights pickled cut_weights "
    "other_size few_words "
    "no_tokenizer"
)
MODELS = {
    **{f"@/{name}": f"@/{name}" for name in PLAIN_MODELS.split()},
    "no such model": "no such model",
    "someone/nothing": "someone/nothing cache",
    "@/reviews": "@/reviews config.json",
    "@/no_config": "@/no_config config.json",
    "@/more_layers": "@/more_layers config.json",
    "@/no_padding": "@/no_padding padding",
}
CASES = [
    *COMMAND_LINES,
    *[
        (script, f"--dataset_name {name}", named)
        for name, named in DATA.items()
        for script in ("train", "evaluate")
    ],
    *[("train", f"--dataset_name {argv}", named) for argv, named in ONLY_TRAIN],
    *[("train", f"--model_name_or_path {name}", named) for name, named in MODELS.items()],
    *[
        ("predict", f"--model_name_or_path {name}", named)
        for name, named in MODELS.items()
        if name != "@/no_padding"
    ],
    ("evaluate", "--dataset_name @/great.csv", "great positive"),
    ("evaluate", "--split dev", "--split dev"),
    ("evaluate", "--dataset_name @/test_only --split train", "--split train @/test_only"),
    ("evaluate", "--text_column body", "--text_column body"),
    ("evaluate", "--model_name_or_path @/model --dataset_name @/reviews", "@/model head"),
    ("evaluate", "--model_name_or_path @/half_saved", "@/half_saved tokenizer"),
    ("predict", "--model_name_or_path @/half_saved good", "@/half_saved tokenizer"),
    ("evaluate", "--model_name_or_path @/bad_run", "@/bad_run run.json"),
    ("evaluate", "--output_dir @/reviews.txt", "--output_dir @/reviews.txt"),
    ("predict", "--model_name_or_path @/model good", "@/model head"),
    ("train", "--mixed_precision fp16", "--mixed_precision fp16"),
    ("train", "--output_dir @/trained", "--output_dir @/trained --overwrite_output_dir"),
    ("train", "--output_dir @/model --overwrite_output_dir", "--output_dir @/model"),
    ("train", "--output_dir @/reviews.txt", "--output_dir @/reviews.txt"),
    ("train", "--output_dir @/reviews.txt/run", "--output_dir @/reviews.txt"),
]


def words_of(name, line, folder):
    argv = [
        *DEFAULTS[name],
        *line.replace("no such ", "no-such_").split(),
        *(["good"] if name == "predict" else []),
    ]
    return [word.replace("@", str(folder)).replace("no-such_", "no such ") for word in argv]


@pytest.mark.parametrize(("name", "line", "named"), CASES, ids=lambda case: case[:60])
def test_a_user_error_is_one_line_and_writes_nothing(
    name, line, named, folder, refusal, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    before = contents(folder)
    error = refusal(MAIN[name], words_of(name, line, folder))
    assert error.startswith(f"{name}.py: error: ")
    for part in named.split():
        assert part.replace("@", str(folder)) in error
    assert contents(folder) == before
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_a_missing_default_model_says_how_to_train_one(name, refusal, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    error = refusal(MAIN[name], ["good"] if name == "predict" else [])
    assert "outputs/model" in error
    assert "train.py" in error


def test_a_symlink_loop_is_refused(tmp_path, refusal):
    (tmp_path / "loop").symlink_to("loop")
    error = refusal(train.main, ["--dataset_name", tmp_path / "loop", "--output_dir", tmp_path])
    assert "no such file" in error


def test_hyphens_are_taken_for_underscores_in_flags_and_nowhere_else():
    args = train.parse_args(
        ["--learning-rate", "1e-3", "--dataset-name=my-own_data", "--overwrite-output-dir"]
    )
    assert (args.learning_rate, args.dataset_name, args.overwrite_output_dir) == (
        1e-3,
        "my-own_data",
        True,
    )
    assert predict.parse_args(["--output-format", "jsonl", "--", "--a-b"]).text == ["--a-b"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line", "named"),
    [
        ("train", "--dataset_name @/latin_1.csv", "UTF-8"),
        ("evaluate", "--model_name_or_path @/pickled --dataset_name @/reviews", "@/pickled"),
        ("predict", "--model_name_or_path @/other_size good", "@/other_size"),
    ],
)
def test_a_user_error_ends_a_process_with_2(name, line, named, folder, tmp_path):
    """Library messages do not appear next to the error."""
    done = tiny.script(name, *words_of(name, line, folder), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{name}.py: error: ")
    assert len(done.stderr.splitlines()) == 1
    assert named.replace("@", str(folder)) in done.stderr


@pytest.mark.parametrize("script", [train, evaluate, predict])
def test_help_names_every_flag(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out.split()
    assert {f"--{name}" for name in vars(script.parse_args([])) if name != "text"} <= set(shown)
