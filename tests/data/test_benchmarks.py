"""Prompt sets of benchmarks: every published form is read, and what cannot be scored is refused."""

import json

import pytest

from illume_fast.data.benchmarks import read_benchmark
from illume_fast.data.errors import InputError

BENCH = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}


def ids_and_prompts(rows):
    return [(row.prompt.id, row.prompt.prompt) for row in rows]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_geneval_rows_are_numbered_and_keep_all_that_the_scorer_reads(tmp_path):
    cow = {**BENCH, "prompt": "two cows", "exclude": [{"class": "cow", "count": 3}]}
    rows = read_benchmark("geneval", write(tmp_path / "m.jsonl", BENCH, cow))
    assert ids_and_prompts(rows) == [("00000", "a photo of a bench"), ("00001", "two cows")]
    assert [row.metadata for row in rows] == [BENCH, cow]


def test_dpg_is_read_in_each_of_its_forms(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for id, text in (("partiprompts1", "a long one,\nin two lines"), ("12", "short")):
        (folder / f"{id}.txt").write_text(text)
    table = tmp_path / "dpg.csv"
    table.write_text(
        'item_id,text,proposition_id\n12,short,1\n12,short,2\npartiprompts1,"a long one,\nin two lines",1\n'
    )
    lines = write(
        tmp_path / "dpg.jsonl",
        {"id": "12", "prompt": "short"},
        {"id": "partiprompts1", "prompt": "a long one,\nin two lines"},
    )
    expected = [("12", "short"), ("partiprompts1", "a long one,\nin two lines")]
    for source in (folder, table, lines):
        assert ids_and_prompts(read_benchmark("dpg", source)) == expected


def test_genai_keeps_its_keys(tmp_path):
    path = tmp_path / "genai_image.json"
    path.write_text(json.dumps({"00000": {"prompt": "a cat", "models": {}}, "00007": {"prompt": "a dog"}}))
    assert ids_and_prompts(read_benchmark("genai", path)) == [("00000", "a cat"), ("00007", "a dog")]


@pytest.mark.parametrize(
    "name,file,text,message",
    [
        ("geneval", "m.jsonl", '{"prompt": "x"}', 'line 1: GenEval needs a "tag"'),
        (
            "geneval",
            "m.jsonl",
            '{"prompt": "x", "tag": "t", "include": {}}',
            'GenEval needs a "include" that is a list',
        ),
        ("geneval", "m.jsonl", '{"tag": "t", "include": []}', 'needs a "prompt" that is a text'),
        ("geneval", "m.jsonl", "[1]", "line 1: each line must be one JSON object"),
        ("geneval", "m.jsonl", "{", "line 1: not JSON"),
        ("geneval", "m.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("geneval", "m.jsonl", "\n", "has no prompts of geneval"),
        ("geneval", "m.txt", "x", "allowed are .jsonl"),
        ("dpg", "d.jsonl", '{"id": "a.b", "prompt": "x"}', "the scorer ends ids at the first dot"),
        ("dpg", "d.jsonl", '{"id": "a/b", "prompt": "x"}', "cannot name a file"),
        ("dpg", "d.jsonl", '{"id": "A", "prompt": "x"}\n{"id": "a", "prompt": "y"}', "id 'a' was already used in"),
        ("dpg", "d.jsonl", '{"prompt": "x"}', 'line 1: needs an "id"'),
        ("dpg", "d.csv", f'item_id,text\n1,"{"x" * 200_000}"\n', "d.csv: not CSV: field larger"),
        ("dpg", "d.csv", "item_id,words\n1,x\n", "missing columns text"),
        ("dpg", "d.csv", "item_id,text\n1,x\n1,y\n", "item '1' had another text before: 'x'"),
        ("dpg", "d.json", "{}", "allowed are a folder of .txt files, .csv, .jsonl"),
        ("genai", "g.json", "[]", "expected an object of ids"),
        ("genai", "g.json", "{}", "has no prompts of genai"),
        ("genai", "g.json", '{"00000": {"models": {}}}', 'needs a "prompt" that is a text'),
        ("genai", "g.json", "\xff", "not JSON"),
        ("genai", "g.json", "[" * 100_000, "g.json: not JSON"),
    ],
)
def test_what_cannot_be_scored_is_refused(tmp_path, name, file, text, message):
    (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_benchmark(name, tmp_path / file)
    assert message in str(error.value)


def test_a_line_ends_at_a_line_feed_alone(tmp_path):
    # such separators may stand in a JSON string as they are
    row = {**BENCH, "prompt": "a bench\u2028beside\x85a cow"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [row.metadata for row in read_benchmark("geneval", tmp_path / "m.jsonl")] == [row]


def test_missing_and_undecodable_files_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        read_benchmark("dpg", tmp_path / "nowhere")
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_benchmark("geneval", tmp_path / "m.jsonl")


def test_the_published_sets_are_read_whole(dataset):
    folder = dataset("prompts")
    geneval = read_benchmark("geneval", folder / "geneval.jsonl")
    dpg = read_benchmark("dpg", folder / "dpg.jsonl")
    assert (len(geneval), len(dpg)) == (553, 1065)
    assert {row.metadata["tag"] for row in geneval} == {
        *("single_object", "two_object", "counting", "colors", "position", "color_attr")
    }
