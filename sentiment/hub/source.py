"""Rows of a split, from a file, folder or the Hub. Raises UserError; OSError: disk full."""

import functools
import glob
import re
from contextlib import contextmanager
from pathlib import Path

import pandas
from huggingface_hub import DatasetCard, constants, is_offline_mode
from huggingface_hub.file_download import repo_folder_name

from sentiment.columns import SEPARATORS
from sentiment.errors import UserError
from sentiment.hub import access
from sentiment.labels import class_names

READERS = dict(csv="csv", tsv="csv", json="json", jsonl="json", ndjson="json", parquet="parquet")
KINDS = f".{', .'.join(READERS)}"
# train.csv, or a shard such as train-00000-of-00002.csv
NAME = rf"(.+?)(?:-(\d+)-of-(\d+)\b.*)?\.({'|'.join(READERS)})(?:\.gz)?"
UNLABELLED = "unsup"  # a folder of Stanford's aclImdb


def read(settings, split):
    """(datasets.Dataset; where it is, for messages; how it was read, or ""; commit on the Hub, or
    None), or None without such a split.

    settings: data.DEFAULTS and dataset_name.
    """
    found, name = splits(settings), settings.dataset_name
    content = found.get(split, found.get(split.lower()))
    if isinstance(content, Path):
        return read_class_folders(content) if content.is_dir() else read_files([content])
    if isinstance(content, list):
        parts = [re.fullmatch(NAME, file.name.lower()).groups() for file in content]
        total, kind = parts[0][2:]
        wanted = [(number, total, kind) for number in range(int(total or 1))]
        if sorted((int(part[1] or 0), *part[2:]) for part in parts) != wanted:
            files = ", ".join(file.name for file in content)
            raise UserError(f"{name}: {split} needs {len(wanted)} .{kind}, but there is {files}")
        return read_files(content)
    if content is None:
        return None
    cached = [] if Path(name).exists() else content.cache_files  # none if in memory
    commit = Path(cached[0]["filename"]).parent.name if cached else None
    return content, f"{name}, split {split}", "", commit


def splits(settings):
    """{split: its rows, a list of its files, its only file or its folder of classes}."""
    name, config = settings.dataset_name, settings.dataset_config_name
    revision, path = settings.dataset_revision, Path(name)
    if not path.exists():
        return from_hub(name, config, revision)
    if revision != "main":
        raise UserError(f"--dataset_revision {revision}: {name} is local")
    if config and not (path / config).is_dir():
        raise UserError(f"--dataset_config_name {config}: {name} has no such folder")
    path = path / (config or "")
    if path.is_file():
        return {settings.train_split_name: path}
    if any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        with reading(path) as datasets:
            saved = datasets.load_from_disk(path)
        return saved if isinstance(saved, dict) else {settings.train_split_name: saved}
    classes = [each for each in path.glob("*/[!.]*") if any(each.glob("*.txt"))]
    found = {each.parent.name.lower(): each.parent for each in classes}
    for files in (path.glob("data/*"), path.iterdir()):  # later ones win
        whole, shards = {}, {}
        for file in sorted(files):
            if match := re.fullmatch(NAME, file.name.lower()):
                kind = shards if match[2] else whole
                kind.setdefault(match[1], []).append(file)
        found |= shards | whole
    return found


def describe(settings):
    """For messages about a split that is missing."""
    found = ", ".join(splits(settings)) or "none"
    possible = f"; in a folder, they are SPLIT{KINDS} or SPLIT/CLASS/*.txt"
    return f"its splits: {found}{possible if Path(settings.dataset_name).exists() else ''}"


@functools.cache  # one call for each split
def from_hub(name, config, revision):
    """{split: datasets.Dataset}."""
    with reading(name) as datasets:

        def load(cached):
            if cached and revision != "main":
                raise ValueError("the library takes any revision")
            chosen = config
            if not config and (cached or is_offline_mode()):  # and any configuration
                chosen = cached_default(name)
            return datasets.load_dataset(name, chosen, revision=revision)

        return access.patiently(load, name)


def cached_default(name):
    """The default configuration by the cached card, or None. ValueError: it has others only."""
    from datasets.utils.metadata import MetadataConfigs

    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"))
    for card in folder.glob("snapshots/*/README.md"):
        configs = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
        if configs and not configs.get_default_config_name():
            raise ValueError(f"available: {list(configs)}")
        return configs.get_default_config_name()


def read_files(paths):
    """One file, or all shards. CSV fields stay strings, "NA" and "007" included."""
    path, options, note = paths[0], {}, ""
    match = re.fullmatch(NAME, path.name.lower())
    if not match:
        raise UserError(f"{path}: unknown file type; supported: {KINDS}; texts also with .gz")
    reader = READERS[match[4]]
    with reading(path) as datasets:
        if reader == "csv":
            head = functools.partial(pandas.read_csv, path, nrows=0)
            mark = max(SEPARATORS, key=lambda x: head(sep=x).shape[1])
            note = SEPARATORS[mark]
            spaces = any(head(sep=mark).columns.str.startswith(" "))  # after separators
            options = {"sep": mark, "skipinitialspace": spaces, "keep_default_na": False}
            # Types guessed from the first rows may not fit.
            options["converters"] = dict.fromkeys(head(**options), str)
        paths = [glob.escape(str(path)) for path in paths]
        rows = datasets.load_dataset(reader, data_files=paths, split="train", **options)
    if reader == "csv" and "__index_level_0__" in rows.column_names:
        way = "quote texts, or drop the last separator"
        raise UserError(f"{path}: rows have more fields than the header ({way})")
    return rows, str(path), note, None


def read_class_folders(folder):
    """FOLDER/pos/*.txt, FOLDER/neg/*.txt: each folder is a class, each file a text."""
    found = {file.parent.name for file in folder.glob("[!.]*/*.txt")}
    names, parts = class_names(found - {UNLABELLED}), []
    with reading(folder) as datasets:
        kind = datasets.ClassLabel(names=names)
        for label, name in enumerate(names):
            texts = glob.escape(str(folder / name)) + "/*.txt"
            part = datasets.load_dataset("text", data_files=texts, sample_by="document")["train"]
            parts.append(part.add_column("label", [label] * len(part), feature=kind))
        rows = datasets.concatenate_datasets(parts)
    note = f"{UNLABELLED} has no labels and is skipped" if UNLABELLED in found else ""
    return rows, str(folder), note, None


@contextmanager
def reading(name):
    """Yield the datasets library. Its errors in the block become a UserError."""
    import datasets  # after access.connect

    access.check_cache(datasets.config.HF_DATASETS_CACHE, "HF_DATASETS_CACHE")
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    try:
        yield datasets
    except UserError:
        raise
    except Exception as error:  # readers of many formats share no error type
        cause = error.__cause__ or error
        if isinstance(cause, MemoryError) or (type(cause) is OSError and cause.errno):
            raise cause from None  # a full disk, for example
        raise access.unavailable(name, cause) from error
