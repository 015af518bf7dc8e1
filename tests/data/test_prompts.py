"""Prompt files: every format, and every way a row can be wrong."""

import importlib.util
import json
import sys

import pytest
from support import ROOT

from illume_fast.data.errors import InputError
from illume_fast.data.prompt_files import is_prompt_file
from illume_fast.data.prompt_files import read_prompts as read_rows
from illume_fast.data.prompts import MAX_SEED, BadRow, one_prompt, parse_size
from illume_fast.jobs.source import once


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read_prompts(path):
    """All rows of a file; the first bad one is raised."""
    rows = list(once(read_rows(path)))
    for row in rows:
        if isinstance(row, BadRow):
            raise InputError(row.reason)
    return rows


def test_txt_is_a_prompt_a_line_and_blank_lines_do_not_count(tmp_path):
    prompts = read_prompts(written(tmp_path, "p.txt", "\ufeffred apple\r\n\n   \nein Käse\n"))
    assert [(p.id, p.prompt) for p in prompts] == [("0000", "red apple"), ("0001", "ein Käse")]
    assert prompts[1].origin.endswith("p.txt line 4")
    assert prompts[0].seed is prompts[0].size is prompts[0].image is prompts[0].num_images is None


def test_jsonl_carries_everything_and_ignores_what_it_does_not_know(tmp_path):
    row = {"prompt": "a cat", "id": 7, "seed": 3, "size": "64x32", "num_images": 2, "image": "in/cat.png", "tag": "x"}
    guided = {"guidance": 2, "negative_prompt": " a dog ", "guidance_from": "0", "guidance_until": 9}
    (found,) = read_prompts(written(tmp_path, "p.jsonl", json.dumps({**row, **guided}) + "\n"))
    assert (found.guidance, found.negative_prompt, found.guidance_from, found.guidance_until) == (2.0, "a dog", 0, 9)
    assert (found.id, found.seed, found.size, found.num_images) == ("7", 3, (64, 32), 2)
    assert found.image == tmp_path / "in/cat.png"


@pytest.mark.parametrize("name,separator", [("p.csv", ","), ("p.TSV", "\t")])
def test_tables_find_the_prompt_column_in_any_case_and_take_empty_cells_as_not_given(tmp_path, name, separator):
    lines = [["Challenge", "Prompt", "seed"], ["x", '"red apple, small"', "5"], ["y", "pear", ""], ["", "", ""]]
    prompts = read_prompts(written(tmp_path, name, "\n".join(separator.join(line) for line in lines)))
    assert [(p.prompt, p.seed) for p in prompts] == [("red apple, small", 5), ("pear", None)]


def test_a_csv_cell_may_hold_lines(tmp_path):
    (found,) = read_prompts(written(tmp_path, "p.csv", 'prompt\n"one\ntwo"\n'))
    assert found.prompt == "one\ntwo"


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"Prompt": ["pear", "fig"], "seed": [1.0, float("nan")], "embedding": [[0.0], [1.0]]})
    parquet.write_table(table, tmp_path / "p.parquet")
    assert [(p.prompt, p.seed) for p in read_prompts(str(tmp_path / "p.parquet"))] == [("pear", 1), ("fig", None)]


def test_parquet_columns_that_look_misspelt_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"prompt": ["pear"], "negative prompt": ["fig"]}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match="row 1: unknown key 'negative prompt'; did you mean 'negative_prompt'"):
        read_prompts(str(tmp_path / "p.parquet"))


def test_damaged_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read_prompts(written(tmp_path, "p.parquet", b"PAR1 and no more"))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="needs pyarrow"):
        read_prompts(written(tmp_path, "p.parquet", b""))


def test_a_quoted_prompt_is_itself():
    found = one_prompt("  red apple on a table ")
    assert (found.id, found.prompt) == ("0000", "red apple on a table")
    assert not is_prompt_file("very long " * 2000)


def test_given_and_made_ids_may_not_meet(tmp_path):
    with pytest.raises(InputError, match=r"line 2: id '0001' was already used in .* line 1"):
        read_prompts(written(tmp_path, "p.jsonl", '{"prompt": "a", "id": "0001"}\n{"prompt": "b"}'))
    with pytest.raises(InputError, match="id 'CAT' was already used"):
        read_prompts(written(tmp_path, "p.jsonl", '{"prompt": "a", "id": "cat"}\n{"prompt": "b", "id": "CAT"}'))


