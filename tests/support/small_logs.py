"""Small logs of one's own: CSV files, the schema beside them, and the dataset that is made of both."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.data.text.template import load_tokenizer
from clickprompt.data.text.token_table_build import build_token_table
from clickprompt.runtime.prepare.prepare import prepare
from tests.support.tiny import write_plm


def write_csv_log(
    folder: str,
    header: str,
    lines: Sequence[str],
    fields: Mapping[str, str],
    *,
    files: int = 3,
    more: str = "",
) -> str:
    """Write the lines, whose columns are `header`, into some files, and a schema of these fields with the
    columns user, item, time and click, which is returned. fields: name → column, and what else is said of
    the field; more: further keys of the schema.
    """
    os.makedirs(folder)
    for number, part in enumerate(np.array_split(np.array(lines), files)):
        with open(os.path.join(folder, f"log-{number}.csv"), "w") as stream:
            stream.write("\n".join([header, *part]) + "\n")
    schema = os.path.join(folder, "log.yaml")
    with open(schema, "w") as stream:
        stream.write(
            'data: "log-*.csv"\nfields:\n'
            + "".join(f"- {{name: {name}, column: {column}}}\n" for name, column in fields.items())
            + f"label: {{column: click}}\ntimestamp: time\nuser: user\nitem: item\n{more}\n"
        )
    return schema


def prepare_with_tokens(folder: str, schema: str) -> tuple[Dataset, str]:
    """The prepared log with the token table of a tiny PLM, and that PLM's folder."""
    plm = write_plm(os.path.join(folder, "plm"))
    dataset = prepare(schema, None, os.path.join(folder, "data"), row_group_rows=37)
    build_token_table(dataset, load_tokenizer(plm))
    return dataset, plm
