"""What Ray Train does about a failure, where that isn't what a run of ours needs."""

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from clickprompt.errors import ClickPromptError
from clickprompt.runtime.compat import DefaultFailurePolicy

__all__ = ["Trainer"]


class _Policy(DefaultFailurePolicy):
    """Ray's own, which counts restarts against max_failures; it takes none from outside, hence the overrides
    of what isn't public.
    """

    def _is_retryable_error(self, training_failed_error: TrainingFailedError) -> bool:
        if isinstance(training_failed_error, WorkerGroupError):
            # What was raised on purpose, for a person, would only be raised again
            failures = training_failed_error.worker_failures.values()
            return not any(isinstance(failure, ClickPromptError) for failure in failures)
        if isinstance(training_failed_error, ControllerError) and isinstance(
            training_failed_error.controller_failure, OSError
        ):
            # storage refused the controller's record of checkpoints: the checkpoints are there, so begin
            # again from them
            return True
        return super()._is_retryable_error(training_failed_error)


class Trainer(TorchTrainer):
    """A TorchTrainer with that policy."""

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        config = self.run_config.failure_config
        assert config is not None
        return super()._initialize_and_run_controller(**{**options, "failure_policy": _Policy(config)})
