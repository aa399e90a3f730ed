"""Draws from keyed random bits, and columns of coded values."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clickprompt.data.keyed_random import random_uniform

__all__ = [
    "choose_share",
    "coded_column",
    "distinct_values",
    "fraction_of",
    "parquet_writer",
    "pick_from",
    "standard_draw",
]


def standard_draw(*keys: int | np.ndarray) -> np.ndarray:
    """Draw uniform numbers with mean 0 and variance 1."""
    return (random_uniform(*keys) - 0.5) * np.sqrt(12)


def choose_share(shares: list[float], uniform: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(shares)[:-1], uniform, side="right")


def fraction_of(bits: np.ndarray, shift: int) -> np.ndarray:
    """Return 16 of the 64 bits as a number in [0, 1)."""
    return (bits >> np.uint64(shift) & np.uint64(0xFFFF)) / 65536


def pick_from(bits: np.ndarray, choices: int, shift: int) -> np.ndarray:
    return (fraction_of(bits, shift) * choices).astype(np.int64)


def distinct_values(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct numbers in order of appearance, and each number's position among them.

    This is np.unique without its sort.
    """
    encoded = pa.array(numbers).dictionary_encode()
    return encoded.dictionary.to_numpy(), encoded.indices.to_numpy()


def coded_column(values: pa.Array, positions: np.ndarray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(positions), values)


def parquet_writer(buffer: io.BytesIO, schema: pa.Schema) -> pq.ParquetWriter:
    texts = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    return pq.ParquetWriter(
        buffer,
        schema,
        compression="zstd",
        use_dictionary=texts,  # pyright: ignore[reportArgumentType] - the stubs know only booleans
        # Statistics of text columns would take as long as all the rest
        write_statistics=["rating", "timestamp"],  # pyright: ignore[reportArgumentType]
        # Titles exceed the default of 1 MiB, and would be written out row by row
        dictionary_pagesize_limit=1 << 26,
        column_encoding={"timestamp": "DELTA_BINARY_PACKED"},
        store_schema=False,  # readers get plain strings, as from an ordinary log
    )
