"""Distributed equals single: loss curves of workers of every engine and of one plain torch process on the
same rows, and exact resume.
"""

import os
import shutil
from dataclasses import replace

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from clickprompt.config import replaced
from clickprompt.data.prepared.dataset import Dataset, columns_of
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import DataError, RunError
from clickprompt.training import guards
from tests.support.chosen import some
from tests.support.engines import (
    ENGINES,
    LOWER,
    OBJECTIVE_NAMES,
    SMALL,
    STEPS,
    Case,
    Curves,
    build,
    distributed,
    losses_of,
    record,
)
from tests.support.tiny import tiny_config, write_both, write_plm


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    dataset, plm = write_both(str(folder))
    # Learning rates high enough that twenty steps move the loss, and another one for each group
    rates = {"pretrain__lr": "{ctr: 1e-2, projector: 2e-3, plm: 1e-3, heads: 5e-4}"}
    rates["finetune__lr"] = "{ctr: 1e-2, projector: 2e-3, plm: 1e-3, heads: 5e-3}"
    return tiny_config(dataset.uri, plm, finetune__validate_every=10, finetune__patience=99, **rates)


@pytest.fixture(scope="module")
def plain(config):
    losses = losses_of(config)
    assert len(losses) == STEPS
    assert losses[-1] < 0.95 * losses[0]
    return losses


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return {engine: str(tmp_path_factory.mktemp("kept") / engine) for engine in ENGINES}


# so strict, and the rates so high that norms jump, that many steps are dropped from the third on
SKIPPING = {
    "pretrain.skip_loss_spikes": 1.2,
    "pretrain.lr": {"ctr": 3e-2, "projector": 1e-2, "plm": 1e-2, "heads": 1e-2},
}


BY_DATASET = {"masking.vocabulary": "dataset"}
# with what follows, the tables move from the eighth step on
OPTIONS = {
    "finetune.lr": {"ctr": 1e-2, "tables": 3e-2, "projector": 2e-3, "plm": 1e-3, "heads": 5e-3},
    "finetune.tables_weight_decay": 0.3,
    "finetune.plm_weight_decay": 0.1,
    "finetune.plm_layer_decay": 0.5,
    "finetune.freeze_tables": 0.35,
}
OPTED = dict.fromkeys(("torch", "2", "3"), SMALL | OPTIONS)
OPTED |= {
    f"{engine}, lazy": OPTED[engine] | {"finetune.embedding_optimizer": "lazy"} for engine in ("torch", "2")
}


@pytest.fixture(scope="module")
def two_workers(config, kept):
    cases = {engine: Case(engine, changes=SMALL, until=5, keep=kept[engine]) for engine in ENGINES}
    cases |= {
        f"{engine}, on": Case(engine, changes=SMALL, resume=5, until=10, keep=kept[engine])
        for engine in ENGINES
    }
    cases |= {f"{engine}, skipping": Case(engine, changes=SKIPPING) for engine in ENGINES}
    for name, changes in OPTED.items():
        folder = f"{kept['torch']}, options, {name}"
        first = Case(name.split(",")[0], "with_plm", changes=changes, until=4, keep=folder)
        cases[f"{name}, options"] = first
        cases[f"{name}, options, on"] = replace(first, resume=4, until=12)
    cases["2, whole batches"] = Case("2", until=5)
    cases["3, recomputed"] = Case("3", changes={"plm.gradient_checkpointing": True}, until=5)
    cases |= {
        f"{engine}, dataset's tokens": Case(engine, changes={**SMALL, **BY_DATASET}, until=5)
        for engine in ("torch", "3")
    }
    chosen = {"plm.last_layer": "targets"}
    cases["3, last layer at targets"] = Case("3", changes={**SMALL, **chosen}, until=5)
    cases["2, the same recomputed"] = Case(
        "2", changes={"plm.gradient_checkpointing": True, **chosen}, until=5
    )
    cases["3, with_plm"] = Case("3", "with_plm", steps=10)
    return Curves(config, 2, cases)


@pytest.mark.parametrize("engine", some(ENGINES, "torch", "2", "3"))
def test_two_workers_equal_one_plain_process(two_workers, plain, engine):
    assert two_workers[engine] + two_workers[f"{engine}, on"] == pytest.approx(plain[:10], rel=1e-5)


@pytest.mark.parametrize("name", some(OPTED, "2, lazy"))
def test_rates_decays_and_frozen_tables_are_those_of_one_plain_process(two_workers, config, name):
    expected = losses_of(replaced(config, OPTIONS), objective="with_plm", until=12)
    found = two_workers[f"{name}, options"] + two_workers[f"{name}, options, on"]
    assert found == pytest.approx(expected, rel=1e-5)
    without = {**OPTIONS, "finetune.freeze_tables": 0.0}
    assert losses_of(replaced(config, without), objective="with_plm", until=12) != pytest.approx(
        expected, rel=1e-3
    )


@pytest.fixture(scope="module")
def plain_skipping(config):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guards, "_FIRST_STEPS", 2)
        return record(replaced(config, SKIPPING))


