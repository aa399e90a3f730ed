r"""Entry point for `ray job submit`: run `clickprompt predict` on the cluster that runs this job.

ray job submit --address http://HEAD:8265 --working-dir jobs -- \
    python predict.py --run URI --rows URI --out URI
"""

import sys

from clickprompt.cli.main import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:], "--set", "runtime.address=auto"])
