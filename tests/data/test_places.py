"""The places of targets, against naive loops."""

import numpy as np
import pytest

from clickprompt.data.places import Cells, Reading, read_places


def test_positions_are_each_rows_targets_in_order():
    read = np.array([[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    positions, numbers = read_places(read)
    assert positions.tolist() == [[1, 3], [3, 0], [0, 1]]
    assert numbers.tolist() == [0, 1, 2]
    assert [part.shape for part in read_places(read[:0])] == [(0, 1), (0,)]


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_what_is_read_and_what_for(rate):
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((7, 11)) < rate, rng.integers(5, 90, (7, 11)), -100)
    value_fields = rng.integers(-1, 4, (7, 11))
    cells = rng.random((7, 4)) < 0.4
    reading, found = Reading.of(labels, -100, value_fields, cells), Cells.of(cells)
    numbered = [(row, field) for field in range(4) for row in range(7) if cells[row, field]]
    assert found.numbers.tolist() == [row * 4 + field for row, field in numbered]
    assert found.per_field == tuple(cells.sum(0))

    states, targets, tokens, at_cells, of_cells = [], [], [], [], []
    for row in range(7):
        for place in range(11):
            target, cell = labels[row, place] != -100, (row, value_fields[row, place])
            if target:
                targets.append(len(states))
                tokens.append(labels[row, place])
            if cell in numbered:
                at_cells.append(len(states))
                of_cells.append(numbered.index(cell))
            if target or cell in numbered:
                states.append((row, place))
    flat = reading.positions.flatten()[reading.numbers]
    rows = reading.numbers // reading.positions.shape[1]
    assert list(zip(rows.tolist(), flat.tolist(), strict=True)) == states
    assert reading.targets.tolist() == targets
    assert reading.target_ids.tolist() == tokens
    assert reading.at_cells.tolist() == at_cells
    assert reading.cells.tolist() == of_cells
