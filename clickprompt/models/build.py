"""Build the model that an objective trains: ClickPrompt, or a baseline in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from clickprompt.config import PRETRAINING, Config, Layout, ObjectiveName, tasks_of
from clickprompt.config.sampling import shift_of_sample
from clickprompt.models.baselines import get_baseline
from clickprompt.models.clickprompt import ClickPrompt
from clickprompt.models.ctr import CTRModel
from clickprompt.models.divided import Division
from clickprompt.models.id_heads import ReplacedHead, RestoringHead
from clickprompt.models.layers import ALL_ROWS

if TYPE_CHECKING:
    from clickprompt.models.plm import PromptedPLM

__all__ = ["build_model"]


def build_model(
    config: Config,
    layout: Layout,
    *,
    objective: ObjectiveName,
    plm_config: dict[str, Any] | None = None,
    table_rows: slice = ALL_ROWS,
    text_size: int | None = None,
    division: Division | None = None,
) -> ClickPrompt:
    """Build the model that one objective trains, without parameters that would get no gradient.

    Pretraining has no prediction layer and no click head (and without prompts no CTR tower), finetuning has
    no LM head (with plm.click_text and in P5: no click head), Eq. 10 has no PLM. If the PLM's learning rate
    is 0, it is frozen. The weights depend on config.seed alone (those of the CTR tower whether or not there
    is a PLM), so every process gets the same; torch's random state is left as it was.

    layout: all kinds of columns of the rows that it reads. Given vectors are read as ctr.vectors says, in
    finetuning further labels are learned as ctr.tasks says, and where only a share of the rows without a
    click was kept, the model's logits are those of all rows.
    plm_config: from PromptedPLM.config_dict. It builds an untrained PLM of that architecture in place of
    plm.path: for an export, whose tensors are loaded next.
    table_rows: those of the CTR tower's tables that the model has (PackedEmbedding).
    text_size: of the vectors that the CTR tower reads of the values' texts, if a training is to read them; an
    export never does (text_projection.py).
    division: a context in which the PLM of plm.path is divided among the workers as it is built (ZeRO 3).

    With `baseline`, the model is that one's.

    Raises ConfigError.
    """
    pretrain = objective in PRETRAINING
    baseline = get_baseline(config.baseline)
    tasks = () if pretrain else tasks_of(config, layout.labels)
    prompt = config.prompt
    if not pretrain and not config.finetune.with_prompts:
        prompt = prompt.model_copy(update={"num_prompts": 0})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        ctr = (
            CTRModel(
                layout.field_sizes,
                config.ctr,
                prediction=not pretrain,
                table_rows=table_rows,
                text_size=text_size,
                history=layout.history,
                multi=layout.multi,
                numbers=layout.numbers,
                tasks=len(tasks),
                vectors=layout.vectors() if config.ctr.vectors != "none" else None,
            )
            if (baseline is None and (prompt.num_prompts or not pretrain or config.pretrain.reads_ids))
            or (baseline is not None and baseline.has_ctr)
            else None
        )
        torch.default_generator.manual_seed(config.seed + 1)
        if objective == "without_plm":
            return _shifted(ClickPrompt(ctr, None, 0, tasks=tasks), layout.keep_negatives)
        if objective == "pretrain_ids":
            assert ctr is not None
            return ClickPrompt(ctr, None, 0, id_head=_id_head(ctr, len(layout.field_sizes), config))
        # transformers' models take seconds to import
        from clickprompt.models.plm_loading import load_plm, plm_from_config

        answers = config.plm.click_text or (baseline is not None and baseline.answers_in_words)
        lm_head = (pretrain and (baseline is None or baseline.reads_masks)) or answers
        if plm_config is None:
            plm = load_plm(config.plm, prompt, lm_head=lm_head, division=division)
        else:
            plm = plm_from_config(plm_config, config.plm, prompt, lm_head=lm_head)
        torch.default_generator.manual_seed(config.seed + 2)
        if baseline is not None:
            model = baseline(plm, config, pretrain=pretrain, ctr=ctr)
        else:
            model = ClickPrompt(
                ctr,
                plm,
                prompt.num_prompts,
                pooling=config.plm.pooling,
                click_head=not pretrain,
                click_text=config.plm.click_text,
                id_head=_id_head(ctr, len(layout.field_sizes), config) if pretrain else None,
                text_id_head=_text_id_head(ctr, plm, len(layout.field_sizes), config) if pretrain else None,
                tasks=tasks,
            )
    if (config.pretrain if pretrain else config.finetune).lr.plm == 0:
        plm.freeze()
    return _shifted(model, layout.keep_negatives)


def _shifted(model: ClickPrompt, keep_negatives: float | None) -> ClickPrompt:
    model.logit_shift = shift_of_sample(keep_negatives)
    return model


def _id_head(ctr: CTRModel | None, num_fields: int, config: Config) -> nn.Module | None:
    """Build the head of pretrain.id_objective. Its weights depend on config.seed alone, as all others."""
    if config.pretrain.id_objective == "none":
        return None
    assert ctr is not None
    torch.default_generator.manual_seed(config.seed + 3)
    if config.pretrain.id_objective == "replaced":
        return ReplacedHead(ctr.interaction_dim, num_fields)
    return RestoringHead(ctr.interaction_dim, num_fields, ctr.embedding.weight.shape[1])


def _text_id_head(
    ctr: CTRModel | None, plm: PromptedPLM, num_fields: int, config: Config
) -> nn.Module | None:
    if not config.pretrain.text_id_weight:
        return None
    assert ctr is not None
    torch.default_generator.manual_seed(config.seed + 4)
    return RestoringHead(plm.hidden_size, num_fields, ctr.embedding.weight.shape[1])
