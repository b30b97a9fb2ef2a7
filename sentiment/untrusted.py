"""A model's folder that nobody vouches for, looked at before a library reads it. All of it raises UserError.

The libraries are told to run no code and to read no pickle. This is for what they would still do for a hostile folder:
run out of memory or time, follow a path out of it, ask a network.
"""

import json
import math
import os
import re

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForSequenceClassification

from sentiment.cli import UserError, first_line

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
JSON = {  # what is read besides the weights, and the most bytes of each
    "config.json": 2**20,
    "generation_config.json": 2**20,
    "tokenizer_config.json": 2**22,
    "special_tokens_map.json": 2**20,
    "added_tokens.json": 2**22,
    "tokenizer.json": 40 * 2**20,
    "vocab.json": 2**23,
    INDEX: 2**23,
}
FILES = [*JSON, WEIGHTS, "model-*-of-*.safetensors", "vocab.txt", "merges.txt", "adapter_config.json"]  # of the Hub
REFUSED = {  # files and folders
    "adapter_config.json": "an adapter leads to another model; merge it into its model and save that",
    "additional_chat_templates": "no model that classifies has chat templates",
}
ASKING = {  # settings for code, or for files that are elsewhere
    "auto_map": "code of its own, which is never run",
    "attn_implementation": "a kernel of its own, which is never run",
    "_attn_implementation": "a kernel of its own, which is never run",
    "experts_implementation": "a kernel of its own, which is never run",
    "quantization_config": "quantised weights, which cannot be trained or used here",
    "transformers_weights": f"weights under another name than {WEIGHTS}",
    "fast_tokenizer_files": "tokenizers under other names than tokenizer.json",
}
HARMLESS = (None, "eager", "sdpa")  # whatever the setting
MOST_MARKS = 4_000_000  # of lists, dictionaries and their items in a JSON file
MOST_CLASSES, LARGEST = 10_000, 2**24  # in config.json
HEADER = 10 * 2**20  # bytes of a safetensors file's


def check(name, folder):
    """Look at the files of `folder`; (tensors, their elements) in its weights. `name`: what the user calls it."""
    if not (folder / "config.json").exists():
        raise UserError(f"{name}: no model there (no config.json); train.py and save_pretrained write one")
    stay_inside(name, folder)
    for file, reason in REFUSED.items():
        if (folder / file).exists():
            raise UserError(f"{name}: {file}: {reason}")
    for file, most in JSON.items():
        content = read_json(name, folder / file, most) if (folder / file).exists() else {}
        for key, value in settings(content) if file.endswith("config.json") else ():
            if key in ASKING and value not in HARMLESS:
                raise UserError(f"{name}: {file}: {key} asks for {ASKING[key]}")
            too_large = isinstance(value, int) and value > (MOST_CLASSES if key == "num_labels" else LARGEST)
            if too_large and file == "config.json":
                raise UserError(f"{name}: {file}: {key} is {value:.6g}")
    return measure(name, folder)


def stay_inside(name, folder):
    """No file may be a link out of the folder, or such that reading waits. The Hub's cache links to its own blobs."""
    here = os.path.realpath(folder)
    roots = [here]
    if os.path.basename(os.path.dirname(here)) == "snapshots":
        roots.append(os.path.join(os.path.dirname(os.path.dirname(here)), "blobs"))
    for path in sorted(folder.iterdir()):
        if not path.is_dir() and os.path.dirname(os.path.realpath(path)) not in roots:
            raise UserError(f"{name}: {path.name} is a link that leaves the folder; put the file itself there")
        if path.exists() and not path.is_dir() and not path.is_file():
            raise UserError(f"{name}: {path.name} is no ordinary file")


def read_json(name, path, most):
    """The dictionary in a JSON file of at most `most` bytes."""
    size = path.stat().st_size
    content = path.read_bytes() if size <= most else b""
    if size > most or sum(map(content.count, (b"[", b"{", b","))) > MOST_MARKS:
        raise UserError(f"{name}: {path.name} is far larger than that of any model ({size:,} bytes)")
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: {path.name} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{name}: {path.name} is no JSON object")
    return value


def settings(value):
    """Every (key, value) of nested dictionaries."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value.items()
            left += value.values()
        elif isinstance(value, list):
            left += value


def measure(name, folder):
    """(tensors, their elements) in the weights, by the files' headers."""
    files = [WEIGHTS]
    if (folder / INDEX).exists():
        index = read_json(name, folder / INDEX, JSON[INDEX])
        shards = index["weight_map"].values() if isinstance(index.get("weight_map"), dict) else []
        wrong = [shard for shard in shards if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", str(shard))]
        if wrong or not shards:
            raise UserError(f"{name}: {INDEX} names {wrong[:1]}; names of .safetensors files in the folder are needed")
        files = [WEIGHTS] if (folder / WEIGHTS).exists() else sorted(set(shards))
    tensors = elements = 0
    for file in files:
        if not (folder / file).is_file():
            raise UserError(f"{name}: no {file} in it; weights must be safetensors, pickled ones are never read")
        with open(folder / file, "rb") as opened:
            header, size = int.from_bytes(opened.read(8), "little"), os.fstat(opened.fileno()).st_size
        if header > min(HEADER, size - 8):
            raise UserError(f"{name}: {file} is torn or no safetensors file: {size:,} bytes, a header of {header:,}")
        try:
            with safe_open(folder / file, "pt") as opened:
                shapes = [opened.get_slice(key).get_shape() for key in opened.keys()]  # noqa: SIM118 (no dictionary)
        except SafetensorError as error:
            raise UserError(f"{name}: {file} is torn or no safetensors file: {first_line(error)}") from error
        tensors += len(shapes)
        elements += sum(map(math.prod, shapes))
    return tensors, elements


def check_size(name, config, tensors, elements):
    """Build the classifier of `config` without memory for its parameters; stop where it outgrows the weights by far."""
    seen = {"tensors": 0, "elements": 0}

    def count(module, key, parameter):
        if parameter is not None:
            seen["tensors"] += 1
            seen["elements"] += parameter.numel()
        if seen["tensors"] > 2 * tensors + 100 or seen["elements"] > 2 * elements + 10**6:
            raise UserError(f"{name}: config.json asks for a far larger model than the {elements:,} weights there are")

    hook = torch.nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    finally:
        hook.remove()