@pytest.mark.parametrize("engine", some(ENGINES, "torch", "3"))
def test_every_engine_has_the_same_gradient_norms_and_drops_the_same_steps(
    two_workers, plain_skipping, engine
):
    assert 3 <= len(plain_skipping.skipped) < STEPS - 3
    name = f"{engine}, skipping"
    assert two_workers[f"{name}: skipped"] == plain_skipping.skipped
    assert two_workers[f"{name}: norms"] == pytest.approx(plain_skipping.norms, rel=1e-4)
    assert two_workers[name] == pytest.approx(plain_skipping.losses, rel=1e-5)


@pytest.mark.parametrize(
    "case", ["2, whole batches", "3, recomputed", "3, last layer at targets", "2, the same recomputed"]
)
def test_micro_batches_recomputation_and_chosen_positions_change_nothing(two_workers, plain, case):
    assert two_workers[case] == pytest.approx(plain[: len(two_workers[case])], rel=1e-5)


@pytest.mark.parametrize("engine", ["torch", "3"])
def test_the_datasets_tokens_are_the_same_for_all_workers(two_workers, plain, config, engine):
    alone = losses_of(replaced(config, BY_DATASET), until=5)
    assert two_workers[f"{engine}, dataset's tokens"] == pytest.approx(alone, rel=1e-5)
    assert all(one < other - 0.01 for one, other in zip(alone, plain[:5], strict=True))


def test_finetuning_and_its_validation_with_divided_parameters(two_workers, config):
    assert two_workers["3, with_plm"] == pytest.approx(
        losses_of(config, objective="with_plm", steps=10), rel=1e-5
    )


@pytest.mark.parametrize("workers", some([2, 3], 2))  # three processes more take seconds to start
@pytest.mark.parametrize(
    "engines", [("torch", "2", "3"), pytest.param(("0", "1"), marks=pytest.mark.slow)], ids="-".join
)
def test_two_then_one_then_so_many_workers_equal_the_undisturbed_run(
    two_workers, config, plain, kept, tmp_path, engines, workers
):
    for engine in engines:
        two_workers[engine]
    for engine in engines:  # what one worker writes next would overwrite what the other tests began from
        shutil.copytree(kept[engine], tmp_path / engine)
    one = {engine: Case(engine, resume=5, until=15, keep=str(tmp_path / engine)) for engine in engines}
    ones = distributed(config, 1, one)
    parts = {"pretrain.micro_batch_size": 24 // workers}
    last = {engine: Case(engine, changes=parts, resume=15, keep=str(tmp_path / engine)) for engine in engines}
    lasts = distributed(config, workers, last)
    for engine in engines:
        assert ones[engine] + lasts[engine] == pytest.approx(plain[5:], rel=1e-5), engine


@pytest.mark.parametrize("engine", some(ENGINES, "torch", "3"))
def test_exported_weights_are_whole_and_those_of_the_checkpoint(two_workers, config, kept, engine):
    """Written by two workers, read by one plain process."""
    two_workers[f"{engine}, on"]
    _, _, _, _, plain_engine = build(config, "pretrain", "torch", 1)
    plain_engine.load(os.path.join(kept[engine], "10"))
    expected = load_file(os.path.join(kept[engine], "10-weights.safetensors"))
    found = plain_engine.weights()
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in found)


def test_another_model_than_the_saved_one_is_noticed(two_workers, config, kept, tmp_path):
    two_workers["3, on"]
    folder = shutil.copytree(kept["3"], tmp_path / "kept")
    options = {"keep": str(folder), "resume": 5, "until": 6}
    losses_of(config, **options)

    [first, second] = sorted(name for name in os.listdir(folder / "5") if name.startswith("state-"))
    with safe_open(folder / "5" / first, "pt") as source:
        tensors, metadata = {key: source.get_tensor(key) for key in source.keys()}, source.metadata()  # noqa: SIM118
    weight = next(
        name for name in tensors if name.startswith("weight|") and name.endswith("word_embeddings.weight")
    )
    save_file({**tensors, weight: tensors[weight] * 1.01}, folder / "5" / first, metadata)
    with pytest.raises(
        RunError, match=r"restored at step 5 has a loss of .* on the probe rows, the saved one had"
    ):
        losses_of(config, **options)
    save_file({name: tensors[name] for name in tensors if name != weight}, folder / "5" / first, metadata)
    with pytest.raises(
        DataError, match=r"has \d+ of the \d+ elements of plm.*word_embeddings.weight .*is of another model"
    ):
        losses_of(config, **options)
    os.remove(folder / "5" / second)
    with pytest.raises(DataError, match=r"state-00001.safetensors: can't be read .*delete this checkpoint"):
        losses_of(config, **options)

    wider = replaced(config, {"ctr.hidden_dim": 24})
    with pytest.raises(DataError, match="is of another model"):
        losses_of(wider, keep=kept["3"], resume=5)


