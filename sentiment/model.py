"""A pretrained model made ready for reviews: head, tokenizer, limits; and saved."""

import hashlib
import json
from pathlib import Path

from tokenizers import Regex, normalizers
from transformers import TokenizersBackend
from transformers.utils import logging

from sentiment import files
from sentiment.errors import UserError

DEFAULT_FOLDER = "outputs/model"
HTML_BREAKS = r"(?i:<br\s*/?>\s*)+"
ATTENTION_DROPOUT = ("attention_dropout", "attention_probs_dropout_prob")  # DistilBERT's, BERT's
LOADING = {  # for from_pretrained of a classifier
    "dtype": "float32",
    "use_safetensors": True,  # never a pickle
    "trust_remote_code": False,
    "ignore_mismatched_sizes": True,  # they are in the report
    "output_loading_info": True,
}

logging.set_verbosity_error()
logging.disable_progress_bar()


class PreTrainedTokenizerFast(TokenizersBackend):
    """The general tokenizer, saved under a name that transformers 4 knows as well."""


def configure(labels, text_columns, attention_dropout, config):
    """Make a configuration classify `labels`. text_columns: for predict.py. UserError."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}
    config.problem_type = "single_label_classification"
    config.text_columns = text_columns
    if attention_dropout is not None:
        known = [name for name in ATTENTION_DROPOUT if hasattr(config, name)]
        if not known:
            raise UserError("--attention_dropout: the model has no such setting; leave it out")
        config.update(dict.fromkeys(known, attention_dropout))


def for_reviews(tokenizer):
    """The tokenizer, which now reads HTML breaks as spaces and truncates long texts on the left: a
    review's end tells more than its start (Sun et al. 2019).
    """
    backend = tokenizer.backend_tokenizer
    is_token = any("<br" in token for token in tokenizer.get_added_vocab())
    if not is_token and HTML_BREAKS not in str(backend.normalizer):  # train.py's models have it
        steps = normalizers.Replace(Regex(HTML_BREAKS), " "), backend.normalizer
        backend.normalizer = normalizers.Sequence(list(filter(None, steps)))
    names = "model_input_names", "model_max_length", "padding_side", "add_prefix_space"
    kept = {name: getattr(tokenizer, name) for name in names} | tokenizer.special_tokens_map
    # BertTokenizer and others would rebuild their normalizer on loading.
    return PreTrainedTokenizerFast(tokenizer_object=backend, truncation_side="left", **kept)


def agree(tokenizer, classifier):
    """Fit the tokenizer's limit to the model, and the model's padding to the tokenizer."""
    classifier.pad_token_id = tokenizer.pad_token_id  # for inference.passes
    if classifier.config.pad_token_id is None:  # GPT-2's head reads the last token before padding
        classifier.config.pad_token_id = tokenizer.pad_token_id
    if (positions := getattr(classifier.config, "max_position_embeddings", 0)) > 0:  # XLNet: -1
        modules = classifier.named_modules()
        tables = (module for name, module in modules if name.endswith("position_embeddings"))
        padding = getattr(next(tables, None), "padding_idx", None)
        # RoBERTa counts positions from behind the padding id.
        positions -= 0 if padding is None else padding + 1
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)


def truncate_at(requested, tokenizer):
    """Truncate at `requested` tokens, else at 512, or fewer if the model takes fewer. UserError."""
    longest = tokenizer.model_max_length
    if requested and requested > longest:
        raise UserError(f"--max_length {requested}: the model's limit is {longest} tokens")
    tokenizer.model_max_length = requested or min(512, longest)


def fingerprint(tokenizer, classifier):
    """SHA-256 of a model before training: weights, configuration, tokenizer."""
    config = classifier.config.to_diff_dict()
    config.pop("transformers_version", None)
    words = [config, tokenizer.backend_tokenizer.to_str()]
    digest = hashlib.sha256(json.dumps(words, default=str).encode())
    for parameter in classifier.parameters():
        digest.update(parameter.detach().numpy())
    return digest.hexdigest()


def save(folder, tokenizer, classifier):
    """Write both for from_pretrained; the weights come last. RunError, OSError: a full disk."""
    if type(tokenizer) is TokenizersBackend:  # AutoTokenizer's name for the same class
        tokenizer.__class__ = PreTrainedTokenizerFast
    with files.staging(Path(folder, "model")) as staged:
        classifier.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        mode = (staged / "config.json").stat().st_mode  # safetensors hides weights from others
        for path in sorted(staged.iterdir(), key=lambda path: path.suffix == ".safetensors"):
            path.chmod(mode)
            files.publish(path, Path(folder, path.name))
