"""What pyarrow raises while it reads a Parquet file that is damaged."""

import pyarrow as pa

__all__ = ["UNREADABLE"]

UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""UnicodeDecodeError: for the name of a column"""
