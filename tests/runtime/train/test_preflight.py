"""What is refused before Ray starts: one line with the value, the rule and the remedy."""

import json
from pathlib import Path

import numpy as np
import pytest

from clickprompt.config import Config, replaced
from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.prepared.layout import layout_of
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import ConfigError, DataError, InputError
from clickprompt.export.format import write_export
from clickprompt.models.build import build_model
from clickprompt.runtime.train.preflight import check_training, claim
from clickprompt.training.engine import weights_of
from tests.support.tiny import CLICK_WORDS, tiny_config, write_both, write_plm


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> tuple[str, str]:
    dataset, plm = write_both(str(tmp_path_factory.mktemp("preflight") / "both"))
    return dataset.uri, plm


@pytest.fixture
def config(paths) -> Config:
    return tiny_config(*paths)


def with_plm_config(config: Config, folder: Path, **changes: object) -> Config:
    """The same tokenizer under a config.json with other values."""
    assert config.plm.path is not None
    folder.mkdir()
    for file in Path(config.plm.path).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))
    return replaced(config, {"plm.path": str(folder)})


def refused(config: Config, stage: str, message: str, error: type[InputError] = ConfigError) -> None:
    with pytest.raises(error, match=message) as caught:
        check_training(config, stage)
    assert "\n" not in str(caught.value)


def test_a_good_configuration_says_what_it_will_do(config) -> None:
    training = check_training(config, "pretrain")
    assert (training.objective, training.lm_kind, training.truncation) == ("pretrain", "masked", None)
    assert check_training(replaced(config, {"finetune.with_plm": False}), "finetune").lm_kind is None
    assert check_training(replaced(config, {"prompt.num_prompts": 0}), "pretrain").objective == "pretrain"


@pytest.mark.parametrize(
    ("all_clicked", "said"), [(False, "none of them clicks"), (True, "all of them clicks")]
)
def test_a_validation_split_of_one_class(config, monkeypatch, all_clicked, said) -> None:
    opened = Dataset.open

    def of_one_class(*arguments) -> Dataset:
        dataset = opened(*arguments)
        dataset.manifest["clicks"] = {"valid": dataset.counts["valid"] * all_clicked}
        return dataset

    monkeypatch.setattr(Dataset, "open", of_one_class)
    refused(config, "finetune", f"{said}.*needs both classes; prepare again with --split hash", DataError)


def test_unknown_backbone_and_family_name_the_known_ones(config, tmp_path) -> None:
    refused(
        replaced(config, {"ctr.backbone": "deepfms"}),
        "pretrain",
        r"ctr\.backbone='deepfms'.*autoint.*xdeepfm",
    )
    refused(
        with_plm_config(config, tmp_path / "mt5", model_type="mt5"),
        "pretrain",
        r"model_type='mt5'.*bart.*roberta",
    )


def test_text_longer_than_the_position_table(config, tmp_path) -> None:
    """Prompts take a position only where they are carried through from the input."""
    dataset = Dataset.open(config.data.path)
    table = build_token_table(dataset, load_tokenizer(config.plm.path))
    lengths = {split: table.lengths(field_ids(dataset, split)) for split in ("train", "valid", "test")}
    longest = max(int(array.max()) for array in lengths.values())
    fits = with_plm_config(config, tmp_path / "fits", max_position_embeddings=longest)
    check_training(fits, "pretrain")
    refused(
        replaced(fits, {"prompt.prompt_depth": "input"}),
        "pretrain",
        f"has {longest} tokens.*at most {longest - 2}",
        DataError,
    )

    short = with_plm_config(config, tmp_path / "short", max_position_embeddings=longest - 1)
    refused(
        short,
        "pretrain",
        rf"row \d+ of \w+\) has {longest} tokens.*set plm\.max_length={longest - 1}",
        DataError,
    )
    refused(
        replaced(short, {"plm.max_length": longest}),
        "pretrain",
        f"plm.max_length={longest}: this PLM reads at most {longest - 1}",
    )
    training = check_training(replaced(short, {"plm.max_length": longest - 1}), "pretrain")
    assert training.truncation.over == sum(int((array == longest).sum()) for array in lengths.values())
    assert "Film genre" not in training.truncation.lost


def field_ids(dataset: Dataset, split: str) -> np.ndarray:
    rows = dataset.read_split(split)
    return np.stack([rows[column].to_numpy() for column in dataset.columns], axis=1)


def test_a_tokenizer_without_a_mask_token(config, tmp_path) -> None:
    settings = with_plm_config(config, tmp_path / "maskless")
    folder = Path(settings.plm.path)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            values = json.loads((folder / name).read_text())
            (folder / name).write_text(
                json.dumps(
                    {key: value for key, value in values.items() if key != "mask_token"}
                    | {"mask_token": None}
                )
            )
    build_token_table(Dataset.open(settings.data.path), load_tokenizer(settings.plm.path))
    refused(settings, "pretrain", "has no mask token, which PA-MLM needs")


