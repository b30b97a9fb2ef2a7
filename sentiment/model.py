"""The tokenizer and the classifier of a Hub id or a folder, checked before anything is spent on them."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from tokenizers import Regex, normalizers
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, TokenizersBackend
from transformers.utils import logging

from sentiment import batches, checkpoint, hub, unpadded, untrusted
from sentiment.cli import RunError, UserError, first_line
from sentiment.data import READABLE_NAMES, encode

DEFAULT_FOLDER = "outputs/model"  # where train.py leaves a model, and the others look for one

SHORTEST = 8  # tokens that a text may have, at least
TRIAL = "A 🙂 \U0010ffff"  # signs that no vocabulary has among them
BREAKS = r"(?i:<br\s*/?>\s*)+"  # HTML's line breaks

logging.set_verbosity_error()
logging.disable_progress_bar()


def load(name, names=None, revision="main", attention_dropout=None):
    """(tokenizer, which cuts at the model's longest input, classifier on the CPU) of a Hub id, at a `revision` of it,
    or of a folder. Raises UserError.

    names: classes to train for. A head for another number of classes, or none at all, is replaced by a new one, drawn
    from torch's generator, and the tokenizer becomes one `for_reviews`. Without `names` a trained head must be there.
    attention_dropout: instead of the model's own.
    """
    if Path(name).is_dir() and revision != "main":
        raise UserError(f"--revision {revision}: {name} is a folder; only models on the Hub have revisions")
    if Path(name).is_file():
        raise UserError(f"{name}: a file; the folder of a model is needed, or a Hub id")
    folder = Path(name) if Path(name).is_dir() else hub.snapshot(name, revision, untrusted.FILES)
    weights = untrusted.check(name, folder)
    try:
        with silenced(), warnings.catch_warnings(action="ignore"):  # of what is refused below
            classifier = load_classifier(name, folder, names, weights, attention_dropout)
            tokenizer = load_tokenizer(name, folder)
            if names:
                tokenizer = for_reviews(tokenizer)
            try_out(name, tokenizer, classifier)
    except UserError:
        raise
    except BaseException as error:  # whatever a folder may make the libraries raise: panics of Rust are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{name}: cannot be loaded: {first_line(error)}") from error
    return tokenizer, classifier


@contextlib.contextmanager
def silenced():
    """Nothing reaches the process's standard error: a panic of Rust prints there, whoever catches it."""
    if sys.stderr is None:  # it is closed, and its number may be another file's
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def load_trained(name, revision="main"):
    """As `load`, for a model that was fine-tuned."""
    if name == DEFAULT_FOLDER and not Path(name).exists():
        raise UserError(f"no model in {name} yet: run train.py, or name a model by --model_name_or_path")
    hub.connect(name)
    return load(name, revision=revision)


class PreTrainedTokenizerFast(TokenizersBackend):
    """The general tokenizer, saved under a name that transformers 4 knows, too."""


def load_tokenizer(name, folder):
    """The fast tokenizer in a folder. Raises UserError."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.is_fast or tokenizer.pad_token_id is None:
        raise UserError(f"{name}: {type(tokenizer).__name__} has no tokenizer.json, or no padding token")
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):  # what AutoTokenizer makes of no files at all
        raise UserError(f"{name}: no tokenizer there (no tokenizer.json); save the model's own beside it")
    if type(tokenizer) is TokenizersBackend:  # which AutoTokenizer makes of PreTrainedTokenizerFast's files
        tokenizer.__class__ = PreTrainedTokenizerFast
    return tokenizer


def for_reviews(tokenizer):
    """The tokenizer, but it keeps the end of a text that is too long, where a review tells most (Sun et al. 2019), and
    reads line breaks of HTML as spaces.

    It is of the general class, whose files hold that: BertTokenizer and others would make their own normaliser again.
    """
    read_breaks_as_spaces(tokenizer)
    names = "model_input_names", "model_max_length", "padding_side", "add_prefix_space"
    same = {name: getattr(tokenizer, name) for name in names} | tokenizer.special_tokens_map
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, truncation_side="left", **same)


def read_breaks_as_spaces(tokenizer):
    backend = tokenizer.backend_tokenizer
    known = any("<br" in token for token in tokenizer.get_added_vocab())  # as a token, which a space would be then
    if not known and BREAKS not in str(backend.normalizer):  # it is in that of a model from train.py
        own = [backend.normalizer] if backend.normalizer else []
        backend.normalizer = normalizers.Sequence([normalizers.Replace(Regex(BREAKS), " "), *own])


def load_classifier(name, folder, names, weights, attention_dropout):
    """The classifier in a folder; weights: as from untrusted.check; the others as in `load`. Raises UserError."""
    head = {}
    if names:
        ids = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
        head = {"num_labels": len(names), "problem_type": "single_label_classification", **ids}
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **head)
    if attention_dropout is not None:
        known = "attention_dropout", "attention_probs_dropout_prob"  # DistilBERT's name for it, and BERT's
        own = dict.fromkeys((key for key in known if hasattr(config, key)), attention_dropout)
        if not own:
            raise UserError(f"--attention_dropout: {name} has no such setting; leave it out")
        config.update(own)
    untrusted.check_size(name, config, *weights)
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder,
        config=config,
        dtype="float32",
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # they are in the report, which is looked at below
        output_loading_info=True,
    )
    unfit = set(report["missing_keys"]) | {key for key, *_ in report["mismatched_keys"]}
    left_over = {key for key in report["unexpected_keys"] if not key.endswith("position_ids")}  # those are no weights
    encoder = [
        key for key in unfit | left_over if key.startswith(model.base_model_prefix + ".") and "pooler" not in key
    ]
    if encoder:
        raise UserError(f"{name}: the weights do not fit config.json: {len(encoder)} tensors, such as {min(encoder)}")
    if unfit and not names:
        raise UserError(f"{name}: no trained classification head: fine-tune it with train.py first")
    unpadded.install(model)
    return model


def try_out(name, tokenizer, classifier):
    """Have the tokenizer cut at the model's longest input, and try both. UserError, or what the libraries raise."""
    classes, rows = classifier.config.id2label.values(), classifier.get_input_embeddings().num_embeddings
    if len(set(classes)) < max(2, len(classes)) or not all(label.isprintable() for label in classes):
        raise UserError(f"{name}: id2label in config.json needs two or more different names")
    tokenizer.model_max_length = longest_input(tokenizer, classifier)
    if tokenizer.model_max_length < SHORTEST:
        raise UserError(f"{name}: takes {tokenizer.model_max_length} tokens, {SHORTEST} at least are needed")
    (ids,), _ = encode(tokenizer, [TRIAL])
    highest = max(tokenizer.pad_token_id, *ids.tolist(), *tokenizer.get_vocab().values())
    if highest >= rows:
        raise UserError(f"{name}: the tokenizer has a token number {highest:,}, the model knows {rows:,} tokens")
    with torch.inference_mode():
        logits = classifier.eval()(**batches.pad([ids], tokenizer.pad_token_id, "cpu")).logits
    if logits.shape != (1, len(classes)) or not logits.isfinite().all():
        raise UserError(
            f"{name}: the model does not answer with {len(classes)} finite numbers: its weights are damaged"
        )


def save(folder, tokenizer, classifier):
    """Write both so that from_pretrained works on the folder: staged in it, made durable, renamed, the weights last.
    RunError or OSError: a full disk, say.
    """
    staged = Path(folder, ".tmp-model")
    try:
        classifier.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        files = sorted(staged.iterdir(), key=lambda path: path.suffix == ".safetensors")
        for path in files:
            shutil.copymode(staged / "config.json", path)  # the library lets nobody else read the weights
            checkpoint.sync(path)
        for path in files:
            os.replace(path, Path(folder, path.name))
        checkpoint.sync(Path(folder))
    except SafetensorError as error:  # what the library makes of an OSError
        raise RunError(f"{folder}: the model cannot be saved: {first_line(error)}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def fingerprint(tokenizer, classifier):
    """SHA-256 of all that training takes from a model: weights, configuration, tokenizer."""
    config = {key: value for key, value in classifier.config.to_diff_dict().items() if key != "transformers_version"}
    digest = hashlib.sha256(json.dumps([config, tokenizer.backend_tokenizer.to_str()], default=str).encode())
    for parameter in classifier.parameters():
        digest.update(parameter.detach().numpy())
    return digest.hexdigest()


def commit_of(name, revision):
    """The commit of a model on the Hub that was loaded; None for a folder."""
    path = None if Path(name).exists() else try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(path).parent.name if path else None  # the cache names its folders so


def class_names(model):
    """Names of the model's classes by id; neg and pos read as negative and positive, as everywhere."""
    return [READABLE_NAMES.get(name, name) for _, name in sorted(model.config.id2label.items())]


def pick_max_length(requested, longest):
    """Tokens per review in training, special ones included: `requested`, or 512, or fewer if the model takes fewer.

    longest: what it takes, or was trained with; UserError if more are requested.
    """
    if requested and requested > longest:
        raise UserError(
            f"--max_length {requested}: the model takes at most {longest} tokens, or was trained with no more"
        )
    return requested or min(512, longest)


def longest_input(tokenizer, classifier):
    """Most tokens of one text, special ones included: the tokenizer's limit, or fewer if the model has fewer positions.

    For a model from train.py that is the length it was trained with.
    """
    longest = tokenizer.model_max_length
    if positions := getattr(classifier.config, "max_position_embeddings", None):
        tables = (module for name, module in classifier.named_modules() if name.endswith("position_embeddings"))
        padding = getattr(next(tables, None), "padding_idx", None)
        # RoBERTa counts positions from the padding id on, so that many at the table's head are never used.
        longest = min(longest, positions if padding is None else positions - padding - 1)
    return longest
