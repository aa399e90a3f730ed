"""What a worker does before its first step, and its scoring of a validation, in the command's own process."""

import threading

import pytest
import torch

from clickprompt.config import replaced
from clickprompt.export.format import scores_of
from clickprompt.runtime.train import worker
from clickprompt.runtime.train.exports import Exports
from clickprompt.runtime.train.in_process import OwnProcess
from clickprompt.runtime.train.preflight import check_training
from clickprompt.runtime.train.train import run_training
from clickprompt.runtime.train.validation import ExportValidation
from clickprompt.runtime.train.worker import build_collator
from tests.support.ending import lines_of
from tests.support.in_process import InProcessValidation
from tests.support.tiny import tiny_config, write_both


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("own")))
    return tiny_config(
        dataset.uri,
        plm,
        runtime__use_ray="never",
        pretrain__max_steps=2,
        finetune__with_plm=False,
        finetune__average_validations=2,
    )


def untrained(config, run):
    """A run before its first step: its training, engine and exports."""
    from clickprompt.models.build import build_model
    from clickprompt.objectives import ClickLoss
    from clickprompt.training.engine import TorchEngine

    training = check_training(config, "finetune", str(run))
    model = build_model(config, training.layout, objective=training.objective)
    engine = TorchEngine(ClickLoss(model), training.stage, device=torch.device("cpu"))
    return training, engine, Exports(training, None, None)


def test_the_first_batch_is_on_its_way_while_the_model_is_built(config, tmp_path, monkeypatch):
    """On Ray that is when the stream's processes start."""
    asked = threading.Event()
    batches, build = OwnProcess.batches, worker._initial_model

    def noticed(own, start_step):
        asked.set()
        yield from batches(own, start_step)

    def built_late(training, host):
        assert asked.wait(20)
        return build(training, host)

    monkeypatch.setattr(OwnProcess, "batches", noticed)
    monkeypatch.setattr(worker, "_initial_model", built_late)
    assert run_training(config, "pretrain", str(tmp_path / "run"))["step"] == 2
    assert [line["step"] for line in lines_of(str(tmp_path / "run"))] == [1, 2]


def test_a_scoring_is_put_off_when_the_run_is_to_end(config, tmp_path):
    training, engine, exports = untrained(config, tmp_path)
    expected = InProcessValidation(
        engine, build_collator(training, None), training.dataset, config, training.objective
    )
    expected.begin(4)
    scoring = OwnProcess(training, torch.device("cpu"), None).scoring
    validation = ExportValidation(training, engine, exports, scoring, None, lambda: True)
    validation.begin(4)
    assert validation.exported.result() is None
    assert scores_of(exports.at(4)) is None, "not scored"
    resumed = ExportValidation(training, engine, exports, scoring, 4, lambda: True)
    assert scores_of(exports.at(4)) is None
    assert resumed.result() == pytest.approx(expected.result(), rel=1e-6), "the last step's is needed at once"
    assert scores_of(exports.at(4)) == tuple(resumed.result().values())


def test_a_scoring_tells_of_its_rows_until_it_is_over(config, tmp_path):
    training, engine, exports = untrained(replaced(config, {"finetune.eval_batch_size": 16}), tmp_path)
    rows = training.dataset.counts["valid"]
    scoring = OwnProcess(training, torch.device("cpu"), None).scoring
    told = []
    validation = ExportValidation(
        training, engine, exports, scoring, None, tell=lambda known: told.append(known())
    )
    assert validation.progress() == {}
    validation.begin(4)
    counts = [known["validating"] for known in told]
    assert counts[0] == (0, rows)
    assert counts[-1] == (rows, rows)
    assert len(counts) > 1 + len(training.dataset.row_group_counts("valid")), "each batch counts"
    assert counts == sorted(counts)
    assert validation.progress() == {}
