"""run.json: what the result of a run depends on."""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch.utils import collect_env

from sentiment import files
from sentiment.errors import UserError

LIBRARIES = ("torch", "accelerate", "transformers", "datasets", "huggingface_hub", "scikit-learn")
# A resumed run may change these; it is then not bit-identical.
FREE = {"output_dir", "overwrite_output_dir", "resume", "checkpointing_steps", "revision"}
FREE |= {"max_tokens_per_device", "report_to", "ddp_timeout"}


def command():
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def git_commit():
    """Of this checkout, with "-dirty" after changes; None without git."""
    if not shutil.which("git"):
        return None
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = Path(__file__).parent
    return subprocess.run(describe, cwd=here, capture_output=True, text=True).stdout.strip() or None


def versions():
    result = {"python": platform.python_version()}
    result |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    if torch.cuda.is_available():
        result |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        result["driver"] = collect_env.get_nvidia_driver_version(collect_env.run)
    return result


def differences(now, was):
    """For example ["seed 2 (was 1)"]."""
    return [f"{x} {now[x]} (was {was.get(x)})" for x in now if now[x] != was.get(x)]


@dataclass
class Run:
    """The content of run.json."""

    settings: dict  # train.py's flags, defaults filled in
    labels: list  # names of the classes by id
    reviews: dict  # {"train": ..., "eval": ...} by data.Reviews.identity
    commits: dict  # {"model": ..., "dataset": ...}, None for files
    model_sha256: str  # model.fingerprint before training
    device: str
    processes: int
    threads: int
    precision: str
    command: list = field(default_factory=command)
    directory: str = field(default_factory=os.getcwd)  # where train.py ran
    git_commit: str | None = field(default_factory=git_commit)
    versions: dict = field(default_factory=versions)
    platform: str = field(default_factory=platform.platform)
    seconds: float | None = None  # of all steps, in the end
    history: list = field(default_factory=list)  # the epochs' scores on validation

    @classmethod
    def read(cls, folder):
        """The run in a folder, or None. Raises UserError for a damaged run.json."""
        content = files.read_json(folder / "run.json")
        if content is None:
            return None
        try:
            content = {"history": [], "directory": ""} | content  # none in older versions
            run = cls(**{each.name: content[each.name] for each in fields(cls)})
            run.check_types()
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
            raise UserError(f"{folder}: run.json is damaged, or its run unfinished") from None
        return run

    @property
    def folder(self):
        return Path(self.settings["output_dir"])

    @property
    def steps_per_epoch(self):
        return math.ceil(self.reviews["train"]["reviews"] / self.settings["train_batch_size"])

    @property
    def last_step(self):
        return self.settings["num_train_epochs"] * self.steps_per_epoch

    @property
    def best_epoch(self):
        """From 1, by --metric_for_best_model; of equals the earliest; 0 before the first."""
        best = min if self.settings["metric_for_best_model"] == "loss" else max
        return self.history.index(best(self.history)) + 1 if self.history else 0

    @property
    def kept_epoch(self):
        """The epoch whose weights are saved, from 1."""
        best = self.history and self.settings["load_best_model_at_end"]
        return self.best_epoch if best else len(self.history) or self.settings["num_train_epochs"]

    def check_types(self):
        """Raise unless what evaluate.py computes with has its type."""
        get, commits = self.settings.get, (self.commits["model"], self.commits["dataset"])
        names = "dataset_name", "model_name_or_path", "output_dir", "text_column", "label_column"
        splits = (get(f"{part}_split_name", "") for part in ("train", "validation", "test"))
        expected = {
            str: [*map(get, names), *splits, *self.labels, *self.command, self.directory],
            int: [*map(get, ("seed", "max_train_samples", "max_eval_samples")), self.kept_epoch],
            str | None: [*commits, get("dataset_config_name")],
            int | float: [self.seconds],
            dict: [self.versions, get("label_map", {})],
        }
        for each in (self.reviews["train"], self.reviews["eval"]):
            expected[str] += [each["split"], each["sha256"]]
            rows = [] if isinstance(each["rows"], str) else each["rows"]
            expected[int] += [*rows, each["reviews"]]
        typed = all(isinstance(value, kind) for kind in expected for value in expected[kind])
        if not typed or min(expected[int]) < 0:
            raise ValueError
        Path(self.directory, get("dataset_name")).resolve()  # ValueError for a null byte

    def write(self, folder):
        files.write_json(folder / "run.json", asdict(self))

    def identity(self):
        """What --resume must not change: settings, with digests of the data and the model."""
        settings = {name: value for name, value in self.settings.items() if name not in FREE}
        reviews = hashlib.sha256(json.dumps(self.reviews).encode()).hexdigest()
        settings |= {"dataset_name": reviews, "model_name_or_path": self.model_sha256}
        return {**settings, "mixed_precision": self.precision}

    def machine(self):
        """What else bit-identity depends on."""
        hardware = "device", "processes", "threads"
        return {name: getattr(self, name) for name in hardware} | self.versions

    def check_resumes(self, was):
        """Raise UserError unless this run may continue one with the identity `was`."""
        now, contents = self.identity(), ("dataset_name", "model_name_or_path")
        other = [name for name in contents if now.pop(name) != was.get(name)]
        other = [f"{name} {self.settings[name]} (contents differ)" for name in other]
        # Another seed, for example, explains other reviews by itself.
        if changed := differences(now, was) or other:
            differ = f"settings differ from the run's: {', '.join(changed)}"
            raise UserError(f"--resume: {differ}; use a new --output_dir")
