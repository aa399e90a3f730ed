"""What a sample of the rows without a click does to probabilities (`prepare --keep-negatives`)."""

import math

__all__ = ["shift_of_sample"]


def shift_of_sample(keep_negatives: float | None) -> float:
    """Return log w, which takes a logit from the sampled rows to all: with p = σ(s) among rows of which those
    without a click were kept at the rate w, σ(s + log w) = p / (p + (1 − p) / w) is the probability among all
    (He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook", §6.3). 0 without a sample.
    """
    return 0.0 if keep_negatives is None else math.log(keep_negatives)
