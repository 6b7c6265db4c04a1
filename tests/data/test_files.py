"""Data files of each format are read as they are; damaged ones are refused."""

import csv
from unicodedata import normalize

import pandas as pd
import pytest

from deepcuts.data.files import read_columns


def refused(tmp_path, content: str | bytes, suffix: str = ".csv", wanted: tuple[str, ...] = ("body", "label")) -> str:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=r"bad\.") as caught:
        read_columns(path, wanted)
    return str(caught.value)


def read(tmp_path, content: str, suffix: str) -> dict[str, list[object]]:
    path = tmp_path / f"good{suffix}"
    path.write_bytes(content.encode())
    return read_columns(path, ("body", "label"))


def test_a_csv_file_is_unquoted_and_its_values_stay_text(tmp_path):
    content = 'body,more,label\r\n"a, ""b""\nc",,0\r\n\r\nNA,x,null\r\n'
    assert read(tmp_path, content, ".csv") == {"body": ['a, "b"\nc', "NA"], "label": ["0", "null"]}


def test_a_tsv_file_has_no_quoting(tmp_path):
    content = 'label\tbody\n1\t"open, and ""\n0\t"a"\n'
    assert read(tmp_path, content, ".tsv") == {"body": ['"open, and ""', '"a"'], "label": ["1", "0"]}


def test_jsonl_values_keep_their_types_and_missing_keys_are_null(tmp_path):
    content = '\ufeff{"body": "2012-01-01", "label": 1}\n\n{"label": "1"}\n{"body": 5, "label": true}\n'
    assert read(tmp_path, content, ".jsonl") == {"body": ["2012-01-01", None, 5], "label": [1, "1", True]}


def test_the_suffix_may_be_upper_case(tmp_path):
    assert read(tmp_path, "body,label\na,0\n", ".CSV") == {"body": ["a"], "label": ["0"]}


def test_a_damaged_file_is_refused(tmp_path):
    assert "is empty" in refused(tmp_path, "")
    assert "not a readable Parquet file" in refused(tmp_path, "PAR1 but cut short", ".parquet")
    whole = pd.DataFrame({"body": ["a"] * 99, "label": range(99)}).to_parquet()
    assert "not a readable Parquet file" in refused(tmp_path, whole[:-9], ".parquet")
    assert "line 2 is not JSON" in refused(tmp_path, '{"body": "a", "label": 0}\n{"body": ', ".jsonl")
    assert "line 1 is list" in refused(tmp_path, '["a", 0]\n', ".jsonl")
    assert "line 3 has 3 fields, the header 2: a comma" in refused(tmp_path, "body,label\na,0\nb,c,1\n")
    assert "line 2 has 1 field, the header 2: a line end in a text" in refused(tmp_path, "body\tlabel\na\n", ".tsv")


def test_an_unknown_format_is_refused(tmp_path):
    assert "unknown format '.json'; known: .parquet, .csv, .tsv, .jsonl" in refused(tmp_path, "[]", ".json")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_the_error_for_a_missing_column_has_the_nearest_and_all_columns(tmp_path, suffix):
    frame = pd.DataFrame({"bodi": ["a", "b"], "label": [0, 1]})
    content = {
        ".parquet": frame.to_parquet(index=False),
        ".csv": frame.to_csv(index=False),
        ".tsv": frame.to_csv(index=False, sep="\t"),
        ".jsonl": frame.to_json(orient="records", lines=True),
    }[suffix]
    message = refused(tmp_path, content, suffix)
    assert "no column 'body'; did you mean 'bodi'? it has 'bodi', 'label'" in message


def test_a_repeated_column_is_refused(tmp_path):
    assert "column 'body' occurs 2 times" in refused(tmp_path, "body,body,label\na,b,0\n")


LONG = "x" * 200_000  # the csv module's own limit is 131,072 characters


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (f'body,label\n"{LONG}",0\n', ".csv"),
        (f"body\tlabel\n{LONG}\t0\n", ".tsv"),
        (f'{{"body": "{LONG}", "label": "0"}}', ".jsonl"),
    ],
)
def test_a_text_may_be_of_any_length(tmp_path, content, suffix):
    assert read(tmp_path, content, suffix) == {"body": [LONG], "label": ["0"]}
    assert csv.field_size_limit() == 131_072


@pytest.mark.parametrize("spelled", ["NFC", "NFD"])
def test_an_accent_in_a_column_s_name_may_be_composed_or_not(tmp_path, spelled):
    frame = pd.DataFrame({normalize(spelled, "th\u00e9"): ["a", "b"], "label": ["0", "1"]})
    for suffix, content in {
        ".parquet": frame.to_parquet(index=False),
        ".csv": frame.to_csv(index=False).encode(),
        ".jsonl": frame.to_json(orient="records", lines=True, force_ascii=False).encode(),
    }.items():
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        for form in ("NFC", "NFD"):
            name = normalize(form, "th\u00e9")
            assert read_columns(path, (name, "label")) == {name: ["a", "b"], "label": ["0", "1"]}


def test_of_two_spellings_of_a_column_the_one_that_is_meant_is_read(tmp_path):
    composed, decomposed = "\u00e9", "e\u0301"
    files = {
        "a.csv": f"{decomposed},{composed}\n1,2\n",
        "a.jsonl": f'{{"{decomposed}": "1", "{composed}": "2"}}',
        "b.jsonl": f'{{"{composed}": "2", "{decomposed}": "1"}}',
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content, "utf-8")
        assert read_columns(tmp_path / name, (composed,)) == {composed: ["2"]}
        assert read_columns(tmp_path / name, (decomposed,)) == {decomposed: ["1"]}