GOOD = '{"prompt": "a"}\n'


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("p.txt", "", "has no prompts"),
        ("p.txt", " \n\n", "has no prompts"),
        ("p.txt", b"ok\n\xff\xfe", r"p\.txt line 2: not UTF-8"),
        ("p.txt", "a\0b", "line 1: the prompt has a NUL"),
        ("p.jsonl", '{"prompt": "a \\ud800"}', "line 1: the prompt has a NUL character or half a surrogate"),
        ("p.doc", "red apple", r"unknown format '\.doc'; known: \.txt, \.jsonl"),
        ("p.jsonl", GOOD + "\n{oops", "line 3: not JSON"),
        ("p.jsonl", GOOD + "[1]", r"line 2: each line must be one JSON object, got \[1\]"),
        ("p.jsonl", GOOD + "[" * 100_000, "line 2: not JSON"),
        ("p.jsonl", '{"text": "a"}', 'line 1: needs a "prompt" that is a text, got None'),
        ("p.jsonl", '{"prompt": 5}', "got 5"),
        ("p.jsonl", '{"prompt": " "}', "got ' '"),
        ("p.jsonl", '{"prompt": "a", "num_image": 2}', "unknown key 'num_image'; did you mean 'num_images'"),
        ("p.jsonl", '{"prompt": "a", "seed": -1}', f'"seed" must be a whole number from 0 to {MAX_SEED}, got -1'),
        ("p.jsonl", '{"prompt": "a", "seed": 1.5}', "got 1.5"),
        ("p.jsonl", '{"prompt": "a", "seed": true}', "got True"),
        ("p.jsonl", '{"prompt": "a", "num_images": 0}', '"num_images" must be a whole number from 1'),
        ("p.jsonl", '{"prompt": "a", "size": "big"}', "size 'big' is not HEIGHTxWIDTH"),
        ("p.jsonl", '{"prompt": "a", "size": "0x64"}', "size '0x64'"),
        ("p.jsonl", '{"prompt": "a", "id": "../x"}', r"id '\.\./x' cannot name a file"),
        ("p.jsonl", '{"prompt": "a", "id": ""}', "id '' cannot name a file"),
        ("p.jsonl", '{"prompt": "a", "image": 3}', '"image" must be the path of a picture, got 3'),
        ("p.csv", "", "no column 'prompt'; its columns: none"),
        ("p.csv", "text,seed\na,1", "no column 'prompt'; its columns: text, seed"),
        ("p.csv", "prompt\n", "has no prompts"),
        ("p.csv", "prompt,seed\nred apple, small,1", "line 2: 3 cells under 2 columns"),
        ("p.csv", 'prompt\n"open', "line 2: unexpected end of data"),
        ("p.csv", "prompt,seed\napple,one", "line 2: \"seed\" must be a whole number from 0 to .*, got 'one'"),
    ],
)
def test_bad_files_name_the_place_in_one_line(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(written(tmp_path, name, content))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "source,message",
    [("nowhere.txt", "prompt file nowhere.txt does not exist"), ("/", "unknown|folder")],
)
def test_bad_sources_are_refused_before_a_row_is_asked_for(source, message):
    with pytest.raises(InputError, match=message):
        read_rows(source)


@pytest.mark.parametrize(
    "name,content",
    [
        ("p.txt", b"a\n\xff\nc\n"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": \n{"prompt": "c"}\n'),
        ("p.csv", b"prompt,seed\na,1\nb,1,2\nc,3\n"),
        ("p.csv", b"prompt,seed\na,1\n\xff,2\nc,3\n"),
        ("p.csv", b'prompt,seed\na,1\n"b"x,2\nc,3\n'),
    ],
)
def test_rows_after_a_bad_one_keep_their_numbers(tmp_path, name, content):
    first, bad, last = read_rows(written(tmp_path, name, content))
    assert [first.id, bad.id, last.id] == ["0000", "#0001", "0002"]
    assert f"{name} line " in bad.reason
    assert last.prompt == "c"


@pytest.mark.parametrize("text", ["64", "64x", "64x64x3", "-64x64", "64 x 64", "1e2x64"])
def test_bad_sizes(text):
    with pytest.raises(InputError, match="is not HEIGHTxWIDTH in pixels, for example 64x64"):
        parse_size(text)


def test_sizes_are_height_then_width():
    assert parse_size("384x512") == (384, 512)


@pytest.mark.parametrize("name,count", [("parti.tsv", 1632), ("geneval.jsonl", 553), ("dpg.jsonl", 1065)])
def test_published_prompt_sets_are_read_whole(name, count, dataset):
    assert len(read_prompts(str(dataset("prompts") / name))) == count


def test_reading_prompts_needs_no_torch():
    for module in ("illume_fast.data.prompts", "illume_fast.data.prompt_files", "illume_fast.jobs.source"):
        spec = importlib.util.find_spec(module)
        assert "torch" not in open(spec.origin, encoding="utf-8").read()


def test_the_shipped_prompt_file_holds_32_different_prompts():
    prompts = read_prompts(str(ROOT / "examples/prompts.txt"))
    assert len({p.prompt for p in prompts}) == len(prompts) == 32
