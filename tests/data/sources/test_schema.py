"""The YAML of a log of one's own: what is understood, and one clear line for what isn't."""

import pytest

from clickprompt.data.sources.schema import load_schema
from clickprompt.errors import ConfigError, InputError

PLAIN = """
data: [log.csv]
label: {column: y}
fields:
  - {name: A, column: a}
  - {name: B, column: b}
"""


def load(tmp_path, text):
    (tmp_path / "log.yaml").write_text(text, encoding="utf-8")
    return load_schema(str(tmp_path / "log.yaml"))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", "true"),
        ("1", "1"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-05-01", "2024-05-01"),
        ("2024-05-01 12:30:00", "2024-05-01 12:30:00"),
        ("0x1F", "0x1F"),
        ("1e3", "1000.0"),
        ("3.0", "3.0"),
        ("'null'", "null"),
        ("~x", "~x"),
        ("-", "-"),
        ("+", "+"),
        (".", "."),
    ],
)
def test_a_plain_word_is_the_text_that_it_looks_like(tmp_path, written, meant):
    text = (
        PLAIN.replace("{column: y}", f"{{column: {written}, positive: [{written}], drop: [{written}]}}")
        if written != "-"
        else None
    )
    if text is None:
        text = PLAIN.replace("{column: y}", "{column: '-', positive: ['-'], drop: ['-']}")
    label = load(tmp_path, text).label
    assert (label.column, label.positive, label.drop) == (meant, (meant,), (meant,))


def test_codes_of_values_are_texts_too(tmp_path):
    schema = load(
        tmp_path,
        PLAIN.replace("{name: A, column: a}", "{name: A, column: a, values: {1: one, no: nothing, true: 5}}"),
    )
    assert schema.fields[0].values == {"1": "one", "no": "nothing", "true": "5"}


def test_a_column_of_times_alone_or_with_its_unit(tmp_path):
    alone = load(tmp_path, PLAIN + "timestamp: when").timestamp
    given = load(tmp_path, PLAIN + "timestamp: {column: when, unit: ms}").timestamp
    assert alone is not None
    assert given is not None
    assert (alone.column, alone.unit, given.column, given.unit) == ("when", None, "when", "ms")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("{name: A, column: a}", "{name: A, column: a, edges: [1]}"),
            "edges is a rule of kind numeric, not categorical",
        ),
        (
            ("{name: A, column: a}", "{name: A, column: a, separator: x}"),
            "separator is a rule of kind multi, not categorical",
        ),
        (
            ("{name: A, column: a}", "{name: A, column: a, kind: multi, values: {a: b}}"),
            "values is a rule of kind categorical, not multi",
        ),
        (
            ("{name: A, column: a}", "{name: A, column: a, kind: numeric}"),
            "a numeric field has one rule; give one of edges, round",
        ),
        (
            ("{name: A, column: a}", "{name: A, column: a, kind: numeric, edges: [1], log: 2}"),
            "a numeric field has one rule",
        ),
        (("{name: A, column: a}", "{name: A, column: a, kind: numeric, edges: [2, 1]}"), "do not increase"),
        (
            ("{name: A, column: a}", "{name: A, column: a, kind: numeric, edges: [1, .nan]}"),
            "do not increase",
        ),
        (("{name: A, column: a}", "{name: A, column: a, remove: '('}"), "is not a regular expression"),
        (("{name: A, column: a}", "{name: A, column: a, name: B}"), "the key 'name' is there twice"),
        (
            ("{column: y}", "{column: y, positive: [1], positive_from: 1}"),
            "positive_from and positive are two rules",
        ),
        (("{column: y}", "{column: a}"), "the label's column 'a' is a field too"),
        (("data: [log.csv]", "data: []"), "data"),
        (("data: [log.csv]", "data: [log.csv]\nuntil: 5"), "until"),
        (("data: [log.csv]", "data: [log.csv]\nk_core: 2"), "k_core=2 needs user and item"),
        (
            ("data: [log.csv]", "data: [log.csv]\ntimestamp: t\nsplit: s"),
            "timestamp and split are two ways to split",
        ),
        (
            ("data: [log.csv]", "data: [log.csv]\nexplode: {columns: [a], split: '-'}"),
            "split and into belong together",
        ),
        (("data: [log.csv]", "- a"), "not valid YAML"),
        (("data: [log.csv]", "data: &a [*a]"), "data"),
        (("data: [log.csv]", 'data: "\\ud800"'), "holds half a surrogate pair"),
        (("{name: A, column: a}", '{name: A, "\\ud800": a}'), "holds half a surrogate pair"),
        (
            ("{name: A, column: a}", "{name: A, column: a, kind: numeric, quantiles: 1000000000000}"),
            "give a whole number ≥ 2, ≤ 10000",
        ),
        (
            ("{name: A, column: a}", "{name: A, column: a, kind: numeric, log: 1.000001}"),
            "give a number ≥ 1.01",
        ),
        (("{column: y}", "{column: ''}"), "label.column='': give text, not empty"),
    ],
)
def test_mistakes_are_one_line(tmp_path, change, said):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, PLAIN.replace(*change))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_no_bad_yaml(tmp_path):
    with pytest.raises(InputError, match=r"log\.yaml: no such file or folder; check the path$"):
        load_schema(str(tmp_path / "log.yaml"))


def test_a_template_is_part_of_the_schema_only_where_it_is_given(tmp_path):
    """So that a log that was prepared before has the same fingerprint."""
    plain, given, compact = (
        load(tmp_path, PLAIN + line) for line in ("", "template: sentence\n", "template: compact\n")
    )
    assert "template" not in plain.model_dump_json()
    assert plain.model_dump_json() == given.model_dump_json() != compact.model_dump_json()
    with pytest.raises(ConfigError, match="template='short': give sentence or compact"):
        load(tmp_path, PLAIN + "template: short\n")
