"""Ends a job whose ranks wait for one that makes no progress, such as a paused one."""

import os
import sys
import time
from contextlib import contextmanager, suppress
from threading import Event, Thread

import numpy
from torch.distributed import PrefixStore, distributed_c10d

from sentiment import distributed
from sentiment.runtime.folder import write_status

POLLS = 60  # without progress, they make up --ddp_timeout


@contextmanager
def progress(accelerator, run, log):
    """Within the block, end this process once no rank has gone on for --ddp_timeout seconds."""
    over, ranks = Event(), list(map(str, range(accelerator.num_processes)))
    if len(ranks) == 1:
        yield
        return
    store = PrefixStore("watch", distributed_c10d._get_default_store())
    given = store, ranks, accelerator.process_index, run, log, over
    thread = Thread(target=watch, args=given, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)  # exiting within a store call aborts


def watch(store, ranks, rank, run, log, over):
    """Compare what the ranks have begun. Polls count, not time, which passes while all pause."""
    limit, polls, history = run.settings["ddp_timeout"], 0, []
    with suppress(RuntimeError):  # the store is gone: the main thread will notice
        store = store.clone()  # a connection of its own
        for each in ranks:  # multi_get waits for missing keys
            store.compare_set(each, "", "0 0 0")
        while len(history) <= POLLS:
            if over.wait(min(limit, 10**9) / POLLS):
                return
            polls += 1
            begun = *distributed.begun.values(), polls  # collectives, passes
            store.set(ranks[rank], " ".join(map(str, begun)))
            found = numpy.array([each.split() for each in store.multi_get(ranks)], int)
            same = history and (found == history[-1])[:, :2].all()
            history = [*history, found] if same else [found]
        paused = (found == history[POLLS // 2]).all(axis=1)
        behind = found[:, 0] < found[:, 0].max()  # those that wait have begun one collective more
        late = numpy.flatnonzero(paused if paused.any() else behind).tolist()
        if rank == min({*range(len(ranks))}.difference(late)):
            who = f"process {late[0]}" if late else "all processes"
            reason = f"{who} made no progress for {limit:g} s after step {log.at}"
            reason += "; see --ddp_timeout"
            print(f"train.py: error: {reason}", file=sys.stderr, flush=True)
            with suppress(OSError):  # a full disk
                write_status(run.folder, "failed", reason=reason)
        else:
            time.sleep(limit / 10)  # or that rank would report this exit
        os._exit(1)  # the main thread is blocked
