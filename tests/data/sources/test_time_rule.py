"""Dates that are neither numbers since 1970 nor ISO, from a draft to a dataset."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clickprompt.cli.main import main
from clickprompt.data.sources.check import check_source
from clickprompt.data.sources.draft import draft_schema
from clickprompt.data.sources.registry import get_source
from clickprompt.data.sources.schema import load_schema
from clickprompt.errors import ConfigError, DataError
from clickprompt.runtime.prepare.prepare import prepare

START = datetime.datetime(2024, 4, 20, 9, tzinfo=datetime.UTC)
MOMENTS = [START + datetime.timedelta(hours=row) for row in range(400)]


def csv(folder, format, column="when"):
    rows = [f"{row % 7},{row % 3},{row % 2},{at.strftime(format)}\n" for row, at in enumerate(MOMENTS)]
    (folder / "log.csv").write_text(f"a,b,click,{column}\n" + "".join(f"{row[:-1]}\n" for row in rows))
    return folder / "log.csv"


def drafted(file):
    made = draft_schema([str(file)], str(file.parent))
    (file.parent / "log.yaml").write_text(made.text)
    return load_schema(str(file.parent / "log.yaml")), made.text


@pytest.mark.parametrize(
    "format",
    [
        *("%Y%m%d", "%y%m%d%H", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S", "%Y/%m/%d", "%d/%m/%Y %H:%M"),
        *("%m/%d/%Y %I:%M:%S %p", "%d.%m.%Y", "%d-%b-%y", "%d%b%Y", "%d/%b/%Y:%H:%M:%S %z"),
        *("%a %b %d %H:%M:%S %z %Y", "%Y%m%dT%H%M%S%z", "%d/%m/%y %H:%M:%S.%f"),
    ],
)
def test_a_draft_finds_the_format_and_prepare_reads_it(tmp_path, format):
    schema, text = drafted(csv(tmp_path, format))
    assert (schema.timestamp.column, schema.timestamp.format) == ("when", format)
    assert "2024-04-20 to 2024-05-07 in the sample; the split is by it" in text
    assert {field.column for field in schema.fields} == {"a", "b"}
    dataset = prepare(str(tmp_path / "log.yaml"), None, str(tmp_path / "d"), progress=lambda line: None)
    # days alone leave the order of their rows to the log, which is in time
    assert dataset.read_split("test")["row_id"].to_pylist() == [*range(360, 400)]
    kept = [datetime.datetime.strptime(at.strftime(format), format).replace(tzinfo=None) for at in MOMENTS]
    found = dataset.read_split("test")["timestamp"].cast(pa.timestamp("us")).to_pylist()
    assert found == kept[360:]


def test_days_and_months_that_could_be_either(tmp_path):
    """01/05 to 12/05: a log of twelve days rather than of twelve months."""
    lines = [f"{row % 7},{row % 3},{row % 2},{row % 12 + 1:02d}/05/2024\n" for row in range(60)]
    (tmp_path / "log.csv").write_text("a,b,click,day\n" + "".join(lines))
    schema, text = drafted(tmp_path / "log.csv")
    assert schema.timestamp.format == "%d/%m/%Y"
    assert "2024-05-01 to 2024-05-12 in the sample; or its format is %m/%d/%Y" in text


def test_formats_that_read_the_same_times_are_no_doubt(tmp_path):
    """May is May by its short and by its long name."""
    lines = [f"{row % 7},{row % 3},{row % 2},{row % 28 + 1} May 2024\n" for row in range(60)]
    (tmp_path / "log.csv").write_text("a,b,click,day\n" + "".join(lines))
    schema, text = drafted(tmp_path / "log.csv")
    assert schema.timestamp.format == "%d %b %Y"
    assert "or its format" not in text


def test_numbers_without_a_name_of_time_are_no_dates(tmp_path):
    assert drafted(csv(tmp_path, "%Y%m%d", column="shelf"))[0].timestamp is None


def typed(folder, values, **timestamp):
    rows = len(values)
    columns = {"a": [*range(7)] * rows, "b": [*range(3)] * rows, "click": [0, 1] * rows}
    pq.write_table(
        pa.table({name: cells[:rows] for name, cells in columns.items()} | {"day": values}),
        folder / "l.parquet",
    )
    schema = {"data": "l.parquet", "label": {"column": "click"}, "timestamp": {"column": "day", **timestamp}}
    schema["fields"] = [{"name": name, "column": name} for name in "ab"]
    (folder / "log.yaml").write_text(yaml.safe_dump(schema))
    return str(folder / "log.yaml")


def test_dates_of_digits_are_warned_of_unless_the_schema_says_what_they_are(tmp_path, capsys):
    days = pa.array([int(at.strftime("%Y%m%d")) for at in MOMENTS])
    schema = typed(tmp_path, days)
    warned = (
        "day=20240420 is read as time since 1970; if it is a date, set timestamp: {column: day, "
        'format: "%Y%m%d"}, else its unit'
    )
    assert [one for one in check_source(get_source(schema, None))["warnings"] if "1970" in one] == [
        f"in the sample: {warned}"
    ]
    with pytest.raises(SystemExit, match="0"):
        main(["prepare", schema, "--out", str(tmp_path / "d")])
    assert warned in capsys.readouterr().err
    for more in ({"unit": "s"}, {"format": "%Y%m%d"}):
        found = check_source(get_source(typed(tmp_path, days, **more), None))
        assert [one for one in found["warnings"] if "1970" in one] == []
    dates = {"first": "2024-04-20", "last": "2024-05-07"}
    assert json.loads(json.dumps(found))["files"].items() >= dates.items()
    found = check_source(
        get_source(
            typed(tmp_path, pa.array([at.strftime("%d.%m.%Y") for at in MOMENTS]), format="%d.%m.%Y"), None
        )
    )
    assert "first" not in found["files"]  # 01.05. is the first text and not the first day


def test_a_row_that_is_no_such_date(tmp_path):
    days = [at.strftime("%Y%m%d") for at in MOMENTS]
    days[37] = "20240431"
    with pytest.raises(
        DataError, match=r"row 38: day='20240431' is not a time of the format %Y%m%d; mend the row"
    ):
        prepare(typed(tmp_path, pa.array(days), format="%Y%m%d"), None, str(tmp_path / "d"))
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("timestamp", "said"),
    [
        ({"format": "%H:%M"}, "timestamp.format: '%H:%M' says no date"),
        ({"format": ""}, "timestamp.format: '' says no date"),
        (
            {"format": "%Y%m%d", "unit": "s"},
            "unit is for numbers since 1970, format for dates; give one of them",
        ),
    ],
)
def test_mistakes(tmp_path, timestamp, said):
    with pytest.raises(ConfigError, match=said):
        load_schema(typed(tmp_path, pa.array(["20240420"] * 3), **timestamp))


def test_a_schema_without_a_format_keeps_its_fingerprint(tmp_path):
    """The name of a source is that of its schema, which a dataset that is appended to must have."""
    assert (
        "format"
        not in json.loads(load_schema(typed(tmp_path, pa.array([1] * 3))).model_dump_json())["timestamp"]
    )
