"""Entry point for `ray job submit`: run `clickprompt synth` on the cluster that runs this job.

ray job submit --address http://HEAD:8265 --working-dir jobs -- python synth.py goodreads --rows N --out URI
"""

import sys

from clickprompt.cli.main import main

if __name__ == "__main__":
    main(["synth", *sys.argv[1:], "--set", "runtime.address=auto"])
