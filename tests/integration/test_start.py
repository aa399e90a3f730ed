"""What the processes of a training on Ray import before there is a step: whoever waits, waits for that."""

import subprocess
import sys

import pytest
from ray import cloudpickle

from clickprompt.runtime.train.evaluation_pool import evaluation_pool
from clickprompt.runtime.train.on_ray import build_trainer
from clickprompt.runtime.train.preflight import check_training
from tests.support.tiny import tiny_config, write_both

pytestmark = pytest.mark.ray

_READ = """
import sys
from ray import cloudpickle

with open(sys.argv[1], "rb") as file:
    cloudpickle.load(file)
print(*sorted({"torch", "transformers", "deepspeed"} & {name.split(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("both")))
    return tiny_config(dataset.uri, plm, runtime__num_workers=2)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_controller_imports_neither_torch_nor_transformers(ray_session, config, stage, tmp_path):
    """Nor do the data processes, which get a part of the same."""
    training = check_training(config, stage, str(tmp_path / "run"))
    with evaluation_pool(training) as scorers:
        trainer = build_trainer(training, scorers=scorers)
        sent = {"context": trainer.train_run_context, "callbacks": trainer._create_default_callbacks()}
        (tmp_path / "sent").write_bytes(cloudpickle.dumps(sent))
    read = [sys.executable, "-c", _READ, str(tmp_path / "sent")]
    done = subprocess.run(read, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
