"""Resume state cut one way and read another, in one process: DeepSpeed's own cuts are in test_engines.py."""

import pytest
import torch
from torch.optim import AdamW

from clickprompt.errors import DataError
from clickprompt.training.slices import Slice, load_slices, save_slices

SHAPES = {"a.weight": (5, 7), "b|c": (1,), "d": (2, 3, 4)}
BUFFERS = {"mean": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)}


def whole(seed: int) -> tuple[dict[str, torch.Tensor], AdamW]:
    """Parameters after a step of AdamW."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()
    }
    optimizer = AdamW(parameters.values(), fused=True)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    return parameters, optimizer


def cut(
    parameters: dict[str, torch.Tensor], optimizer: AdamW, num_workers: int
) -> list[tuple[list[Slice], AdamW]]:
    """As ZeRO 1 and 2 do: one flat tensor of all parameters, padded, in equal parts; each worker steps its
    own.
    """
    share = -(-sum(parameter.numel() for parameter in parameters.values()) // num_workers)
    workers = []
    for worker in range(num_workers):
        holder = torch.nn.Parameter(torch.zeros(share))
        own = AdamW([holder], fused=True)
        state = {slot: torch.zeros(share) for slot in ("exp_avg", "exp_avg_sq")}
        slices, begin = [], 0
        for name, parameter in parameters.items():
            low, high = max(begin, worker * share), min(begin + parameter.numel(), (worker + 1) * share)
            if low < high:
                piece = Slice(name, low - begin, high - low, holder, low - worker * share)
                piece.of(holder).copy_(parameter.detach().flatten()[low - begin : high - begin])
                for slot, value in state.items():
                    piece.of(value).copy_(
                        optimizer.state[parameter][slot].flatten()[low - begin : high - begin]
                    )
                slices.append(piece)
            begin += parameter.numel()
        own.state[holder] = {**state, "step": torch.tensor(1.0)}
        workers.append((slices, own))
    return workers


def save(folder, workers, extra=None) -> None:
    for rank, (slices, optimizer) in enumerate(workers):
        save_slices(str(folder), rank, len(workers), slices, optimizer, BUFFERS, extra or {})


@pytest.mark.parametrize("readers", [1, 2, 3, 5])
@pytest.mark.parametrize("writers", [1, 2, 4])
def test_any_number_of_workers_reads_what_any_number_wrote(tmp_path, writers, readers):
    save(tmp_path, cut(*whole(1), 6))  # a checkpoint of the same name that more workers began
    parameters, optimizer = whole(0)
    save(tmp_path, cut(parameters, optimizer, writers), {"loss_scale": {"factor": 8.0}})
    for slices, fresh in cut(*whole(2), readers):
        fresh.state.clear()
        buffers = {name: torch.zeros_like(buffer) for name, buffer in BUFFERS.items()}
        assert load_slices(str(tmp_path), slices, fresh, buffers) == {"loss_scale": {"factor": 8.0}}
        assert all(buffers[name].equal(buffer) for name, buffer in BUFFERS.items())
        for piece in slices:
            own = slice(piece.start, piece.start + piece.length)
            state = fresh.state[piece.holder]
            assert state["step"] == 1
            assert piece.of(piece.holder).equal(parameters[piece.name].detach().flatten()[own])
            for slot in ("exp_avg", "exp_avg_sq"):
                assert piece.of(state[slot]).equal(
                    optimizer.state[parameters[piece.name]][slot].flatten()[own]
                )


def test_a_loaded_optimizer_steps_as_the_saved_one(tmp_path):
    parameters, optimizer = whole(0)
    save(tmp_path, cut(parameters, optimizer, 3))
    others, fresh = whole(1)
    fresh.state.clear()
    load_slices(
        str(tmp_path), [Slice(name, 0, value.numel(), value) for name, value in others.items()], fresh, {}
    )
    for stepping, values in ((optimizer, parameters), (fresh, others)):
        for value in values.values():
            value.grad = torch.ones_like(value)
        stepping.step()
    assert all(others[name].equal(value) for name, value in parameters.items())


def test_a_file_that_is_missing_damaged_or_of_another_model(tmp_path):
    save(tmp_path, cut(*whole(0), 2))
    [(slices, fresh)] = cut(*whole(0), 1)
    longer = torch.nn.Parameter(torch.zeros(36))
    with pytest.raises(
        DataError, match=r"has 35 of the 36 elements of a.weight \(weight\) from 0 on .*another model"
    ):
        load_slices(str(tmp_path), [Slice("a.weight", 0, 36, longer)], AdamW([longer]), {})
    (tmp_path / "state-00001.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"state-00001.safetensors: can't be read"):
        load_slices(str(tmp_path), slices, fresh, {})
    (tmp_path / "state-00001.safetensors").unlink()
    with pytest.raises(DataError, match=r"state-00001.safetensors: can't be read"):
        load_slices(str(tmp_path), slices, fresh, {})
