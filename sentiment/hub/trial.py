"""Load an untrusted model and try it. Every failure is a UserError of one line."""

import os
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from sentiment import batches, model, tokens
from sentiment.errors import UserError, first_line
from sentiment.hub import access, untrusted

SHORTEST = 8  # a model must take at least this many tokens
TEXT = "A 🙂 \U0010ffff"  # with characters outside any vocabulary


def load_trained(name, revision="main"):
    """(tokenizer, classifier on the CPU) of a fine-tuned model."""
    if name == model.DEFAULT_FOLDER and not Path(name).exists():
        raise UserError(f"no model in {name} yet: run train.py, or give --model_name_or_path")
    access.connect(name)
    return load(name, revision)[:2]


def load_for_training(settings, labels, text_columns):
    """(tokenizer, classifier on the CPU, commit on the Hub or None, digest)."""
    configure = partial(model.configure, labels, text_columns, settings.attention_dropout)
    torch.manual_seed(settings.seed)  # for a new head: the same on every process
    name = settings.model_name_or_path
    tokenizer, classifier, folder = load(name, settings.revision, configure)
    model.truncate_at(settings.max_length, tokenizer)
    commit = None if Path(name).exists() else folder.name  # the cache names it so
    return tokenizer, classifier, commit, model.fingerprint(tokenizer, classifier)


def load(name, revision, configure=None):
    """(tokenizer, classifier, folder). configure: called with the configuration, for a new head."""
    folder = Path(name)
    if folder.is_file():
        raise UserError(f"{name}: a file, not a model folder or Hub id")
    if not folder.is_dir():
        folder = access.snapshot(name, revision, untrusted.FILES)
    elif revision != "main":
        raise UserError(f"--revision {revision}: {name} is a local folder")
    try:
        weights = untrusted.check(folder)
        with silenced():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            untrusted.check_size(config, *weights)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            # Without a file, AutoTokenizer makes one with special tokens only.
            if len(tokenizer) <= len(set(tokenizer.all_special_tokens)) or not tokenizer.is_fast:
                raise UserError(f"its tokenizer is not a fast one; {untrusted.CONVERT}")
            if configure:
                configure(config)
                tokenizer = model.for_reviews(tokenizer)
            pretrained = AutoModelForSequenceClassification.from_pretrained
            classifier, report = pretrained(folder, config=config, **model.LOADING)
            check(tokenizer, classifier, report, new_head=bool(configure))
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except BaseException as error:  # Rust panics are not Exceptions
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{name}: cannot be loaded: {first_line(error)}") from error
    return tokenizer, classifier, folder


@contextmanager
def silenced():
    """Silence the process's stderr, where warnings and even caught Rust panics print."""
    if sys.__stderr__ is None:  # closed; its number may be another file's
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


def check(tokenizer, classifier, report, new_head):
    """Raise unless a model was loaded whole and answers. Calls model.agree."""
    unfit = set(report["missing_keys"]) | {key for key, *_ in report["mismatched_keys"]}
    # Old files list position_ids, which are no weights.
    extra = {key for key in report["unexpected_keys"] if not key.endswith("position_ids")}
    prefix = classifier.base_model_prefix + "."
    wrong = [key for key in unfit | extra if key.startswith(prefix) and "pooler" not in key]
    if wrong:
        raise UserError(f"{len(wrong)} tensors do not fit config.json, such as {min(wrong)}")
    if unfit and not new_head:
        raise UserError("no trained classification head: fine-tune with train.py first")
    if tokenizer.pad_token_id is None:
        raise UserError("its tokenizer has no padding token; set pad_token, and save it again")
    config, classes = classifier.config, list(classifier.config.id2label.values())
    task = "regression" if len(classes) == 1 else config.problem_type
    if task not in (None, "single_label_classification"):
        raise UserError(f"its head is for {task}, which is not supported")
    if len(set(classes)) < max(2, len(classes)) or not all(map(str.isprintable, classes)):
        raise UserError("id2label in config.json needs 2+ distinct printable names")
    model.agree(tokenizer, classifier)
    if tokenizer.model_max_length < SHORTEST:
        raise UserError(f"takes {tokenizer.model_max_length} tokens; the minimum is {SHORTEST}")
    short, long = tokens.encode(tokenizer, ["A", TEXT])
    highest = max(tokenizer.pad_token_id, *long.tolist(), *tokenizer.get_vocab().values())
    known = classifier.get_input_embeddings().num_embeddings
    if highest >= known:
        raise UserError(f"token id {highest:,} is beyond the model's {known:,} embeddings")
    with torch.inference_mode():
        alone = classifier.eval()(**batches.pad([short], tokenizer.pad_token_id)).logits
        if alone.shape != (1, len(classes)) or not alone.isfinite().all():
            raise UserError("damaged: its logits are not finite, or not one per class")
        for side in ("right", "left"):  # XLNet reads the last token
            inputs = batches.pad([short, long], tokenizer.pad_token_id, side)
            difference = classifier(**inputs).logits[0] - alone
            if difference.abs().max() <= 1e-3 * alone.abs().max():
                classifier.padding_side = tokenizer.padding_side = side
                return
    raise UserError(f"padding changes its answers: {config.model_type} is not supported")