def test_a_finetuning_must_fit_the_pretraining_it_starts_from(config, tmp_path) -> None:
    dataset = Dataset.open(config.data.path)
    init = str(tmp_path / "pretrained")
    model = build_model(config, layout_of(dataset), objective="pretrain")
    common = {"dataset": dataset, "tokenizer": None, "tokenizer_fingerprint": None, "step": 1}
    plm = model.plm.config_dict()
    write_export(init, weights_of(model), plm=plm, objective="pretrain", config=config, **common)
    start = replaced(config, {"finetune.init": init})
    check_training(replaced(start, {"ctr.dropout": 0.5}), "finetune")
    refused(
        replaced(start, {"ctr.backbone": "autoint"}),
        "finetune",
        r"pretrained with ctr\.backbone=dcnv2, not autoint",
    )
    refused(
        replaced(start, {"prompt.num_prompts": 3}),
        "finetune",
        r"pretrained with prompt\.num_prompts=2, not 3",
    )
    check_training(replaced(start, {"prompt.num_prompts": 3, "finetune.with_prompts": False}), "finetune")
    wider = with_plm_config(start, tmp_path / "wider", hidden_size=64)
    refused(
        wider, "finetune", "its PLM is a bert of 2 layers and hidden size 32, that of .* a bert of 2 and 64"
    )
    refused(
        replaced(start, {"plm.num_layers": 1}),
        "finetune",
        "of 2 layers and hidden size 32, that of .* a bert of 1 and 32",
    )
    check_training(replaced(wider, {"finetune.with_plm": False}), "finetune")

    without = str(tmp_path / "without-prompts")
    plain = replaced(config, {"prompt.num_prompts": 0})
    weights = weights_of(build_model(plain, layout_of(dataset), objective="pretrain"))
    write_export(without, weights, plm=plm, objective="pretrain", config=plain, **common)
    check_training(replaced(config, {"finetune.init": without}), "finetune")
    settings = replaced(config, {"finetune.init": without, "finetune.with_plm": False})
    refused(settings, "finetune", "pretrained without prompts, so it has no CTR tower")


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "causal"), ("bart", "denoising")])
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_click_in_the_text_of_other_kinds(config, tmp_path, family, kind, stage) -> None:
    plm = write_plm(str(tmp_path / family), family, CLICK_WORDS)
    changed = replaced(config, {"plm.path": plm, "plm.click_text": True})
    refused(changed, stage, rf"plm\.click_text=true: a {family} \({kind} language modelling\) fills in no")
    alone = {"finetune.with_plm": False, "pretrain.with_plm": False, "pretrain.id_objective": "replaced"}
    check_training(replaced(changed, alone), stage)


def test_a_tokenizer_that_cannot_write_the_click(config) -> None:
    changed = replaced(config, {"plm.click_text": True})
    refused(changed, "pretrain", r"plm\.click_text=true: .* yes and no must be a token each.*use another PLM")


def test_labels_that_a_pretraining_has_read(tmp_path) -> None:
    """A finetuning on few labels starts from no pretraining that has read others."""
    dataset, plm = write_both(str(tmp_path / "both"), more_words=CLICK_WORDS)
    config = tiny_config(dataset.uri, plm, plm__click_text=True, finetune__label_share=0.5)
    init = str(tmp_path / "pretrained")
    model = build_model(config, layout_of(dataset), objective="pretrain")
    write_export(
        init,
        weights_of(model),
        plm=model.plm.config_dict(),
        objective="pretrain",
        config=config,
        dataset=dataset,
        tokenizer=load_tokenizer(plm),
        tokenizer_fingerprint=None,
        step=1,
    )
    start = replaced(config, {"finetune.init": init, "pretrain.init": init})
    for fits in ({}, {"finetune.label_share": 0.7}, {"finetune.label_share": 1.0, "seed": 1}):
        check_training(replaced(start, fits), "finetune")
    message = (
        r"finetune\.init=.*: pretrained with plm\.click_text on the clicks of finetune\.label_share=0\.5 of "
    )
    for others in (
        {"finetune.label_share": 0.4},
        {"seed": 1},
        {"finetune.label_share": 0.4, "finetune.with_plm": False},
        {"finetune.label_share": 0.4, "plm.click_text": False},
    ):
        refused(replaced(start, others), "finetune", message)
    refused(
        replaced(start, {"finetune.label_share": 0.4}), "pretrain", r"pretrain\.init=.*pretrained with plm"
    )


def test_deepspeed_keeps_one_type_of_weights(config, tmp_path) -> None:
    settings = replaced(config, {"plm.dtype": "bfloat16", "runtime.engine": "deepspeed"})
    for number in (2, [1, 2]):
        refused(
            replaced(settings, {"runtime.num_workers": number}),
            "pretrain",
            r"plm\.dtype=bfloat16: DeepSpeed keeps one type",
        )
    # One worker computes with torch
    check_training(replaced(settings, {"runtime.num_workers": 1}), "pretrain", str(tmp_path / "run"))


