"""PTab (Liu et al. 2022, "PTab: Using the Pre-trained Language Model for Modeling Tabular Data")."""

from torch import Tensor

from clickprompt.models.baselines.baseline import Baseline

__all__ = ["PTab"]


class PTab(Baseline):
    """Pretraining: masked language modelling of the rows' texts. Finetuning: ŷ = σ(MLP(pool(PLM(x^text)))).

    The first is §3.5.1 without prompts; the MLP is that of Eq. 8, as wide as the PLM.
    """

    name = "ptab"
    stages = ("pretrain", "finetune")

    def tower_logits(
        self,
        field_ids: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        click_positions: Tensor | None = None,
        click_answers: Tensor | None = None,
    ) -> tuple[None, Tensor]:
        """Return (None, plm_logits [B]): there is no CTR tower; field_ids [B, F] aren't read."""
        assert click_positions is None, "the text ends with the click, which PTab doesn't read"
        assert click_answers is None
        assert input_ids is not None
        assert attention_mask is not None
        assert self.click_head is not None, "built without its click head"
        return None, self.click_head(self.pooled(input_ids, attention_mask))