@pytest.mark.parametrize(("micro_batch_size", "equal_in"), [(4, "rows"), (24, "rows"), (4, "tokens")])
@pytest.mark.sampled(2)
def test_loss_curve_does_not_depend_on_the_micro_batch(config, plain, micro_batch_size, equal_in):
    changed = replaced(
        config,
        {"pretrain.micro_batch_size": micro_batch_size, "pretrain.micro_batches_equal_in": equal_in},
    )
    assert losses_of(changed) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bart", "t5"])
@pytest.mark.sampled(1)
def test_next_token_and_denoising_losses_fall(config, tmp_path, family):
    plm = write_plm(str(tmp_path / family), family)
    build_token_table(Dataset.open(config.data.path), load_tokenizer(plm))  # T5 has a tokenizer of its own
    losses = losses_of(replaced(config, {"plm.path": plm}))
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_every_stage_number_of_workers_and_objective_equals_one_plain_process(config, tmp_path, num_workers):
    """Fifty steps; PA-MLM also with what ZeRO 3 might miss: other families, injections and depths,
    recomputation, a frozen PLM.
    """
    cases = {
        f"ZeRO {engine}, {objective}": Case(engine, objective, changes=SMALL, steps=50)
        for engine in ENGINES
        for objective in OBJECTIVE_NAMES
        if num_workers > 1 or engine != "torch"
    }
    if num_workers == 2:
        for family in ("gpt2", "bart"):
            plm = {"plm.path": write_plm(str(tmp_path / family), family)}
            cases |= {
                f"ZeRO 3, {family}, {objective}": Case("3", objective, changes={**SMALL, **plm})
                for objective in OBJECTIVE_NAMES[:2]
            }
        variants = {
            "key_value": {"prompt.prompt_injection": "key_value"},
            "input": {"prompt.prompt_depth": "input"},
        }
        variants |= {
            "recomputed": {"plm.gradient_checkpointing": True},
            "frozen": {"pretrain.lr.plm": 0.0, "finetune.lr.plm": 0.0},
        }
        for name, changes in variants.items():
            for objective in OBJECTIVE_NAMES[:2]:
                cases[f"ZeRO 3, {name}, {objective}"] = Case("3", objective, changes={**SMALL, **changes})
    found = distributed(config, num_workers, cases)
    apart, plain = {}, {}
    for name, case in cases.items():
        same = (case.objective, case.steps, str(case.changes))
        if same not in plain:
            plain[same] = losses_of(
                replaced(config, case.changes), objective=case.objective, steps=case.steps
            )
        expected = plain[same]
        assert len(found[name]) == len(expected)
        apart[name] = max(abs(one / other - 1) for one, other in zip(found[name], expected, strict=True))
        print(f"{num_workers} workers, {name}: {apart[name]:.1e}")
    assert max(apart.values()) < 1e-5, apart


@pytest.mark.parametrize("precision", LOWER)
def test_lower_precision_trains_alike(config, plain, precision):
    losses = losses_of(replaced(config, {"runtime.precision": precision}))
    assert losses == pytest.approx(plain, rel=LOWER[precision])
    assert losses != plain


def test_an_overflow_is_skipped_and_halves_the_loss_scale(config):
    dataset, _, _, collator, engine = build(
        replaced(config, {"runtime.precision": "fp16"}), "pretrain", "torch", 1
    )
    batch = collator(columns_of(dataset.read_row_groups("train", [0])))
    before = engine.weights()
    engine._loss_scale.factor = 2.0**100
    engine.accumulate(batch, [1.0], last=True)
    assert engine.may_overflow
    assert not engine.gradient_norm().isfinite()
    engine.skip()
    assert engine._loss_scale.factor == 2.0**99
    assert all(engine.weights()[name].equal(value) for name, value in before.items())
    engine._loss_scale.factor = 2.0**10
    engine.accumulate(batch, [1.0], last=True)
    engine.step()
    assert not any(
        engine.weights()[name].equal(before[name])
        for name in ("ctr.embedding.weight", "prompt_projector.output_weight")
    )


@pytest.mark.slow
def test_lower_precision_and_offload_through_deepspeed(config, plain, tmp_path):
    """On CPUs, where nobody would: the way through DeepSpeed is the same, its GPU kernels and copies aren't
    tested.
    """
    settings = {
        f"{stage}, {precision}": (stage, {"precision": precision}) for precision in LOWER for stage in "0123"
    }
    settings |= {f"{stage}, offload": (stage, {"offload": "cpu"}) for stage in "123"}
    cases = {
        name: Case(
            stage,
            changes={f"runtime.{key}": value for key, value in changes.items()},
            until=10,
            keep=str(tmp_path / name),
        )
        for name, (stage, changes) in settings.items()
    }
    # Each right after its own: where engines of another precision ran in the process in between, bf16 rounds
    # a little differently
    pairs = {
        f"{name}{end}": replace(case, resume=resume)
        for name, case in cases.items()
        for end, resume in (("", 0), (", resumed", 5))
    }
    found = distributed(config, 2, pairs)
    for name in cases:
        assert found[name] == pytest.approx(plain[:10], rel=LOWER.get(name[3:], 1e-5)), name
        assert found[name] != plain[:10], name
        assert found[f"{name}, resumed"] == pytest.approx(found[name][5:], rel=1e-5), name
