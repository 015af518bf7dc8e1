"""`generate_batch` with a small random model in this process: results, failures, and what it takes to get them."""

import itertools
import json
import subprocess
import sys
import tracemalloc

import pytest
import torch
from PIL import Image
from support import on_threads
from tiny_pipeline import tiny_pipeline

import illume_fast
from illume_fast.data.errors import InputError
from illume_fast.data.prompts import Prompt
from illume_fast.engine import EngineConfig
from illume_fast.jobs.config import JobConfig
from illume_fast.jobs.ledger import Ledger
from illume_fast.jobs.painter import Painter
from illume_fast.jobs.source import Prompts
from illume_fast.jobs.stores import open_store
from illume_fast.jobs.tally import Tally
from illume_fast.jobs.work import Work

generate_batch = illume_fast.generate_batch
PROMPTS = [f"a red heart number {i}" for i in range(12)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """A model this small gains nothing from threads."""
    with on_threads(1):
        yield


@pytest.fixture
def pipe(tmp_path):
    return tiny_pipeline(tmp_path, EngineConfig(max_batch=4, cache_tokens=4096))


def rows(folder, name="results.jsonl"):
    path = folder / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def tokens(folder):
    return {(row["id"], row["index"]): row["tokens"] for row in rows(folder)}


def test_it_is_found_without_loading_torch():
    code = "import sys, illume_fast; illume_fast.generate_batch; assert not {'torch', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'generate_bunch'"):
        illume_fast.generate_bunch  # noqa: B018


def test_a_job_goes_on_where_it_was(pipe, tmp_path):
    out = tmp_path / "out"
    seen = []
    first = generate_batch(PROMPTS[:5], out, pipe, on_progress=seen.append)
    assert (first.drawn, first.kept, first.failed, first.folder) == (5, 0, 0, out)
    assert [progress.done for progress in seen] == [1, 2, 3, 4, 5]
    assert seen[0].total == 5
    second = generate_batch(iter(PROMPTS), out, pipe, num_images=2, seed=0)
    assert (second.drawn, second.kept, second.failed) == (19, 5, 0)
    assert len(tokens(out)) == len(rows(out)) == 24
    assert (out / "contact_sheet.png").exists()
    with pytest.raises(InputError, match="was made with seed 0, not 1"):
        generate_batch(PROMPTS, out, pipe, seed=1)


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_every_format_holds_the_same_pictures(pipe, tmp_path, format):
    pytest.importorskip("pyarrow")
    generate_batch(PROMPTS, tmp_path / "png", pipe)
    generate_batch(PROMPTS[:7], tmp_path / "out", pipe, format=format, per_file=5)
    done = generate_batch(PROMPTS, tmp_path / "out", pipe, format=format, per_file=5)
    assert (done.drawn, done.kept) == (5, 7)
    assert tokens(tmp_path / "out") == tokens(tmp_path / "png")
    assert len({row["file"] for row in rows(tmp_path / "out")}) == 3
    sheets = [Image.open(tmp_path / name / "contact_sheet.png").tobytes() for name in ("png", "out")]
    assert sheets[0] == sheets[1]


def test_prompts_of_every_kind(pipe, tmp_path):
    given = ["a dog", {"prompt": "a tree", "size": "32x64", "num_images": 2}, Prompt(id="own", prompt="grass", seed=9)]
    done = generate_batch(given, tmp_path / "out", pipe)
    assert done.drawn == 4
    found = {(row["id"], row["index"]): row for row in rows(tmp_path / "out")}
    assert set(found) == {("0000", 0), ("0001", 0), ("0001", 1), ("own", 0)}
    assert (found["0001", 1]["size"], found["own", 0]["seed"]) == ("32x64", 9)


def broken_tokenizer(pipe, monkeypatch):
    encode = type(pipe.tasks.chat.text).encode

    def raising(self, text):
        if "number 3" in text:
            raise ValueError("cannot read this")
        return encode(self, text)

    monkeypatch.setattr(type(pipe.tasks.chat.text), "encode", raising)


def test_bad_rows_fail_alone_with_their_reasons(pipe, tmp_path, monkeypatch):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    broken_tokenizer(pipe, monkeypatch)
    bad = {
        "0001": ({"prompt": " "}, 'prompt 1: needs a "prompt"'),
        "0003": ("a red heart number 3", "ValueError: cannot read this"),
        "0005": ({"prompt": "make it green", "image": str(tmp_path / "torn.png")}, "torn.png"),
        "0006": ({"prompt": "a dog", "size": "48x48"}, "prompt 6: size 48x48 is not supported"),
        "0008": ("a dog " * 2000, "the model takes 1024"),
        "0009": ({"prompt": "make it green", "image": str(tmp_path / "gone.png")}, "does not exist"),
        "0011": ({"prompt": "a dog", "id": "0000"}, "id '0000' was already used in prompt 0"),
    }
    given = [bad.get(f"{i:04d}", (prompt,))[0] for i, prompt in enumerate(PROMPTS)]
    done = generate_batch(given, tmp_path / "out", pipe)
    assert (done.drawn, done.failed) == (5, 7)
    failures = {row["id"].removeprefix("#"): row["reason"] for row in rows(tmp_path / "out", "failures.jsonl")}
    assert failures.keys() == bad.keys()
    for id, (_, reason) in bad.items():
        assert reason in failures[id]
        assert "\n" not in failures[id]
    monkeypatch.undo()
    assert generate_batch(PROMPTS, tmp_path / "good", pipe).drawn == 12
    assert tokens(tmp_path / "out").items() <= tokens(tmp_path / "good").items()
    # what failed is tried again, and what is no longer asked for is no longer a failure
    again = generate_batch([*PROMPTS[:10]], tmp_path / "out", pipe)
    assert (again.drawn, again.kept, again.failed) == (6, 4, 0)
    assert not (tmp_path / "out/failures.jsonl").exists()


