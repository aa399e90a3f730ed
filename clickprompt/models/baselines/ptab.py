"""PTab (Liu et al. 2022, "PTab: Using the Pre-trained Language Model for Modeling Tabular Data")."""

from clickprompt.models.baselines.baseline import Baseline

__all__ = ["PTab"]


class PTab(Baseline):
    """Pretraining: masked language modelling of the rows' texts. Finetuning: ŷ = σ(MLP(pool(PLM(x^text)))).

    The first is §3.5.1 without prompts; the MLP is that of Eq. 8, as wide as the PLM.
    """

    name = "ptab"
    stages = ("pretrain", "finetune")
