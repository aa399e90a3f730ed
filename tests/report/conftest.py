import pytest

from clickprompt.data.prepared.dataset import Dataset
from clickprompt.io import storage
from tests.support import report_runs as made
from tests.support.synthetic import write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Enough test rows for most subsets; some remain undefined. With what `prepare` counts per field."""
    folder = str(tmp_path_factory.mktemp("report-data") / "data")
    write_dataset(folder, other_rows=600)
    manifest = storage.read_json(f"{folder}/manifest.json")
    for number, field in enumerate(manifest["fields"]):
        field["features"] = field["size"] - 1
        field["unseen_in_train"] = {"valid": 3 * number, "test": 60 * number}
        field["missing"] = {"train": 0, "valid": 0, "test": number // 3}
    start, day = 1_700_000_000_000_000, 86_400_000_000
    manifest["bounds"] = {
        split: [start + 9 * place * day, start + 9 * (place + 1) * day]
        for place, split in enumerate(("train", "valid", "test"))
    }
    storage.write_json(f"{folder}/manifest.json", manifest)
    return Dataset.open(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory, dataset):
    """Two models of two seeds each, one of which stopped early, a pretraining, a sweep: the addresses by
    name.
    """
    top = tmp_path_factory.mktemp("report-runs")
    places = {
        name: str(top / name)
        for name in ("dcnv2-0", "dcnv2-1", "prompted-0", "prompted-1", "pretrain", "sweep")
    }
    made.write_training(places["pretrain"], dataset, "pretrain", steps=150, plm__path="minilm-l6")
    made.write_prompts(places["pretrain"])
    for seed in (0, 1):
        plain, prompted = places[f"dcnv2-{seed}"], places[f"prompted-{seed}"]
        made.write_training(plain, dataset, "finetune", steps=500, seed=seed, finetune__with_plm=False)
        made.write_evaluation(plain, dataset, skill=0.5, seed=seed)
        made.write_training(
            prompted,
            dataset,
            "finetune",
            steps=500 - 200 * seed,
            planned=500,
            seed=seed,
            finetune__with_plm=False,
            finetune__init=places["pretrain"],
        )
        made.write_evaluation(prompted, dataset, skill=0.9, seed=seed + 2, against=plain)
    made.write_explained(places["dcnv2-0"])
    made.write_sweep(places["sweep"])
    return places
