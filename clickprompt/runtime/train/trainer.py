"""Ray Train's trainer with a failure policy that suits these runs."""

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from clickprompt.errors import ClickPromptError
from clickprompt.runtime.compat import DefaultFailurePolicy

__all__ = ["Trainer"]


class _Policy(DefaultFailurePolicy):
    """Ray's own policy, which counts restarts against max_failures, with exceptions.

    Ray accepts no policy from outside, so methods that aren't public are overridden.
    """

    def _is_retryable_error(self, training_failed_error: TrainingFailedError) -> bool:
        if isinstance(training_failed_error, WorkerGroupError):
            # An error meant for the user would only be raised again
            failures = training_failed_error.worker_failures.values()
            return not any(isinstance(failure, ClickPromptError) for failure in failures)
        if isinstance(training_failed_error, ControllerError) and isinstance(
            training_failed_error.controller_failure, OSError
        ):
            # Storage refused the controller's record of checkpoints. The checkpoints themselves are there,
            # so the run starts again from them
            return True
        return super()._is_retryable_error(training_failed_error)


class Trainer(TorchTrainer):
    """A TorchTrainer with this policy."""

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        config = self.run_config.failure_config
        assert config is not None
        return super()._initialize_and_run_controller(**{**options, "failure_policy": _Policy(config)})
