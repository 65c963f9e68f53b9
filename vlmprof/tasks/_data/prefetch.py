"""Pictures decoded ahead of the model, by processes of their own.

A worker is a plain child process that is told one picture at a time on its standard input, decodes it into the cache
(``tasks._data.cache``) and says so. The cache is the way back too: no pixels go through a pipe. A worker ends when its
input closes, so none outlives the process that started it, however that one ends; it inherits nothing of a GPU, of Ray
or of torch. At most ``WINDOW`` pictures are decoded before they are wanted.

While latency is timed no worker runs: a decoder beside the clock would be measured too.
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
"""Pictures ahead of what was asked for: several of the largest batches."""
COMMAND = (sys.executable, "-m", "vlmprof.tasks._data.decoder")


@final
class PicturePrefetcher:
    """Decodes pictures in the order they will be wanted in; a context manager that leaves no process behind."""

    def __init__(self, pictures: Sequence[Picture], workers: int) -> None:
        """Nothing starts before the context is entered.

        Args:
            pictures: In the order in which they will be wanted. Those that lie in no file are nobody's work.
            workers: Processes; 0 decodes when a picture is opened, in this process.
        """
        stored = [picture.load for picture in pictures if isinstance(picture.load, StoredPicture)]
        cache = PixelCache.default()
        self._jobs = [one for one in dict.fromkeys(stored) if one.key not in cache] if workers else []
        self._place = {one.key: place for place, one in enumerate(self._jobs)}
        self._workers = min(workers, len(self._jobs))
        self._processes: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._next = self._wanted = 0
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
            process.kill()  # what it was writing has another name until it is whole
            process.wait()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            self._close(process)

    def wait(self, pictures: Iterable[Picture]) -> None:
        """Until the workers are through with these pictures, well or not: opening one says which."""
        keys = [picture.load.key for picture in pictures if isinstance(picture.load, StoredPicture)]
        places = [self._place[key] for key in keys if key in self._place]
        with self._changed:
            self._wanted = max([self._wanted, *(place + 1 for place in places)])
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(key in self._done for key in keys if key in self._place))

    def _serve(self, process: subprocess.Popen[str]) -> None:
        """Hand out pictures to one worker until there are no more, or it is gone."""
        assert process.stdin is not None and process.stdout is not None
        while (job := self._take()) is not None:
            try:
                process.stdin.write(json.dumps(job.as_dict()) + "\n")
                process.stdin.flush()
                process.stdout.readline()
            except (OSError, ValueError):
                pass  # the worker was ended: whoever opens the picture decodes it
            with self._changed:
                self._done.add(job.key)
                self._changed.notify_all()

    @staticmethod
    def _close(process: subprocess.Popen[str]) -> None:
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what was not sent to a worker that is gone
                if pipe is not None:
                    pipe.close()

    def _take(self) -> StoredPicture | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._next < self._wanted + WINDOW)
            if self._ended or self._next >= len(self._jobs):
                return None
            self._next += 1
            return self._jobs[self._next - 1]
