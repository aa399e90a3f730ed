import pydantic
import pytest
import yaml

from clickprompt.benchmark.faults.settings import FaultsConfig
from clickprompt.config import (
    Config,
    FinetuneConfig,
    PretrainConfig,
    RuntimeConfig,
    SearchRange,
    dump_config,
    load_config,
    load_settings,
    preset_names,
    replaced,
    stored_config,
)
from clickprompt.errors import ConfigError, InputError


def written(tmp_path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_defaults_are_the_papers():
    config = load_config()
    assert config == Config()
    assert (config.pretrain.epochs, config.pretrain.global_batch_size) == (20, 1024)  # §4.1.4
    assert {rate for name, rate in config.pretrain.lr if name != "tables"} == {5e-5}
    assert config.pretrain.lr.tables is config.finetune.lr.tables is None
    assert (
        config.finetune.lr.ctr,
        config.finetune.lr.projector,
        config.finetune.lr.heads,
        config.finetune.lr.plm,
    ) == (
        1e-3,
        1e-3,
        1e-3,
        5e-5,
    )
    assert config.masking.mask_rate == 0.15  # §3.5.1
    grid = {
        "prompt.num_prompts": [1, 3, 5, 7],
        "pretrain.warmup_ratio": [0, 0.05, 0.1],
        "finetune.lr.plm": [0, 3e-5, 5e-5],
    }
    assert load_config("paper-grid").tune.space == grid


def test_a_file_then_the_overrides_in_order(tmp_path):
    path = written(tmp_path, "prompt:\n  num_prompts: 3\nfinetune:\n  lr:\n    plm: 3e-5\n  epochs: 2\n")
    config = load_config(
        path,
        [
            "finetune.lr.plm=0",
            "seed=1",
            "seed=2",
            "tune.seeds=[1, 3]",
            "data.path=s3://bucket/a=b",
            "plm.num_layers=null",
        ],
    )
    assert config.prompt.num_prompts == 3
    assert config.finetune.epochs == 2
    assert config.finetune.lr.plm == 0
    assert config.finetune.lr.ctr == 1e-3  # the section's other defaults stay
    assert config.seed == 2
    assert config.tune.seeds == (1, 3)
    assert config.data.path == "s3://bucket/a=b"
    assert config.plm.num_layers is None


def test_exponents_without_a_dot_are_numbers():
    # YAML 1.1 reads 3e-5 as text
    assert load_config(None, ["pretrain.lr.plm=3e-5"]).pretrain.lr.plm == 3e-5
    ranged = load_config(
        None, ["tune.search=random", "tune.space={finetune.lr.plm: {low: 1e-6, high: 3e-5}}"]
    )
    assert ranged.tune.space["finetune.lr.plm"] == SearchRange(low=1e-6, high=3e-5)


def test_a_configuration_comes_back_from_its_dump(tmp_path):
    config = load_config(
        None,
        [
            "seed=7",
            "finetune.lr.plm=3e-5",
            "tune.search=tpe",
            "tune.space={seed: [1], ctr.dropout: {low: 0, high: 0.5}}",
            "data.path=dÄta/1e-3",
            "finetune.init=null",
            "pretrain.max_steps=3",
        ],
    )
    assert load_config(written(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_comes_back_from_its_dump(tmp_path, name):
    config = load_config(name)
    assert load_config(written(tmp_path, dump_config(config))) == config


def test_a_configuration_is_frozen():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        load_config().prompt.num_prompts = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("prompt.num_prompt=3", "prompt.num_prompts"),
        ("promt.num_prompts=3", "prompt"),
        ("finetune.lr.mpl=3", "finetune.lr.plm"),
        ("pretrain.warmup=0.1", "pretrain.warmup_ratio"),
        ("runtime.workers=2", "runtime.num_workers"),
        ("Seed=3", "seed"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path, override, nearest):
    key = override.partition("=")[0]
    unknown = key.split(".")[0] if nearest == "prompt" else key
    with pytest.raises(
        ConfigError, match=f"^unknown config key {unknown}; the nearest known key is {nearest}$"
    ) as error:
        load_config(None, [override])
    assert error.value.exit_code == 2


def test_an_unknown_key_in_a_file_is_refused_too(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown config key prompt\.k; the nearest known key is prompt"):
        load_config(written(tmp_path, "prompt:\n  k: 3\n"))
    with pytest.raises(ConfigError, match="unknown config key 3;"):
        load_config(written(tmp_path, "3: 4\n"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompt.num_prompts=-1", "prompt.num_prompts=-1: give a whole number ≥ 0"),
        ("prompt.num_prompts=many", "prompt.num_prompts='many': give a whole number ≥ 0"),
        ("prompt.num_prompts=1.5", "prompt.num_prompts=1.5: give a whole number ≥ 0"),
        ("seed=", "seed=null: give a whole number ≥ 0"),
        ("masking.mask_rate=0", "masking.mask_rate=0: give a number > 0, < 1"),
        ("pretrain.lr.plm=-1e-5", "pretrain.lr.plm='-1e-5': give a number ≥ 0"),
        ("pretrain.lr.plm=.nan", "pretrain.lr.plm=nan: give a finite number ≥ 0"),
        ("pretrain.max_grad_norm=.inf", "pretrain.max_grad_norm=inf: give a finite number > 0"),
        ("pretrain.warmup_ratio=1", "pretrain.warmup_ratio=1: give a number ≥ 0, < 1"),
        ("finetune.epochs=0", "finetune.epochs=0: give a whole number ≥ 1"),
        ("runtime.engine=horovod", "runtime.engine='horovod': give torch or deepspeed"),
        ("runtime.zero_stage=4", "runtime.zero_stage=4: give 0, 1, 2 or 3"),
        ("runtime.num_workers=0", "runtime.num_workers=0: give a number of workers from 1 up, or [min, max]"),
        (
            "runtime.num_workers=[4, 2]",
            "runtime.num_workers=[4, 2]: give a number of workers from 1 up, or [min, max]",
        ),
        (
            "runtime.num_workers=[1, 2, 3]",
            "runtime.num_workers=[1, 2, 3]: give a number of workers from 1 up, or [min, max]",
        ),
        (
            "runtime.num_workers=true",
            "runtime.num_workers=true: give a number of workers from 1 up, or [min, max]",
        ),
        ("runtime.precision=tf32", "runtime.precision='tf32': give fp32, bf16 or fp16"),
        ("ctr.num_heads=5", "ctr: attention_dim=32 is not a multiple of num_heads=5; make it one"),
        (
            "ctr.hidden_dims=[256, 0]",
            "ctr.hidden_dims=[256, 0]: give a list: whole number > 0, not empty or null",
        ),
        ("ctr.hidden_dims=[]", "ctr.hidden_dims=[]: give a list: whole number > 0, not empty or null"),
        ("ctr.fgcnn.channels=[6, 8]", "ctr.fgcnn: channels has 2 values, kernel_heights 4; give as many"),
        ("ctr.fgcnn=3", "ctr.fgcnn=3: this is a section; set one of its keys, such as ctr.fgcnn.channels"),
        ("tune.space.seed=[]", "tune: space.seed is empty; give at least one value"),
        (
            "tune.space.seed={low: 1, high: 3}",
            "tune: space.seed is a range, which has no grid; give a list of values, or search=random or tpe",
        ),
        ("tune.space.seed={low: 3, high: 3}", "low=3 is not below high=3; give a range, or a list of values"),
        ("tune.space.seed={low: 0, high: 3, log: true}", "a logarithmic range starts above 0"),
        ("tune.space.seed={low: 0, high: 3.5, int: true}", "a range of whole numbers ends in whole numbers"),
        ("tune.space.seed=3", "tune.space: seed=3 is not a list; give the values to try, or {low, high}"),
        ("tune.seeds=[1, 1]", "tune: seeds=[1, 1]: one comes twice; give each once"),
        ("tune.num_prompts=[1, 3]", "unknown config key tune.num_prompts"),
        ("prompt=3", "prompt=3: this is a section; set one of its keys, such as prompt.num_prompts"),
        ("pretrain.lr=3", "pretrain.lr=3: this is a section; set one of its keys, such as pretrain.lr.ctr"),
        ("seed=[", "--set seed=[: the value is not valid YAML"),
        ("seed=!!python/name:os.system x", "the value is not valid YAML"),
        ("seed", "--set seed: expected key=value, such as"),
        ("=3", "--set =3: expected key=value, such as"),
    ],
)
def test_an_impossible_value_is_one_line_naming_key_value_and_rule(override, message):
    with pytest.raises(ConfigError) as error:
        load_config(None, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_widths_of_the_deep_part():
    assert load_config().ctr.deep_dims == (256, 256, 256)
    assert load_config(None, ["ctr.hidden_dim=8", "ctr.num_layers=2"]).ctr.deep_dims == (8, 8)
    assert load_config(None, ["ctr.hidden_dims=[32, 16]", "ctr.num_layers=5"]).ctr.deep_dims == (32, 16)


def test_every_mistake_is_named_at_once():
    with pytest.raises(
        ConfigError, match=r"^2 mistakes: \(1\) prompt\.num_prompts=-1: .*; \(2\) pretrain\.epochs=0: "
    ):
        load_config(None, ["prompt.num_prompts=-1", "pretrain.epochs=0"])


def test_an_override_below_a_value_is_refused():
    with pytest.raises(ConfigError, match=r"--set seed\.x: seed is a value, not a section"):
        load_config(None, ["seed=3", "seed.x=1"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt: [", r"run\.yaml: not valid YAML"),
        (b"\xff\xfe\x00", r"run\.yaml: not valid YAML"),
        ("- 1\n", "the top level must be a mapping of sections"),
        ("prompt:\n", "prompt=null: this is a section; set one of its keys"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(written(tmp_path, content))
    assert "\n" not in str(error.value)


def test_an_empty_file_means_the_defaults(tmp_path):
    assert load_config(written(tmp_path, "")) == Config()


def test_neither_preset_nor_file(tmp_path):
    with pytest.raises(ConfigError, match=r"--config dem: neither a YAML file nor a preset; presets: "):
        load_config("dem")
    with pytest.raises(InputError, match=r"missing\.yaml: no such file"):
        load_config(str(tmp_path / "missing.yaml"))


def test_replaced_changes_a_copy():
    config = load_config(None, ["seed=7"])
    changed = replaced(
        config, {"finetune.lr.plm": 0, "tune.seeds": (1,), "data.path": "a", "finetune.init": None}
    )
    assert (changed.seed, changed.finetune.lr.plm, changed.tune.seeds, changed.data.path) == (7, 0, (1,), "a")
    assert changed.finetune.lr.ctr == config.finetune.lr.ctr
    assert config == load_config(None, ["seed=7"])
    assert replaced(changed, {}) == changed
    with pytest.raises(ConfigError, match=r"prompt\.num_prompts=-1: give a whole number"):
        replaced(config, {"prompt.num_prompts": -1})
    with pytest.raises(ConfigError, match=r"unknown config key prompt\.k; the nearest known key is prompt"):
        replaced(config, {"prompt.k": 3})


def test_micro_batches():
    stage = PretrainConfig(global_batch_size=1024, micro_batch_size=64)
    assert [stage.micro_batches(workers) for workers in (1, 2, 4)] == [16, 8, 4]
    with pytest.raises(
        ConfigError,
        match=(
            r"^global_batch_size=1024 is not a multiple of micro_batch_size × workers = 64 × "
            r"3; use 960 or 1152$"
        ),
    ):
        stage.micro_batches(3)
    with pytest.raises(ConfigError, match=r"= 64 × 2; use 128$"):
        FinetuneConfig(global_batch_size=16).micro_batches(2)


def test_a_number_of_workers_or_a_range():
    assert (RuntimeConfig(num_workers=3).min_workers, RuntimeConfig(num_workers=3).max_workers) == (3, 3)
    config = load_config(None, ["runtime.num_workers=[1, 4]"])
    assert (config.runtime.min_workers, config.runtime.max_workers) == (1, 4)
    assert Config.model_validate(yaml.safe_load(dump_config(config))) == config


def test_sections_can_be_built_in_python():
    assert Config(runtime=RuntimeConfig(num_workers=2)).runtime.num_workers == 2
    with pytest.raises(pydantic.ValidationError, match="extra"):
        Config(promt={})  # pyright: ignore[reportCallIssue]


def test_a_section_that_was_taken_out_is_left_out_of_what_runs_have_stored(tmp_path):
    """A run or an export from before is read; whoever sets the key today is told."""
    values = {**yaml.safe_load(dump_config(Config())), "faults": {"number": 3}}
    values["pretrain"]["decay_embeddings"] = True
    values["pipeline"]["with_plm_steps"] = 6
    assert stored_config(values) == Config()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    assert load_config(str(path)) == Config()
    with pytest.raises(ConfigError, match=r"unknown config key faults"):
        load_config(None, ["faults.number=3"])
    with pytest.raises(ConfigError, match=r"unknown config key pipeline\.with_plm_steps"):
        load_config(None, ["pipeline.with_plm_steps=6"])


def test_the_campaign_s_settings_are_its_own():
    settings = load_settings(FaultsConfig, None, ["number=3", "training.seed=5"])
    assert (settings.number, settings.training.seed) == (3, 5)
    with pytest.raises(
        ConfigError, match=r"unknown config key seed; the nearest known key is training\.seed"
    ):
        load_settings(FaultsConfig, None, ["seed=5"])


def test_a_stored_run_whose_embeddings_did_not_decay():
    values = yaml.safe_load(dump_config(Config()))
    values["finetune"]["decay_embeddings"] = False
    assert stored_config(values) == replaced(Config(), {"finetune.tables_weight_decay": 0.0})