def test_nan_fails_the_rows_that_meet_it(pipe, tmp_path):
    # the embedding of a token that one prompt alone has
    text = pipe.tasks.chat.text
    common = {i for prompt in ("a red heart", "a tree") for i in text.encode(prompt)}
    (unlucky, *_) = [i for i in text.encode("a dog") if i not in common]
    with torch.no_grad():
        embedding = pipe.checkpoint.model.model.embed_tokens.weight
        embedding[unlucky] = torch.nan
    done = generate_batch(["a red heart", "a dog", "a tree"], tmp_path / "out", pipe)
    assert (done.drawn, done.failed) == (2, 1)
    (failure,) = rows(tmp_path / "out", "failures.jsonl")
    assert failure["id"] == "0001"
    assert "NaN in the model" in failure["reason"]


def test_strict_stops_at_the_first(pipe, tmp_path):
    given = [*PROMPTS[:3], {"prompt": ""}, *PROMPTS[4:], {"prompt": ""}]
    with pytest.raises(InputError, match='prompt 3: needs a "prompt"'):
        generate_batch(given, tmp_path / "out", pipe, strict=True)
    assert [row["id"] for row in rows(tmp_path / "out")] == ["0000", "0001", "0002"]
    assert len(rows(tmp_path / "out", "failures.jsonl")) == 1


def limited(pipe, monkeypatch, most, error):
    """Let the decoder raise `error` when more than `most` pictures are drawn together."""
    kind = type(pipe)
    stream = kind.generate_stream

    def raising(self, tasks, on_step=None, decode=True):
        def watch(progress):
            if progress.active > most:
                raise error

        return stream(self, tasks, watch, decode)

    monkeypatch.setattr(kind, "generate_stream", raising)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError("std::bad_alloc"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 999 bytes"),
    ],
    ids=["cuda", "python", "torch-cpu"],
)
def test_out_of_memory_shrinks_the_batch_and_changes_no_picture(pipe, tmp_path, monkeypatch, capsys, error):
    generate_batch(PROMPTS[:6], tmp_path / "whole", pipe)
    limited(pipe, monkeypatch, 1, error)
    done = generate_batch(PROMPTS[:6], tmp_path / "out", tiny_pipeline(tmp_path, pipe.engine.config))
    assert (done.drawn, done.failed) == (6, 0)
    assert tokens(tmp_path / "out") == tokens(tmp_path / "whole")
    said = capsys.readouterr().err
    assert "out of memory drawing 4 pictures at once; going on with 2" in said
    assert "out of memory drawing 2 pictures at once; going on with 1" in said


def test_without_any_memory_the_job_stops_and_says_so(pipe, tmp_path, monkeypatch):
    limited(pipe, monkeypatch, 0, MemoryError())
    with pytest.raises(InputError, match="out of memory drawing one picture at a time"):
        generate_batch(PROMPTS, tmp_path / "out", pipe)
    # the picture at hand counts as failed, and so do none of the others
    assert [row["id"] for row in rows(tmp_path / "out", "failures.jsonl")] == ["0000"]


def test_other_errors_are_not_taken_for_a_lack_of_memory(pipe, tmp_path, monkeypatch):
    limited(pipe, monkeypatch, 1, RuntimeError("a fault"))
    with pytest.raises(RuntimeError, match="a fault"):
        generate_batch(PROMPTS, tmp_path / "out", pipe)


def test_a_stopped_consumer_reads_no_further(pipe, tmp_path):
    """A million rows wait behind a consumer that takes three pictures."""
    pulled = itertools.count()
    source = Prompts(f"a dog number {next(pulled)}" for _ in range(1_000_000))
    config = JobConfig(out=tmp_path / "out")
    with Ledger(config.out) as ledger:
        work = Work(source.rows(), config, Painter(pipe, "tiny"), ledger, open_store(ledger, "png", 1), Tally(None))
        stream = pipe.generate_stream(work)
        for _ in range(3):
            next(stream)
        before = next(pulled)
        tracemalloc.start()
        for _ in range(30):
            work.finished((next(stream).task.tag["id"], 0))
        grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        stream.close()
    # four in flight, one ahead, and those that are decoded together
    assert before <= 16
    assert next(pulled) <= before + 40
    assert grown < 2_000_000


@pytest.mark.parametrize(
    "options,message",
    [
        ({"format": "jpeg"}, "format 'jpeg' is not known; allowed are png, webdataset, parquet"),
        ({"shard": "3/2"}, "shard '3/2' is not I/N"),
        ({"num_images": 0}, "num_images must be from 1"),
        ({"size": "big"}, "size: size 'big'"),
        ({"devices": "tpu", "model": "demo"}, "device 'tpu' is not known"),
        ({"devices": "cuda:99", "model": "demo"}, "device cuda:99: torch sees"),
        ({"workers": 2}, "a loaded pipeline is one worker on its own device"),
        ({"source": "gone.txt"}, "prompt file gone.txt does not exist"),
        ({"source": []}, "there are no prompts"),
    ],
)
def test_nonsense_is_refused_and_touches_nothing(pipe, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        generate_batch(**{"source": ["a dog"], "out": tmp_path / "out", "model": pipe, **options})
    assert not (tmp_path / "out/images").exists()
