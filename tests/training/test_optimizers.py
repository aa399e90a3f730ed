import pytest

from clickprompt.config import load_config
from clickprompt.models.backbones import BACKBONES
from clickprompt.models.clickprompt import build_model
from clickprompt.models.parameter_groups import parameter_groups

SIZES = [50, 40]


@pytest.mark.parametrize("decay_embeddings", [True, False])
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_tables_decay_only_where_asked_and_vectors_never(backbone, decay_embeddings):
    config = load_config(
        None,
        [f"ctr.backbone={backbone}", f"finetune.decay_embeddings={decay_embeddings}", "ctr.embedding_dim=4"],
    )
    model = build_model(config, SIZES, objective="without_plm")
    groups = parameter_groups(model, config.finetune)
    decays = {id(parameter): group["weight_decay"] > 0 for group in groups for parameter in group["params"]}
    assert len(decays) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        table = parameter.shape[0] == sum(SIZES)
        assert decays[id(parameter)] == (parameter.ndim > 1 and (decay_embeddings or not table)), name
