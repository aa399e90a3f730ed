"""Attention over the prompts against a loop that masks, runs and adds up one row and field at a time."""

import numpy as np
import pytest
import torch

from clickprompt.config import replaced
from clickprompt.data.prepared.dataset import columns_of
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.model_table import open_model_table
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table import TokenTable
from clickprompt.errors import DataError
from clickprompt.evaluation.attention import AttentionSums, summarise_attention
from clickprompt.export.format import write_export
from clickprompt.models.build import build_model
from clickprompt.scoring.attention import PromptAttention, check_prompted
from clickprompt.training.engine import weights_of
from tests.support.tiny import CLICK_WORDS, tiny_config, write_both


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("attention")), more_words=CLICK_WORDS)
    config = tiny_config(
        dataset.uri,
        plm,
        plm__attn_implementation="eager",
        prompt__num_prompts=3,
        pretrain__micro_batch_size=5,
    )
    return dataset, plm, config


@pytest.fixture(scope="module")
def model(made):
    dataset, _, config = made
    built = build_model(config, layout_of(dataset), objective="pretrain").eval()
    for (
        name,
        parameter,
    ) in (
        built.named_parameters()
    ):  # prompts that differ from each other and between rows, attention that minds
        if name.startswith("prompt_projector") or ".query." in name or ".key." in name:
            parameter.data *= 10
    return built


def naive(model, dataset, table, rows):
    """A hook on the softmax: eager attention's weights, layer by layer, for each row alone."""
    columns, fields = columns_of(rows), len(dataset.columns)
    sums, counts = None, np.zeros(fields, int)
    for row in range(len(rows)):
        ids = np.array([[columns[column][row] for column in dataset.columns]])
        text, mask = table.assemble(ids)
        for field in range(fields):
            places = [place for place, of in enumerate(table.value_fields(ids)[0]) if of == field]
            masked = text.copy()
            masked[0, places] = table.mask_id
            seen = []
            softmax = torch.nn.functional.softmax

            def noting(*args, softmax=softmax, seen=seen, **kwargs):
                seen.append(softmax(*args, **kwargs))
                return seen[-1]

            with pytest.MonkeyPatch.context() as patch, torch.no_grad():
                patch.setattr(torch.nn.functional, "softmax", noting)
                prompts = model.prompt_projector(model.ctr.interaction_vector(torch.from_numpy(ids)))
                model.plm(torch.from_numpy(masked), torch.from_numpy(mask), prompts)
            assert len(seen) == 2
            weights = np.stack([of[0, :, places, :3].double().mean((0, 1)).numpy() for of in seen])  # [L, K]
            sums = np.zeros((fields, *weights.shape)) if sums is None else sums
            sums[field] += weights
            counts[field] += 1
    return AttentionSums(sums, counts)


def test_sums_are_those_of_a_naive_loop(made, model):
    dataset, plm, _ = made
    table = TokenTable.open(dataset, load_tokenizer(plm))
    rows = dataset.read_split("test").slice(0, 12)
    found = PromptAttention(model, dataset, table, batch_size=5).score(rows)
    expected = naive(model, dataset, table, rows)
    assert found.rows.tolist() == expected.rows.tolist() == [12] * 4
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-5)
    assert np.ptp(expected.weights[:, -1], axis=1).min() > 1e-3, (
        "prompts that are all alike would show nothing"
    )

    figures = summarise_attention(found, dataset.field_names)
    for number, name in enumerate(dataset.field_names):
        scores = expected.weights[number, -1] / expected.weights[number, -1].sum()
        assert figures[name]["scores"] == pytest.approx(scores.tolist(), rel=1e-5)
        assert figures[name]["on_prompts"] == pytest.approx(
            (expected.weights[number].sum(1) / 12).tolist(), rel=1e-5
        )


def write(folder, model, made, config, objective="pretrain"):
    dataset, plm, _ = made
    options = {
        "plm": model.plm and model.plm.config_dict(),
        "objective": objective,
        "config": config,
        "dataset": dataset,
    }
    write_export(
        folder,
        weights_of(model),
        tokenizer=load_tokenizer(plm),
        tokenizer_fingerprint=None,
        step=1,
        **options,
    )
    return folder


def test_of_an_export_that_was_trained_with_another_attention(made, model, tmp_path):
    dataset, plm, config = made
    export = write(
        str(tmp_path / "export"), model, made, replaced(config, {"plm.attn_implementation": "sdpa"})
    )
    check_prompted(export, dataset)
    rows = dataset.read_split("test").slice(0, 12)
    alone = PromptAttention(
        model, dataset, TokenTable.open(dataset, load_tokenizer(plm)), batch_size=5
    ).score(rows)
    np.testing.assert_array_equal(PromptAttention.load(export, dataset).score(rows).weights, alone.weights)


@pytest.mark.parametrize("objective", ["pretrain", "with_plm"])
def test_of_a_run_whose_text_ends_with_the_click(made, tmp_path, objective):
    dataset, plm, config = made
    config = replaced(config, {"plm.click_text": True})
    model = build_model(config, layout_of(dataset), objective=objective).eval()
    export = write(str(tmp_path / "export"), model, made, config, objective)
    rows, tokenizer = dataset.read_split("test").slice(0, 12), load_tokenizer(plm)
    found = PromptAttention.load(export, dataset).score(rows).weights
    for click in (True, False):
        table = open_model_table(dataset, tokenizer, replaced(config, {"plm.click_text": click}).plm)
        expected = PromptAttention(model, dataset, table, batch_size=5).score(rows).weights
        assert np.array_equal(found, expected) == click


@pytest.mark.parametrize(
    ("changes", "objective", "message"),
    [
        ({"prompt.num_prompts": 0}, "with_plm", "has no prompts to attend to"),
        ({"finetune.with_prompts": False}, "with_plm", "has no prompts to attend to"),
        ({}, "without_plm", "has no prompts to attend to"),
        ({"prompt.prompt_depth": "input"}, "with_plm", "prompt_depth=input"),
    ],
)
def test_what_has_no_prompts_to_attend_to_is_refused(made, tmp_path, changes, objective, message):
    dataset, _, config = made
    changed = replaced(config, changes)
    export = write(
        str(tmp_path / "export"),
        build_model(changed, layout_of(dataset), objective=objective),
        made,
        changed,
        objective,
    )
    with pytest.raises(DataError, match=message):
        check_prompted(export, dataset)
