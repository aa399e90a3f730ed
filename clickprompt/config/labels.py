"""Which labels a pretraining has read, and whether those that start from it may have them."""

from clickprompt.config.schema import Config
from clickprompt.errors import ConfigError

__all__ = ["check_labels"]


def check_labels(what: str, pretraining: Config, now: Config) -> None:
    """Check that the labels read by `pretraining` (plm.click_text) are among those that `now` may use. Drawn
    by the same seed, a share has all rows of a smaller one.

    Raises ConfigError, which begins with `what`, if they aren't.
    """
    read, usable = pretraining.finetune.label_share, now.finetune.label_share
    if not pretraining.plm.click_text or usable == 1 or (pretraining.seed == now.seed and read <= usable):
        return
    raise ConfigError(
        f"{what}: pretrained with plm.click_text on the clicks of finetune.label_share={read:g} of the rows, "
        f"drawn by seed={pretraining.seed}, and here only {usable:g}, drawn by seed={now.seed}, may be used; "
        "pretrain with this seed and at most this share, or with plm.click_text=false"
    )