BODY = "body,label\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{BODY}a,0\nb,c,1\n", "line 3 has 3 fields, the header 2: a comma in a text? Put quotes"),
        (f"{BODY}a,0\nb\nc,1\n", "line 3 has 1 field, the header 2: a line end in a text, or a field left out?"),
        (f'{BODY}"a\nb",0\nc\n', "line 4 has 1 field, the header 2"),
        (f'{BODY}a,0\n"b,1\nc,0\nd",1,2\n', "lines 3 to 5 are one row of 3 fields, the header has 2: is the quote"),
        (
            f'{BODY}a,0\n"b,1\nc,0\n',
            "line 3: a quote opens here and is never closed; write a quote inside",
        ),
        (f'{BODY}"a ""x\ny"" z","0\nb,1\n', "line 3: a quote opens here and is never closed"),
        (f'{BODY}"a\n""x\ny,""z\n', "line 2: a quote opens here and is never closed"),
        (f'{BODY}"","""a\nb,1\n', "line 2: a quote opens here and is never closed"),
        (f'{BODY}a,0\n"b"x,1\n', "line 3: a quote closes and more text follows; write"),
        (f'{BODY}"a,0\nb,1\n"c",1\n', "line 4: a quote closes and more text follows, in a row that begins in line 2"),
        ("\nbody,label\n", "line 1 is blank; it must name the columns, such as body, label"),
        ("\ufeff", "line 1 is blank"),
        ("body;label\na;0\n", "separated by semicolons: line 1 is 'body;label'; a .csv has commas: save it again"),
        ('"body";"label"\n"a";0\n', "separated by semicolons"),
        ("bodi;label\na;0\n", "separated by semicolons"),
        ("body\tlabel\na\t0\n", "separated by tabs: line 1 is 'body\\tlabel'; a .csv has commas: rename it to"),
        ("body|a, b|label\n", "separated by vertical bars"),
        ("body;b,label\n", "no column 'body'; did you mean 'body;b'?"),
    ],
)
def test_what_is_wrong_in_a_csv_file_is_named_with_its_line(tmp_path, content, message):
    assert message in refused(tmp_path, content)


def test_what_is_wrong_in_a_tsv_file_is_named_with_its_line(tmp_path):
    assert "separated by commas: line 1 is 'body,label'; rename it to .csv" in refused(tmp_path, BODY, ".tsv")
    assert "by semicolons: line 1 is 'body;label'; a .tsv has tabs" in refused(tmp_path, "body;label\n", ".tsv")
    assert "line 2 has 3 fields, the header 2: a tab" in refused(tmp_path, "body\tlabel\na\tb\t0\n", ".tsv")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("body,label\ngood,0\nZo\u00eb was fine,1\n".encode("latin-1"), "byte 20 (from 0), in line 3, is 0xEB"),
        (
            "body,label\ngood,0\nZo\u00eb was fine,1\n".encode("latin-1"),
            "it reads 'Zo\u00eb was fine,1': if that is right",
        ),
        (b"\xef\xbb\xbfa\xff", "byte 4 (from 0), in line 1, is 0xFF"),
        (b"a\rb\xff", "byte 3 (from 0), in line 2"),
        (b"0123456789\n" * 50_000 + b"\xff", "byte 550,000 (from 0), in line 50,001"),
        (b"body,label\nZo\xc3", "byte 13 (from 0), in line 2, begins a character that the file's end cuts"),
        ("body,label\na,0\n".encode("utf-16"), "is UTF-16 text, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 bad."),
        ("body,label\na,0\n".encode("utf-16-le"), "is UTF-16LE text, not UTF-8"),
        ("body,label\na,0\n".encode("utf-16-be"), "is UTF-16BE text, not UTF-8"),
        (("body,label\n" + "\u65e5\u672c" * 50).encode("utf-16-le"), "is UTF-16LE text, not UTF-8"),
        ("body,label\na,0\n".encode("utf-32"), "is UTF-32 text, not UTF-8"),
        ("body,label\na,0\n".encode("utf-32-le"), "is UTF-32LE text, not UTF-8"),
        ("body,label\na,0\n".encode("utf-32-be"), "is UTF-32BE text, not UTF-8"),
        (b"PK\x03\x04\x14\x00\x06\x00\xff", "is a zip archive, such as an Excel file, not text; save its table as"),
        (b"\x1f\x8b\x08\x00\xff", "is compressed by gzip, not text"),
    ],
)
def test_a_text_file_that_is_not_utf_8_is_named_as_what_it_is(tmp_path, suffix, content, message):
    assert message in refused(tmp_path, content, suffix)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[" * 100_000, "line 2 is nested too deeply: '[[["),
        ('{"body": ' * 50_000, "line 2 is nested too deeply"),
        (f'{{"label": {"1" * 5000}}}', "line 2 has a number of thousands of digits; shorten it"),
        ("{'body': 'a'}", "line 2 is not JSON: Expecting property name enclosed in double quotes at"),
        (
            '{"body": "a"},',
            'line 2 is not JSON: Extra data at character 13 of \'{"body": "a"},\'; each line is',
        ),
        ("3", "line 2 is int, not an object; each line is one object, such as"),
    ],
)
def test_what_is_wrong_in_a_jsonl_file_is_named_with_its_line(tmp_path, line, message):
    found = refused(tmp_path, f'{{"body": "a", "label": 0}}\n{line}\n', ".jsonl")
    assert message in found
    assert len(found) < 600


def test_of_many_columns_only_some_are_listed(tmp_path):
    names = ",".join(f"c{number}" for number in range(5000))
    message = refused(tmp_path, f"{names}\n")
    assert "it has 'c0', 'c1'" in message
    assert "'c19' and 4,980 more" in message
