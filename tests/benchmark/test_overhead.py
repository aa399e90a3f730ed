"""`benchmark overhead` and `scaling` with a tiny shape, on a real Ray Train; nothing is asserted of the times
themselves.
"""

import pytest

from clickprompt.benchmark.overhead import _Length, measure_overhead, measure_scaling
from clickprompt.benchmark.pamlm_step import Shape
from clickprompt.benchmark.turns import Loop, loops_in_turn
from clickprompt.config import load_config
from clickprompt.errors import RunError
from tests.support.tiny import write_both

pytestmark = pytest.mark.ray

TINY = Shape(2, 16, 2, 24, global_batch_size=8, micro_batch_size=4, repeats=1, vocab_size=60)
SHORT = _Length(turns=2, steps=2)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset, plm = write_both(str(tmp_path_factory.mktemp("overhead")))
    sizes = ["data.chunk_batches=4", "ctr.embedding_dim=4", "ctr.hidden_dim=8", "prompt.num_prompts=2"]
    return load_config(None, [f"data.path={dataset.uri}", f"plm.path={plm}", *sizes])


@pytest.mark.slow
def test_one_worker_beside_a_bare_loop(ray_session, config):
    figures, [note] = measure_overhead(config, TINY, SHORT)
    assert figures.keys() == {
        *(
            "overhead",
            "overhead_cpu",
            "wait",
            "checkpoint",
            "checkpoint_blocked",
            "step_ours",
            "step_bare",
            "startup_ours",
            "startup_bare",
        )
    }
    # One turn each; the first is left out
    assert figures["overhead"]["median"] == pytest.approx(
        figures["step_ours"]["median"] / figures["step_bare"]["median"]
    )
    assert 0 < figures["wait"]["median"] < 1
    assert "plain torch" in note


@pytest.mark.slow
def test_one_and_two_workers(ray_session, config):
    figures, _ = measure_scaling(config, TINY, SHORT)
    speedups = [figures[f"speedup_{name}"]["median"] for name in ("ours", "bare")]
    assert figures["relative_scaling"]["median"] == pytest.approx(speedups[0] / speedups[1])


def work(rank, pace):
    return list(pace(iter(range(100)), rank))


def fail(rank, pace):
    for _ in pace(iter(range(1)), rank):
        raise ValueError("no more")


@pytest.mark.slow
def test_loops_run_their_steps_in_turn(ray_session):
    loops = {"one": Loop(1, bare=work), "two": Loop(2, bare=work)}
    measured, startup, results = loops_in_turn(loops, turns=3, steps=4, once_more="one")
    assert {name: [[len(marks) for marks in turn] for turn in turns] for name, turns in measured.items()} == {
        "one": [[4]] * 4,
        "two": [[4, 4]] * 3,
    }
    assert results == {"one": [list(range(100))], "two": [list(range(100))] * 2}
    assert startup.keys() == loops.keys()


@pytest.mark.slow
def test_a_loop_that_ends_early_is_an_error(ray_session):
    with pytest.raises(RunError, match=r"bad ended before its turns did: .*no more"):
        loops_in_turn({"bad": Loop(1, bare=fail)}, turns=2, steps=2)
