"""Prefetching: pictures are decoded by worker processes before the model needs them.

A worker is a plain child process. It receives one picture at a time on its standard input, decodes it into the cache
(``tasks._data.cache``) and confirms on its standard output. The pixels are passed through the cache and not through a
pipe. A worker ends when its input closes, so it never outlives the process that started it, even if that one crashes;
it inherits no state of a GPU, of Ray or of torch. At most ``WINDOW`` pictures are decoded ahead of demand.

No worker runs while latency is timed: its CPU load would distort the measurement.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import final

from vlmprof.records import Picture
from vlmprof.tasks._data.cache import PixelCache
from vlmprof.tasks._data.pictures import StoredPicture

WINDOW = 256
"""Maximum number of pictures decoded ahead of demand: several of the largest batches."""
COMMAND = (sys.executable, "-m", "vlmprof.tasks._data.decoder")


@final
class PicturePrefetcher:
    """Decodes pictures in the order of their use; a context manager that ends all its processes on exit."""

    def __init__(self, pictures: Sequence[Picture], workers: int) -> None:
        """Processes start when the context is entered.

        Args:
            pictures: In the order of their use. Pictures that are not stored in files are skipped.
            workers: Number of processes; with 0, pictures are decoded in this process when they are opened.
        """
        stored = [picture.load for picture in pictures if isinstance(picture.load, StoredPicture)]
        cache = PixelCache.default()
        self._jobs = [picture for picture in dict.fromkeys(stored) if picture.key not in cache] if workers else []
        self._positions = {picture.key: position for position, picture in enumerate(self._jobs)}
        self._workers = min(workers, len(self._jobs))
        self._processes: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._next = self._requested = 0
        self._done: set[str] = set()
        self._ended = False

    def __enter__(self) -> PicturePrefetcher:
        for _ in range(self._workers):
            process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._processes.append(process)
            thread = threading.Thread(target=self._serve, args=(process,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for process in self._processes:
            process.kill()  # safe: an unfinished file still has its temporary name
            process.wait()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            self._close(process)

    def wait(self, pictures: Iterable[Picture]) -> None:
        """Block until the workers have processed these pictures; opening a failed one raises its error."""
        keys = [picture.load.key for picture in pictures if isinstance(picture.load, StoredPicture)]
        positions = [self._positions[key] for key in keys if key in self._positions]
        with self._changed:
            self._requested = max([self._requested, *(position + 1 for position in positions)])
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(key in self._done for key in keys if key in self._positions))

    def _serve(self, process: subprocess.Popen[str]) -> None:
        """Send pictures to one worker until none remain or the prefetcher is closed."""
        assert process.stdin is not None and process.stdout is not None
        while (job := self._take()) is not None:
            try:
                process.stdin.write(json.dumps(job.as_dict()) + "\n")
                process.stdin.flush()
                process.stdout.readline()
            except (OSError, ValueError):
                pass  # the worker has ended: the picture is decoded when it is opened
            with self._changed:
                self._done.add(job.key)
                self._changed.notify_all()

    @staticmethod
    def _close(process: subprocess.Popen[str]) -> None:
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # unsent data for a worker that has ended
                if pipe is not None:
                    pipe.close()

    def _take(self) -> StoredPicture | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._next < self._requested + WINDOW)
            if self._ended or self._next >= len(self._jobs):
                return None
            self._next += 1
            return self._jobs[self._next - 1]
