"""The peak memory of processes."""

import threading
from typing import Self

import psutil

_EVERY = 0.05  # seconds between two reads


class PeakMemory:
    """Samples processes during the block. `most` is the highest resident size of any of them, in bytes."""

    def __init__(self) -> None:
        self.most = 0
        self._watched: list[psutil.Process] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def watch(self, pid: int) -> None:
        """Sample this process, too, until it ends."""
        self._watched.append(psutil.Process(pid))

    def _look(self) -> None:
        while not self._done.wait(_EVERY):
            for process in list(self._watched):
                try:
                    self.most = max(self.most, process.memory_info().rss)
                except psutil.NoSuchProcess:
                    self._watched.remove(process)
