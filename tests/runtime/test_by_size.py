"""Where a command works that doesn't train: as runtime.use_ray says and as much as there is to do."""

import signal

import pytest

from clickprompt.config import RuntimeConfig
from clickprompt.errors import ConfigError
from clickprompt.runtime.by_size import here, terminated_in_order


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Another test may have left this process connected to a Ray."""
    monkeypatch.setattr("clickprompt.runtime.in_process.connected", lambda: False)


@pytest.mark.parametrize(
    ("use_ray", "amount", "expected", "said"),
    [
        ("auto", 16_000_000, True, ""),
        ("auto", 16_000_001, False, "on Ray: 16,000,001 rows\n"),
        ("never", 16_000_001, True, ""),
        ("always", 1, False, ""),
    ],
)
def test_the_amount_decides_where_nothing_else_does(capsys, use_ray, amount, expected, said):
    assert here(RuntimeConfig(use_ray=use_ray), amount, 16_000_000, "rows") is expected
    assert capsys.readouterr().err == said


def test_a_setting_that_needs_ray_decides_first(capsys):
    assert not here(RuntimeConfig(use_ray="auto", evaluation_actors=3), 1, 2, "rows")
    assert capsys.readouterr().err == "on Ray: runtime.evaluation_actors=3: several scoring workers\n"
    with pytest.raises(ConfigError, match="several scoring workers, which needs Ray"):
        here(RuntimeConfig(use_ray="never", evaluation_actors=3), 1, 2, "rows")


def test_sigterm_ends_in_order_and_only_inside():
    before = signal.getsignal(signal.SIGTERM)
    with terminated_in_order(), pytest.raises(SystemExit) as stopped:
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.code == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
