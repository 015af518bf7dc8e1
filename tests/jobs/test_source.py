"""Rows: streamed in constant memory, and repeated ids found all the same."""

import json
import subprocess
import sys

import pytest

from illume_fast.data.errors import InputError
from illume_fast.data.prompts import BadRow, Prompt
from illume_fast.jobs.shard import Shard
from illume_fast.jobs.source import PromptFile, Prompts, Spool, once


@pytest.mark.parametrize(
    "name,count",
    [
        ("p.txt", 200_000),
        ("p.jsonl", 50_000),
        ("p.csv", 50_000),
        ("p.parquet", 50_000),
        *(pytest.param(name, 1_000_000, marks=pytest.mark.slow) for name in ("p.jsonl", "p.csv", "p.parquet")),
    ],
)
def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path, name, count):
    path = tmp_path / name
    words = [f"a picture of the thing with number {i}" for i in range(count)]
    if name == "p.parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"prompt": words}), path, row_group_size=5_000)
    else:
        lines = {"p.txt": words, "p.jsonl": (json.dumps({"prompt": w}) for w in words), "p.csv": ["prompt", *words]}
        path.write_text("\n".join(lines[name]))
    # in a process of its own, whose peak is not that of the tests before
    code = f"""
import resource
from illume_fast.jobs.source import PromptFile, once
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for number, row in enumerate(once(PromptFile({str(path)!r}).rows()), start=1):
    if number == {count // 10}:
        early = peak()
assert number == {count} and row.prompt == {words[-1]!r}
print(peak() - early)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # a list of 50 000 prompts takes 20 000 KiB
    assert int(done.stdout) < 6_000, f"{done.stdout} KiB more at the end than after a tenth"


def test_ids_that_come_again_are_found_however_far_apart():
    rows = ({"prompt": "x", "id": f"Row-{i % 50_000}"} for i in range(50_003))
    bad = [row for row in once(Prompts(rows).rows()) if isinstance(row, BadRow)]
    assert [row.id for row in bad] == ["#50000", "#50001", "#50002"]
    assert bad[2].reason == "prompt 50002: id 'Row-2' was already used in prompt 2"


def test_prompts_of_python():
    given = ["red apple", {"prompt": "pear", "seed": 3, "size": [32, 64]}, Prompt(id="own", prompt="fig"), 5, "", {}]
    rows = list(Prompts(given).rows())
    assert [(row.id, row.prompt) for row in rows[:3]] == [("0000", "red apple"), ("0001", "pear"), ("own", "fig")]
    assert (rows[1].seed, rows[1].size) == (3, (32, 64))
    assert [row.reason for row in rows[3:]] == [
        "prompt 3: a prompt is a text, a dict or a Prompt, got int",
        "prompt 4: needs a \"prompt\" that is a text, got ''",
        'prompt 5: needs a "prompt" that is a text, got None',
    ]
    assert Prompts(given).total_known
    assert not Prompts(iter(given)).total_known
    with pytest.raises(InputError, match="there are no prompts"):
        list(Prompts([]).rows())


def test_written_down_rows_come_back_as_they_were(tmp_path):
    guided = {"guidance": 2, "negative_prompt": "fig", "guidance_from": 3, "guidance_until": 9}
    given = [{"prompt": "pear", "size": "32x64", "image": "a/b.png", "num_images": 2}, {"prompt": "pear", **guided}]
    source = Prompts(["käse 🧀", *given, 5])
    assert list(Spool.of(source, tmp_path / "rows").rows()) == list(source.rows())


def test_an_edit_needs_a_picture(tmp_path):
    (tmp_path / "e.jsonl").write_text('{"prompt": "a", "image": "x.png"}\n{"prompt": "b"}\n')
    first, second = PromptFile(tmp_path / "e.jsonl", need_image=True).rows()
    assert first.image == tmp_path / "x.png"
    assert second.reason.endswith('line 2: an edit needs an "image", the path of its picture')


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_picture_has_one_owner_and_shares_are_equal(count):
    shards = [Shard(number + 1, count) for number in range(count)]
    names = [(f"{i:04d}", k) for i in range(1000) for k in range(3)]
    owners = [[shard.number for shard in shards if shard.owns(*name)] for name in names]
    assert all(len(found) == 1 for found in owners)
    shares = [sum(found == [shard.number] for found in owners) for shard in shards]
    assert min(shares) > 0.9 * len(names) / count
    assert all(shard.owns("CAT", 0) == shard.owns("cat", 0) for shard in shards)


def test_a_part_splits_into_parts():
    parts = [part for number in (1, 2, 3) for part in Shard(number, 3).split(2)]
    assert parts == [Shard(number + 1, 6) for number in range(6)]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "a/b", "1/3/5", "1/99999"])
def test_bad_shards(text):
    with pytest.raises(InputError, match="is not I/N"):
        Shard.parse(text)
