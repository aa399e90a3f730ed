"""Upload a worker's checkpoints to storage while training goes on."""

import contextlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from clickprompt.io import storage
from clickprompt.runtime.train.host import Store
from clickprompt.training.checkpoint import CheckpointWriter, checkpoint_name

__all__ = ["Uploads"]


class Uploads:
    """One upload at a time, in a thread of the store's.

    Ray waits for running uploads when a worker ends. It doesn't hold the next upload back until the last one
    is over, and it doesn't retry one that storage refused; both are done here.
    """

    def __init__(
        self, run: str, keep_every: int | None, scratch: str, writer: CheckpointWriter, store: Store
    ):
        self.scratch = scratch
        self.writer = writer
        self._run = run
        self._keep_every = keep_every
        self._store = store
        self._current: Future[None] | None = None

    def __enter__(self) -> "Uploads":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the upload; what was saved must arrive even if training has failed."""
        with contextlib.nullcontext() if error is None else contextlib.suppress(Exception):
            self.wait()

    def start(
        self, folder: str, step: int, metrics: dict[str, Any], before: Callable[[], None] | None
    ) -> None:
        """Take over the files of `folder` and begin to upload them, after calling `before`.

        Every worker calls this. When it returns, the previous checkpoint is complete in storage.
        """
        self.wait()
        name = checkpoint_name(step)
        own = None
        if os.listdir(folder):
            own = os.path.join(self.scratch, name)
            os.rename(folder, own)
            self._current = Future()
        self._store.hand_over(
            metrics, own, name, lambda copy: self._upload(copy, str(own), name, step, before)
        )

    def wait(self) -> None:
        """Wait until the current upload is in storage; raise the error if it failed."""
        if self._current is not None:
            self._current.result()

    def _upload(
        self, copy: Callable[[], Any], local: str, name: str, step: int, before: Callable[[], None] | None
    ) -> Any:
        assert self._current is not None
        # Ray calls again after an error whose text looks like a passing one of AWS's
        if self._current.done():
            self._current.result()
        try:
            # The checkpoint comes last: if it is complete, the rest is too
            if before is not None:
                before()
            if self._keep_every and step % self._keep_every == 0:
                storage.patiently(lambda: storage.copy_tree(local, storage.join(self._run, "kept", name)))
            persisted = self.writer.upload(
                lambda: storage.patiently(copy), local, storage.join(self._run, "checkpoints", name)
            )
            shutil.rmtree(local)
        except BaseException as error:
            self._current.set_exception(error)
            raise
        self._current.set_result(None)
        return persisted
