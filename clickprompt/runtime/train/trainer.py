"""Ray Train's trainer with a failure policy that suits these runs."""

from typing import Any

from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from clickprompt.errors import ClickPromptError
from clickprompt.runtime.compat import DefaultFailurePolicy, PlacementGroupCleanerCallback

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


class Trainer(DataParallelTrainer):
    """Ray Train's trainer with this policy.

    ends_with_ray: whether the Ray that it runs on ends with this command, so that nothing is left to clean.
    """

    def __init__(self, *args: Any, ends_with_ray: bool, **options: Any):
        super().__init__(*args, **options)
        self._ends_with_ray = ends_with_ray

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        if self._ends_with_ray:
            # Its actor is one more process to wait for
            callbacks = [one for one in callbacks if not isinstance(one, PlacementGroupCleanerCallback)]
        return callbacks

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        config = self.run_config.failure_config
        assert config is not None
        return super()._initialize_and_run_controller(**{**options, "failure_policy": _Policy(config)})