def test_flash_attention_where_there_is_none(config) -> None:
    refused(
        replaced(config, {"plm.attn_implementation": "flash"}),
        "pretrain",
        "flash-attn package or a GPU .* use sdpa",
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_workers": [1, 4]},
            r"num_workers=\[1, 4\]: global_batch_size=24 is not .* 12 × 3, 4, and Ray may choose "
            r"any .* use 144 or",
        ),
        ({"num_workers": [1, 64]}, r"12 × 3, 4, 5, 6 …, and Ray may choose any number; use a narrower range"),
        (
            {"precision": "fp16"},
            r"precision=fp16 without GPUs would only be slower; set runtime\.gpus_per_worker=1, use bf16",
        ),
        ({"offload": "cpu"}, r"offload=cpu moves state off GPUs, and there are none"),
        (
            {"offload": "cpu", "gpus_per_worker": 1},
            r"offload=cpu is DeepSpeed's; set runtime\.engine=deepspeed",
        ),
        (
            {"offload": "cpu", "gpus_per_worker": 1, "engine": "deepspeed", "zero_stage": 0},
            r"needs runtime\.zero_stage=1 or more, not 0",
        ),
        (
            {"offload": "nvme", "gpus_per_worker": 1, "engine": "deepspeed"},
            r"offload=nvme needs runtime\.zero_stage=3, not 2",
        ),
        (
            {"offload": "nvme", "gpus_per_worker": 1, "engine": "deepspeed", "zero_stage": 3},
            r"needs runtime\.offload_path, a folder",
        ),
    ],
)
def test_workers_precision_and_offload_that_cannot_be(config, settings, message) -> None:
    refused(
        replaced(config, {f"runtime.{key}": value for key, value in settings.items()}), "pretrain", message
    )


def test_sharded_tables_are_not_averaged(config) -> None:
    settings = {"finetune.embedding_optimizer": "sharded", "finetune.average_validations": 3}
    with pytest.raises(ConfigError, match=r"average_validations=3 with embedding_optimizer=sharded .* to 1"):
        replaced(config, settings)
    check_training(replaced(config, {**settings, "finetune.average_validations": 1}), "finetune")


def test_what_cpus_compute_in(config) -> None:
    check_training(replaced(config, {"runtime.precision": "bf16"}), "pretrain")


def test_a_range_of_workers_that_the_batch_fits(config) -> None:
    check_training(replaced(config, {"runtime.num_workers": [1, 2]}), "pretrain")


def test_a_run_continues_anywhere_but_with_the_same_settings(config, tmp_path) -> None:
    run = str(tmp_path / "run")
    claim(run, config)
    claim(run, replaced(config, {"runtime.num_workers": 2, "runtime.engine": "deepspeed"}))
    with pytest.raises(
        ConfigError,
        match=r"another configuration: prompt\.num_prompts was 2, is 3; choose another --run, or continue it",
    ):
        claim(run, replaced(config, {"prompt.num_prompts": 3}))
    many = {
        "seed": 1,
        "ctr.embedding_dim": 4,
        "plm.num_layers": 1,
        "prompt.num_prompts": 3,
        "masking.mask_rate": 0.5,
        "data.id_dropout": 0.5,
    }
    with pytest.raises(ConfigError, match=r"seed was 0, is 1, .* and 2 more; choose"):
        claim(run, replaced(config, many))


def test_another_plan_for_a_run_is_refused_with_the_command_for_a_new_one(config, tmp_path) -> None:
    run = str(tmp_path / "run")
    claim(run, config)

    def refusal(stage_name: str, changes: dict) -> str:
        with pytest.raises(ConfigError) as caught:
            claim(run, replaced(config, changes), stage_name=stage_name)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    start = (
        f"start a new run from it: clickprompt pretrain --config {run}/config.yaml --run NEW --set "
        f"pretrain.init={run} "
    )
    plans = {
        "pretrain.epochs": 7,
        "pretrain.global_batch_size": 48,
        "pretrain.lr.ctr": 0.5,
        "pretrain.max_steps": 9,
        "data.rows": "new",
    }
    for key, value in plans.items():
        assert f"{start}--set {key}={value}; or choose another --run" in refusal("pretrain", {key: value})
    both = refusal("pretrain", {"pretrain.epochs": 7, "pretrain.lr.ctr": 0.5})
    assert f"{start}--set pretrain.epochs=7 --set pretrain.lr.ctr=0.5; or" in both
    others = {
        "finetune.epochs": 7,
        "seed": 1,
        "pretrain.init": str(tmp_path),
        "tune.space": {"pretrain.lr.ctr": [0.1]},
    }
    for key, value in others.items():  # another stage's, or another model
        assert "start a new run" not in refusal("pretrain", {"pretrain.epochs": 7, key: value})
