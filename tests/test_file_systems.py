"""File systems that cannot lock files or flush folders, and other unusual places."""

import errno
import os
import shutil
import sys

import pytest
import tiny

import train as train_script

FAILING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Preloaded: fails with the number in ERRNO for files in the folder UNDER. */
int flock(int file, int operation) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    const char *under = getenv("UNDER");
    if (length >= (ssize_t)strlen(under) && !strncmp(path, under, strlen(under))) {
        errno = atoi(getenv("ERRNO"));
        return -1;
    }
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(file, operation);
}

/* Preloaded: flushes no folder. */
int fsync(int file) {
    struct stat found;
    if (!fstat(file, &found) && S_ISDIR(found.st_mode)) {
        errno = EINVAL;
        return -1;
    }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}
"""
SHORT = {"num_train_epochs": 1, "mixed_precision": "no"}


@pytest.fixture(scope="module")
def train(tmp_path_factory, distilbert, reviews):
    """train(cache, output_dir, error, under): run train.py with an error from locks under a folder;
    no folder can be flushed.
    """
    compiler = shutil.which("cc")
    if not compiler:
        # Only a library that is preloaded makes system calls of other libraries fail.
        pytest.skip("no C compiler, to build a library that makes calls fail")
    folder = tmp_path_factory.mktemp("preloaded")
    (folder / "failing.c").write_text(FAILING)
    built = folder / "failing.so"
    argv = [compiler, "-shared", "-fPIC", "-o", built, folder / "failing.c", "-ldl"]
    done = tiny.process(*argv)
    assert done.returncode == 0, done.stderr

    def run(cache, output_dir, error, under):
        given = {"model_name_or_path": distilbert, "dataset_name": reviews, **SHORT}
        env = {"LD_PRELOAD": str(built), "ERRNO": str(error), "UNDER": str(under)}
        argv = tiny.flags(**given, output_dir=output_dir)
        return tiny.script("train", *argv, env={**env, "HF_HOME": str(cache)})

    return run


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_run_folder_without_locks_is_used_and_a_cache_is_refused(train, tmp_path, error):
    done = train(tmp_path / "cache", tmp_path / "run", error, under=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"{tmp_path / 'run'} has no locks: start no second run there\n"
    assert tiny.read(tmp_path / "run", "status.json")["status"] == "finished"

    done = train(tmp_path / "cache", tmp_path / "other", error, under=tmp_path / "cache")
    reason = f"the cache {tmp_path / 'cache' / 'datasets'} cannot be written or locked"
    way = "set HF_HOME to another folder"
    assert done.stderr == f"train.py: error: {reason} ({os.strerror(error)}); {way}\n"
    assert done.returncode == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_missing_home_is_one_line_that_names_hf_home(tmp_path, distilbert, reviews):
    """In a container, a user may have neither a name nor HOME."""
    given = {"model_name_or_path": distilbert, "dataset_name": reviews, **SHORT}
    argv = [sys.executable, "train.py", *tiny.flags(**given, output_dir=tmp_path / "run")]
    unset = ["env", *(word for name in ("HOME", "HF_HOME") for word in ("-u", name))]
    namespace = ["unshare", "--user", "--map-user=12345"]
    if tiny.process(*namespace, "true").returncode:
        # No other way to run as a user whom the system does not know, without root.
        pytest.skip("no user namespaces here, to run as a user without a name")
    done = tiny.process(*namespace, *unset, *argv)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "no home folder" in done.stderr
    assert "set HF_HOME" in done.stderr
    done = tiny.process(*namespace, *unset, f"HF_HOME={tmp_path / 'cache'}", *argv)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("flag", ["output_dir", "model_name_or_path", "dataset_name"])
def test_a_link_to_nothing_is_refused(tmp_path, distilbert, reviews, flag, refusal, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(tmp_path / "nowhere", "link")
    given = {"model_name_or_path": distilbert, "dataset_name": reviews, "output_dir": "run"}
    for place in ("link", "link/below") if flag == "output_dir" else ("link",):
        message = refusal(train_script.main, tiny.flags(**{**given, flag: place}))
        assert "link" in message
        assert "not a folder" in message or "no such file or folder" in message
    assert os.listdir() == ["link"]


@pytest.mark.parametrize("script", ["train", "evaluate", "predict"])
def test_no_folder_for_temporary_files_is_one_line(script):
    code = "import runpy, tempfile; tempfile._candidate_tempdir_list = list; "
    code += f"runpy.run_path('{script}.py', run_name='__main__')"
    done = tiny.process(sys.executable, "-c", code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("error: no folder for temporary files is writable; set TMPDIR to one\n")


@pytest.mark.slow
def test_folders_that_cannot_be_flushed_are_no_failure(train, tmp_path):
    done = train(tmp_path / "cache", tmp_path / "run", errno.ENOLCK, under=tmp_path / "elsewhere")
    assert (done.returncode, done.stderr) == (0, "")
    assert tiny.read(tmp_path / "run", "status.json")["status"] == "finished"


@pytest.mark.slow
def test_filelock_itself_replaces_locks_that_do_not_exist(train, tmp_path):
    done = train(tmp_path / "cache", tmp_path / "run", errno.ENOSYS, under=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tiny.read(tmp_path / "run", "status.json")["status"] == "finished"
