"""The collators of a run as a worker builds them: labels that finetuning may not use change nothing of
pretraining, and no text of finetuning has one.
"""

import numpy as np
import pytest
import torch

from clickprompt.config import replaced
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.data.text.template import load_tokenizer
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.worker import build_collator
from tests.support.tiny import CLICK_WORDS, tiny_config, write_both


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_labels_of_other_rows_are_never_read(tmp_path, stage):
    dataset, plm = write_both(str(tmp_path), more_words=CLICK_WORDS)
    config = tiny_config(dataset.uri, plm, plm__click_text=True, finetune__label_share=0.3, seed=7)
    collator = build_collator(check_training(config, stage), load_tokenizer(plm))
    columns = columns_of(dataset.read_split("train"))
    # Those of the finetuning that the same configuration describes
    finetuning = check_training(replaced(config, {"finetune.with_plm": False}), "finetune")
    usable = np.isin(columns["row_id"], finetuning.dataset.read_split("train")["row_id"])
    assert 0 < usable.sum() < len(usable)

    def text(flipped: np.ndarray) -> list[torch.Tensor]:
        labels = np.where(flipped, 1 - columns["label"], columns["label"])
        batch = collator(columns | {"label": labels}, epoch=3)
        if stage == "finetune":
            return [batch.input_ids]
        return [batch.input_ids, batch.masked_input_ids, batch.mlm_labels]

    own = text(np.zeros_like(usable))
    assert all(map(torch.equal, text(~usable), own))
    read = [(one != other).any(1).numpy() for one, other in zip(text(usable), own, strict=True)]
    assert (np.logical_or.reduce(read) == (usable if stage == "pretrain" else False)).all()
