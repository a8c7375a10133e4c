"""Runs pipelines: datatrove's executors, local or Ray, with tasks that survive killed workers."""

import contextlib
import io
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, Final

import dill
from datatrove.executor import LocalPipelineExecutor
from datatrove.io import get_datafolder

_MAX_ATTEMPTS: Final = 4
_RAY_GB: Final = 1.0  # of memory, reserved for a task


class CorpusError(Exception):
    """A corpus cannot be processed."""


class LocalExecutor(LocalPipelineExecutor):  # type: ignore[misc]
    """datatrove's local executor on a pool that notices killed workers.

    datatrove's own waits forever for the task of a killed worker. Tasks of a broken pool are begun
    anew, those that were completed are not.
    """

    def run(self) -> None:
        """Run the tasks that are not completed.

        Raises:
            CorpusError: workers were killed again and again.
        """
        self.save_executor_as_json()
        pickled = dill.dumps(self)
        for _ in range(_MAX_ATTEMPTS):
            ranks = self.get_incomplete_ranks()
            if not ranks:
                return
            context = get_context("forkserver")
            context.set_forkserver_preload(["dedup.corpus.jobs"])  # imported once, not by each task
            try:
                num_workers = min(self.workers, len(ranks))
                with ProcessPoolExecutor(num_workers, context, _end_with_parent) as pool:
                    tasks = [pool.submit(_run_rank, pickled, rank) for rank in ranks]
                    for task in as_completed(tasks):
                        task.result()
            except BrokenProcessPool:
                continue
        raise CorpusError(
            "workers were killed (out of memory?): run the same command to go on;"
            ' a script of your own needs if __name__ == "__main__"'
        )


def _end_with_parent() -> None:
    """End this worker as soon as its parent has ended, so that none writes into a resumed run."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_rank(pickled: bytes, rank: int) -> None:
    """Run a task. It logs to its file; the error that ends it is raised here."""
    with contextlib.redirect_stderr(io.StringIO()):
        dill.loads(pickled)._run_for_rank(rank, local_rank=1)  # noqa: S301 - our own


def run_pipeline(
    steps: Sequence[Any],
    tasks: int,
    folder: str,
    *,
    workers: int = 1,
    ray_address: str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Run a pipeline's tasks, but for those completed in an earlier run.

    Args:
        steps: the pipeline.
        tasks: number of tasks.
        folder: folder of completions and logs; of a Ray cluster, one that all nodes share.
        workers: tasks at a time.
        ray_address: address of a Ray cluster; by default this machine.
        on_progress: called with the number of completed tasks, as they complete.

    Raises:
        CorpusError: a task failed.
    """
    if ray_address is None:
        executor: Any = LocalExecutor(list(steps), tasks=tasks, workers=workers, logging_dir=folder)
    else:
        executor = _ray_executor(steps, tasks, folder, workers, ray_address)
    with _Watch(folder, on_progress):
        try:
            executor.run()
        except CorpusError:
            raise
        except Exception as error:
            raise CorpusError(
                f"a task failed: {str(error) or repr(error)} (logs: {folder}/logs)"
            ) from error
    if missing := executor.get_incomplete_ranks():
        raise CorpusError(f"{len(missing)} of {tasks} tasks did not complete (logs: {folder}/logs)")


def _ray_executor(steps: Sequence[Any], tasks: int, folder: str, workers: int, address: str) -> Any:
    """Return datatrove's executor on a Ray cluster.

    Raises:
        CorpusError: Ray is missing, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise CorpusError("--ray needs Ray: pip install ray") from None
    from datatrove.executor.ray import RayPipelineExecutor

    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise CorpusError(f"no Ray cluster at {address}: {error}") from None
    return RayPipelineExecutor(
        list(steps), tasks=tasks, workers=workers, logging_dir=folder, mem_per_cpu_gb=_RAY_GB
    )


class _Watch:
    """Calls a function with the number of completed tasks, once a second."""

    def __init__(self, folder: str, on_progress: Callable[[int], None] | None) -> None:
        self._folder = get_datafolder(folder)
        self._on_progress = on_progress
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        if self._on_progress:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._on_progress:
            self._thread.join()
            self._report()

    def _watch(self) -> None:
        while not self._ended.wait(1):
            self._report()

    def _report(self) -> None:
        assert self._on_progress
        folder = self._folder
        done = len(folder.list_files("completions")) if folder.isdir("completions") else 0
        self._on_progress(done)


def begin(folder: str, options: dict[str, Any]) -> Any:
    """Return the datatrove folder of a run, new or to be resumed.

    Raises:
        CorpusError: it holds a run with other options.
    """
    data_folder = get_datafolder(folder)
    if data_folder.isfile("options.json"):
        with data_folder.open("options.json", "rt") as file:
            earlier = json.load(file)
        if earlier != json.loads(json.dumps(options)):
            changed = sorted(key for key in options if earlier.get(key) != options[key])
            raise CorpusError(
                f"{folder} holds a run with other options ({', '.join(changed)}):"
                " name another output, or remove it"
            )
    else:
        with data_folder.open("options.json", "wt") as file:
            json.dump(options, file)
    return data_folder


def default_workers() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
