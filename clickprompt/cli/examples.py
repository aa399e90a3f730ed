"""The commands by groups, as `clickprompt --help` shows them, with the examples that end each one's help."""

__all__ = ["EXAMPLES", "GROUPS"]

GROUPS: dict[str, tuple[str, ...]] = {
    "Data": ("fetch", "init", "prepare", "tokenize", "synth"),
    "Training": ("pretrain", "finetune", "tune", "pipeline", "reproduce"),
    "What came out": ("evaluate", "recovery", "attention", "explain", "compare", "report", "predict"),
    "To a server": ("export", "serve"),
    "Clusters and machines": ("submit", "job", "doctor", "plan", "benchmark"),
    "Settings": ("presets", "config"),
}

EXAMPLES: dict[str, tuple[str, ...]] = {
    "fetch": (
        "clickprompt fetch movielens-100k --out data/movielens-100k",
        "clickprompt fetch minilm-l6 --out data/minilm-l6",
    ),
    "init": ("clickprompt init ratings.csv movies.csv --out log.yaml",),
    "prepare": (
        "clickprompt prepare log.yaml --out runs/log",
        "clickprompt prepare movielens-100k --raw data/movielens-100k --out runs/ml100k",
    ),
    "tokenize": ("clickprompt tokenize runs/log --plm data/minilm-l6",),
    "synth": ("clickprompt synth goodreads --rows 1000000 --out data/synth",),
    "pretrain": (
        "clickprompt pretrain --config run.yaml --run runs/pretrained",
        "clickprompt pretrain --set data.path=runs/log --set plm.path=data/minilm-l6 --run runs/pretrained",
    ),
    "finetune": (
        "clickprompt finetune --config run.yaml --run runs/finetuned",
        "clickprompt finetune --config run.yaml --set finetune.init=runs/pretrained --run runs/finetuned",
    ),
    "tune": ("clickprompt tune --config sweep.yaml --run runs/sweep",),
    "pipeline": (
        "clickprompt pipeline log.yaml --run runs/first",
        "clickprompt pipeline --config demo --run runs/demo",
        "clickprompt pipeline bookcrossing --minutes 30 --run runs/books",
    ),
    "reproduce": (
        "clickprompt reproduce table-2 --run runs/tables",
        "clickprompt reproduce all --dataset bookcrossing --budget cpu --plan --run t",
    ),
    "evaluate": (
        "clickprompt evaluate --run runs/finetuned",
        "clickprompt evaluate --run runs/finetuned --against runs/scratch --split valid",
    ),
    "recovery": ("clickprompt recovery --run runs/pretrained",),
    "attention": ("clickprompt attention --run runs/pretrained --rows 2000",),
    "explain": (
        "clickprompt explain --run runs/finetuned",
        "clickprompt explain --run runs/finetuned --split valid --repeats 10",
    ),
    "compare": ("clickprompt compare a0 a1 --against b0 --against b1",),
    "report": ("clickprompt report runs/finetuned runs/scratch --out report.html",),
    "predict": (
        "clickprompt predict --run runs/first --rows new.csv",
        "clickprompt predict --run runs/best --rows 'new/*.parquet' --out clicks",
    ),
    "export": (
        "clickprompt export --run runs/finetuned --out export",
        "clickprompt export --run runs/finetuned --format onnx --out export",
        "clickprompt export --run runs/finetuned --format embeddings --out vectors",
    ),
    "serve": ("clickprompt serve --run runs/finetuned --port 8000",),
    "submit": (
        "clickprompt submit report runs/a --address http://HEAD:8265",
        "clickprompt submit pretrain --address http://HEAD:8265 --config run.yaml --run s3://BUCKET/pretrained",
    ),
    "job": ("clickprompt job list --address http://HEAD:8265",),
    "job list": ("clickprompt job list --address http://HEAD:8265",),
    "job status": ("clickprompt job status JOB --address http://HEAD:8265",),
    "job logs": ("clickprompt job logs JOB --follow --address http://HEAD:8265",),
    "job stop": ("clickprompt job stop JOB --address http://HEAD:8265",),
    "doctor": ("clickprompt doctor",),
    "plan": (
        "clickprompt plan run.yaml --step-seconds 0.5",
        "clickprompt plan movielens-1m-dcnv2 --rows 50000000",
    ),
    "benchmark": ("clickprompt benchmark tokens",),
    "presets": ("clickprompt presets",),
    "config": ("clickprompt config pretrain.lr prompt.num_prompts", "clickprompt config pretrain"),
}
"""command → what can be typed; the first one stands in `clickprompt --help`"""
