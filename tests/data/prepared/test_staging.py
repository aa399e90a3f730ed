"""Values numbered file by file, against a dict that does the same one value at a time."""

import numpy as np
import pyarrow as pa
import pytest

from clickprompt.data.prepared.staging import Numbering


def naive(files: list[list[str]], known: list[str] | None) -> tuple[list[list[int]], list[str | None]]:
    codes: dict[str | None, int] = {
        value: code for code, value in enumerate([None] if known is None else known)
    }
    found = []
    for file in files:
        if known is None:
            for value in file:
                codes.setdefault(value, len(codes))
        found.append([codes.get(value, -1) for value in file])
    return found, list(codes)


@pytest.mark.parametrize("known", [None, [], ["7", "unseen", "3", "11"]])
@pytest.mark.parametrize("seed", range(8))
def test_codes_count_in_the_order_of_the_log(known: list[str] | None, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Files of the same few values and files of new ones, so that some wait for others and some don't
    files = [
        random.permutation(random.choice(random.integers(1, 200), size=random.integers(1, 30)))
        .astype(str)
        .tolist()
        for _ in range(25)
    ]
    files = [list(dict.fromkeys(file)) for file in files]
    numbering = Numbering(pa.array([None] if known is None else known, pa.string()), grows=known is None)
    codes = [found.tolist() for found in numbering.codes(pa.array(file, pa.string()) for file in files)]
    expected, values = naive(files, known)
    assert codes == expected
    assert numbering.values.to_pylist() == values


def test_files_are_looked_up_as_they_come_where_each_brings_as_much_as_there_is() -> None:
    read = []

    def files():
        for file in range(4):
            read.append(file)
            yield pa.array([str(value) for value in range(file * 10, file * 10 + 10 * 2**file)])

    codes = Numbering(pa.array([None], pa.string()), grows=True).codes(files())
    for number in range(4):
        next(codes)
        assert len(read) == number + 1  # no file is held longer than needed
