"""How fast a log is read, and in how much memory: rows per CPU second of one process, and its largest size on
the way. One line of JSON.

clickprompt synth goodreads --rows 20100000 --out runs/synthetic python scripts/reading_speed.py
runs/synthetic/schema.yaml PYTHONPATH=OTHER_CHECKOUT python scripts/reading_speed.py
runs/synthetic/schema.yaml      # an earlier version, side by side
"""

import argparse
import json
import resource
import time

import clickprompt
from clickprompt.data.sources.registry import get_source

EVERY = 2_000_000  # rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("schema", help="of the log")
    source = get_source(parser.parse_args().schema, None)
    source.raw_files()
    started, rows, sizes = time.process_time(), 0, []
    for part in source.parts():
        for some in source.read_part(part):
            rows += len(some)
            if rows // EVERY > len(sizes):
                sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    seconds = time.process_time() - started
    figures = {"rows": rows, "cpu_seconds": round(seconds, 2), "rows_per_cpu_second": round(rows / seconds)}
    print(json.dumps({"code": clickprompt.__path__[0], **figures, f"peak_mib_every_{EVERY}_rows": sizes}))


if __name__ == "__main__":
    main()
