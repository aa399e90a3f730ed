"""A notebook's code cells, run in their order by this interpreter."""

import json
from pathlib import Path
from typing import Any


def run_cells(notebook: Path) -> dict[str, Any]:
    """The variables that the cells leave. A cell that fails is named in its traceback by its number."""
    variables: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(notebook.read_text())["cells"]):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            exec(compile(source, f"{notebook.name}, cell {number}", "exec"), variables)
    return variables
