"""Compare the loss curves of two commits to the bit, and continue the old one's runs with the new one.

    python scripts/compare_losses.py OLD [NEW]

OLD and NEW (default: the working tree) are revisions of this repository. Each trains the three objectives
on torch and on DeepSpeed ZeRO-2: two workers on CPUs, 20 steps, dropout on, on the same small synthetic log
and a BERT of two layers. Every step's loss, gradient norm and counts must be equal. Then NEW continues each
of OLD's runs from its checkpoint after step 10, which must give OLD's last ten steps. Prints a table; exit
status 1 where anything differs.
"""

import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STEPS, HALFWAY = 20, 10
COMPARED = ("step", "loss", "targets", "rows", "tokens", "lr_factor", "gradient_norm")
OBJECTIVES = {
    "pretrain": ("pretrain", []),
    "with_plm": ("finetune", []),
    "without_plm": ("finetune", ["finetune.with_plm=false"]),
}
ENGINES = {
    "torch": ["runtime.engine=torch"],
    "zero2": ["runtime.engine=deepspeed", "runtime.zero_stage=2"],
}
PLM = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", help="a revision, such as main~20")
    parser.add_argument("new", nargs="?", help="another one; default: the working tree")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compare-losses-") as folder:
        old = checkout(given.old, os.path.join(folder, "old"))
        new = checkout(given.new, os.path.join(folder, "new")) if given.new else ROOT
        try:
            different = compare(old, new, folder)
        finally:
            for tree in (old, new):
                if tree != ROOT:
                    git("worktree", "remove", "--force", tree)
    sys.exit(1 if different else 0)


def compare(old: str, new: str, folder: str) -> int:
    """How many of the comparisons differ."""
    inputs = make_inputs(old, folder)
    different = 0
    print(f"{'objective':<14}{'engine':<8}{'step 20':>12}  {'both commits':<22}old run continued")
    for objective, (stage, settings) in OBJECTIVES.items():
        for engine, where in ENGINES.items():
            runs = {name: os.path.join(folder, f"{name}-{objective}-{engine}") for name in ("a", "b", "c")}
            options = [*inputs, *settings, *where, *sizes(stage)]
            train(old, stage, runs["a"], options)
            train(new, stage, runs["b"], options)
            interrupt(runs["a"], runs["c"])
            train(new, stage, runs["c"], options)
            curve = metrics(runs["a"])
            verdicts = [differences(curve, metrics(runs[name])) for name in ("b", "c")]
            different += sum(map(bool, verdicts))
            shown = [verdict or "identical" for verdict in verdicts]
            print(
                f"{objective:<14}{engine:<8}{curve[-1]['loss']:>12.8f}  {shown[0]:<22}{shown[1]}", flush=True
            )
    return different


def checkout(revision: str, folder: str) -> str:
    git("worktree", "add", "--detach", folder, revision)
    return folder


def git(*arguments: str) -> None:
    subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True)


def clickprompt(tree: str, *arguments: str) -> None:
    """Run the command as `tree` has it, by the entry point that its pyproject.toml names."""
    with open(os.path.join(tree, "pyproject.toml"), "rb") as stream:
        module, function = tomllib.load(stream)["project"]["scripts"]["clickprompt"].split(":")
    program = f"import sys; from {module} import {function}; {function}(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": tree, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=tree, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{tree}: clickprompt {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")


def make_inputs(tree: str, folder: str) -> list[str]:
    """Write a synthetic log, prepared, and a PLM without weights; the settings that name them."""
    log, data, plm = (os.path.join(folder, name) for name in ("log", "data", "plm"))
    os.makedirs(plm)
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [f"##{character}" for character in characters]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *pieces]
    write(os.path.join(plm, "vocab.txt"), "\n".join(words))
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    write(os.path.join(plm, "tokenizer_config.json"), json.dumps(tokenizer))
    write(os.path.join(plm, "config.json"), json.dumps({**PLM, "vocab_size": len(words)}))
    clickprompt(tree, "synth", "goodreads", "--rows", "2000", "--out", log)
    clickprompt(tree, "prepare", os.path.join(log, "schema.yaml"), "--out", data)
    clickprompt(tree, "tokenize", data, "--plm", plm)
    return [f"data.path={data}", f"plm.path={plm}"]


def sizes(stage: str) -> list[str]:
    return [
        *("plm.random_init=true", "plm.max_length=48", "prompt.num_prompts=2"),
        *("ctr.embedding_dim=8", "ctr.hidden_dim=16", "ctr.num_layers=2", "ctr.dropout=0.1"),
        *("runtime.num_workers=2", "runtime.keep_every=10"),
        *(f"{stage}.{setting}" for setting in ("global_batch_size=48", "micro_batch_size=8")),
        *(f"{stage}.{setting}" for setting in (f"max_steps={STEPS}", f"checkpoint_every={HALFWAY}")),
    ]


def train(tree: str, stage: str, run: str, settings: list[str]) -> None:
    clickprompt(tree, stage, "--run", run, *(part for setting in settings for part in ("--set", setting)))


def interrupt(run: str, copy: str) -> None:
    """Make of a finished run what a kill after step 10 would have left of it."""
    name = f"step-{HALFWAY:08d}"
    shutil.copytree(os.path.join(run, "kept", name), os.path.join(copy, "checkpoints", name))
    shutil.copy(os.path.join(run, "config.yaml"), copy)
    lines = [json.dumps(line) + "\n" for line in metrics(run)[:HALFWAY]]
    write(os.path.join(copy, "metrics.jsonl"), "".join(lines))


def metrics(run: str) -> list[dict[str, Any]]:
    """Read a run's steps, which earlier versions wrote into one file and later ones write in pieces."""
    lines: list[str] = []
    for path in glob.glob(os.path.join(run, "metrics.jsonl")) + sorted(
        glob.glob(os.path.join(run, "metrics", "*.jsonl"))
    ):
        with open(path) as stream:
            lines += stream.readlines()
    return [json.loads(line) for line in lines]


def differences(curve: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    """The first step and figure that differ; '' where none does."""
    if len(curve) != len(other):
        return f"{len(curve)} and {len(other)} steps"
    for ours, theirs in zip(curve, other, strict=True):
        for key in COMPARED:
            if ours[key] != theirs[key]:
                return f"step {ours['step']}: {key} {ours[key]!r}, {theirs[key]!r}"
    return ""


def write(path: str, text: str) -> None:
    with open(path, "w") as stream:
        stream.write(text)


if __name__ == "__main__":
    main()
