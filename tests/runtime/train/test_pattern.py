"""Texts by a pattern (`prepare --template`) from the log to scores: recorded, trained on, scored alike."""

import numpy as np
import pyarrow as pa
import pytest

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.errors import DataError, InputError
from clickprompt.export.checks import check_scorable
from clickprompt.export.format import export_of, read_info
from clickprompt.export.serving_folder import export_for_serving
from clickprompt.runtime.prepare.append import append
from clickprompt.runtime.prepare.prepare import prepare
from clickprompt.runtime.train.train import run_training
from clickprompt.scoring.raw_rows import open_scorer
from clickprompt.scoring.rows import RowScorer
from tests.support.finetuned import write_run
from tests.support.random_tables import SMALL, random_log, write
from tests.support.synthetic import write_dataset
from tests.support.tiny import tiny_config, write_both

SCORED = "{User ID} of {Gender}. Movie {Movie ID}"  # no genre


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_both(str(tmp_path_factory.mktemp("pattern")), SCORED)


def test_prepare_records_the_pattern_and_append_keeps_it(tmp_path) -> None:
    frame, schema = random_log(5)
    schema["k_core"] = 0
    half = len(frame) // 2
    path = write(str(tmp_path / "raw"), frame.iloc[:half], schema, files=2)
    first, *_, last = (field["name"] for field in schema["fields"])
    pattern = f"One {{{first}}} met {{{last}}}"
    with pytest.raises(InputError, match="no field 'nobody'; the nearest is"):
        prepare(path, None, str(tmp_path / "no"), template="{nobody}", **SMALL)
    dataset = prepare(path, None, str(tmp_path / "out"), template=pattern, **SMALL)
    assert dataset.template == dataset.manifest["options"]["template"] == pattern
    write(str(tmp_path / "raw"), frame.iloc[half:], schema, files=2, first=2)
    append(path, None, dataset.uri)
    assert (Dataset.open(dataset.uri).version, Dataset.open(dataset.uri).template) == (2, pattern)
    own = write(str(tmp_path / "own"), frame, schema | {"template": pattern}, files=2)
    assert prepare(own, None, str(tmp_path / "own-out"), **SMALL).template == pattern
    wrong = write(str(tmp_path / "wrong"), frame, schema | {"template": "{nobody} is"}, files=2)
    with pytest.raises(InputError, match="no field 'nobody'; the nearest is"):
        prepare(wrong, None, str(tmp_path / "wrong-out"), **SMALL)


def test_pretraining_masks_and_restores_what_the_text_has(prepared, tmp_path) -> None:
    dataset, plm = prepared
    config = tiny_config(
        dataset.uri,
        plm,
        runtime__use_ray="never",
        masking__mask_scope="field",
        masking__hide_ids=1,
        masking__mask_rate=0.5,
        pretrain__text_id_weight=1,
        pretrain__max_steps=3,
    )
    assert run_training(config, "pretrain", str(tmp_path / "run"))["step"] == 3


def test_raw_rows_score_as_the_datasets_own(prepared, tmp_path) -> None:
    dataset, _ = prepared
    run, served = str(tmp_path / "run"), str(tmp_path / "served")
    write_run(run, prepared, objective="with_plm")
    split = dataset.read_split("test")
    scores = RowScorer(export_of(run), dataset).score(split)
    by_row = dict(zip(scores.row_ids.tolist(), scores.logits.tolist(), strict=True))
    expected = np.array([by_row[row] for row in split["row_id"].to_pylist()])
    raw = pa.table(
        {
            column: dataset.vocabulary(field)["value"].take(split[column])
            for field, column in enumerate(dataset.columns)
        }
    )
    export_for_serving(run, served)
    for place in (run, served):
        scorer = open_scorer(place, most_rows=8)
        logits, _ = scorer.score(raw.select(scorer.transform.columns))
        np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)
    assert read_info(served).template == SCORED


def test_a_dataset_of_another_pattern_is_no_place_to_score(prepared, tmp_path) -> None:
    other = write_dataset(str(tmp_path / "other"))
    build_token_table(other, load_tokenizer(prepared[1]))
    run, plain = str(tmp_path / "run"), str(tmp_path / "plain")
    write_run(run, prepared, objective="with_plm")
    write_run(plain, (other, prepared[1]), objective="with_plm")
    with pytest.raises(DataError, match=r"by the template '\{User ID\} of .* has others"):
        check_scorable(export_of(run), other)
    with pytest.raises(DataError, match=r"by the template sentence, .* prepared with --template sentence"):
        check_scorable(export_of(plain), prepared[0])
