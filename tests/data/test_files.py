"""Data files of each format are read as they are; damaged ones are refused."""

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
