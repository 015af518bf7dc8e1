"""Benchmarks of whole generation, on tiny models. No time is asserted."""

import importlib.util
import json
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

from illume_fast.bench.engine import contests, demo, first, guided, hugging_face, illume_plus, janus, qwen
from illume_fast.bench.engine.contest import Contest, once, run_contest, take_turns
from illume_fast.bench.engine.curves import reads
from illume_fast.bench.engine.floor import body_weights, decode_step, picture_floor, reading
from illume_fast.bench.engine.greedy import same_greedy
from illume_fast.bench.engine.share import outside_share
from illume_fast.bench.report import write_report
from illume_fast.bench.table import generation_table
from illume_fast.cli import main
from illume_fast.engine import Engine
from illume_fast.kernels import native
from illume_fast.model.config import DecoderConfig
from illume_fast.model.presets import illume_plus_3b, illume_plus_7b

pytestmark = pytest.mark.skipif(native.missing is not None, reason=native.missing or "")
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
TINY = DecoderConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    max_position_embeddings=512,
)
H200 = {"bandwidth": 4.3e12, "rate": 790e12}


def steps(batch=2, dtype=torch.float32, **more):
    return qwen.steps(TINY, dtype, batch, name="tiny", drawn=4, steps=10, **more)


@pytest.mark.parametrize(
    ("preset", "tokens", "batch", "pictures_per_second"),
    [
        (illume_plus_7b, 256, 1, 1.26),
        (illume_plus_7b, 256, 64, 74),
        (illume_plus_7b, 256, 256, 117),
        (illume_plus_7b, 256, 512, 117),
        (illume_plus_3b, 256, 1, 2.95),
        (illume_plus_3b, 256, 64, 167),
        (illume_plus_3b, 256, 256, 272),
    ],
)
def test_floors_of_pictures_on_an_h200(preset, tokens, batch, pictures_per_second):
    floor = picture_floor(preset().model.decoder, tokens=tokens, batch=batch, head_rows=32768, **H200)
    assert floor.pictures_per_second == pytest.approx(pictures_per_second, rel=0.02)
    assert floor.latency == pytest.approx(tokens * floor.step)


def test_floors_count_each_weight_and_each_key():
    model = guided.random_model(TINY, torch.float32, "cpu")
    layers = sum(p.numel() for p in model.decoder.layers.parameters() if p.ndim == 2)
    assert body_weights(TINY) == layers
    one, two = (decode_step(TINY, [10, 6], batch=b, head_rows=512, itemsize=4) for b in (1, 2))
    assert two.bytes - one.bytes == 2 * 16 * 2 * 16 * 2 * 4  # k and v, tokens, heads, their size, layers, bytes
    assert one.operations == 2 * (2 * layers + 512 * 64) + 4 * 16 * 4 * 16 * 2
    assert two.operations == 2 * one.operations
    read = reading(TINY, [3, 5], itemsize=4)
    assert (read.bytes, read.operations) == (4 * layers, 2 * 8 * layers + 4 * (6 + 15) * 64 * 2)


def contest(**changes):
    plain = {
        "op": "engine",
        "name": "nothing",
        "make": lambda device, stack: stack.enter_context(ExitStack()),
        "check": lambda made: None,
        "ours": lambda made: once(lambda: sum(range(1000))),
        "pictures": 4,
        "tokens": 8,
        "bytes": 4000,
        "footprint": 4000,
    }
    return Contest(**{**plain, **changes})


def test_rows_of_a_contest_say_what_is_made_in_a_second():
    closed = []

    def make(device, stack):
        stack.callback(closed.append, device)
        return "made"

    def peer(made, stack):
        assert made == "made"
        assert not closed
        return once(lambda: sum(range(2000)))

    def broken(made, stack):
        raise ImportError("no such library")

    peers = {"peer": peer, "broken": broken}
    contest_ = contest(make=make, peers=peers, notes=lambda made: {"of": made}, fewest=4, steps=2, goal=1.5)
    ours, theirs = run_contest(contest_, seconds=0.001)
    assert closed == ["cpu"]
    assert (ours["who"], theirs["who"], ours["of"], "of" in theirs) == ("illume_fast", "peer", "made", False)
    assert (ours["goal"], ours["left_out"]) == (1.5, {"broken": "ImportError: no such library"})
    for row in (ours, theirs):
        assert row["calls"] == row["turns"] >= 4
        assert row["steps_per_s"] == pytest.approx(2e3 / row["median_ms"])
        assert row["pictures_per_s"] == pytest.approx(4e3 / row["median_ms"])
        assert row["floor_tokens_per_s"] == pytest.approx(8e3 / row["floor_ms"])
        assert row["commit"]
        assert row["torch"]
        json.dumps(row)
    assert [row["who"] for row in run_contest(contest_, 0.001, peers=())] == ["illume_fast"]


def test_a_peer_that_takes_too_long_leaves_after_its_first_turn():
    called = []

    def of(name, seconds):
        def turn():
            called.append(name)
            time.sleep(seconds)
            return [seconds, seconds]

        return turn

    turns = {"illume_fast": of("illume_fast", 0.05), "slow": of("slow", 0.05), "quick": of("quick", 0.0)}
    taken, late = take_turns(turns, 0.001, 3, peer_seconds=0.1)
    assert called.count("slow") == 1
    assert list(late) == ["slow"]
    assert "3 of them may take 0.1 s" in late["slow"]
    assert taken == {"illume_fast": [[0.05] * 2] * 3, "quick": [[0.0] * 2] * 3}
    assert take_turns(turns, 0.001, 3, peer_seconds=1.0)[1] == {}


@pytest.mark.slow
def test_a_peer_that_does_not_get_ready_is_left_out():
    def never(made, stack):
        time.sleep(60)

    (row,) = run_contest(contest(peers={"never": never}), 0.001, peer_seconds=0.1)
    assert row["left_out"] == {"never": "TimeoutError: it was not ready after 0.1 s"}
    # so is one that is being compiled meanwhile
    compiled = {"compiled": guided.their_steps(compiled=True)}
    if importlib.util.find_spec("transformers") is not None:
        (row,) = run_contest(steps(peers=compiled), 0.001, peer_seconds=0.5)
        assert "not ready after 0.5 s" in row["left_out"]["compiled"]


def test_wrong_answers_are_not_timed(monkeypatch, capsys):
    def refuse(made):
        raise RuntimeError("engine: greedy answer 0 is wrong")

    monkeypatch.setattr("illume_fast.bench.engine.contests", lambda *kind: [contest(check=refuse)])
    assert main(["bench", "engine", "--seconds", "0.01"]) == 1
    assert "wrong: engine, nothing: engine: greedy answer 0 is wrong" in capsys.readouterr().err


def test_greedy_answers_may_differ_at_ties_alone():
    scores = torch.full((8,), -torch.inf)
    scores[:4] = torch.tensor([1.0, 1.0 - 1e-6, -1.0, 0.5])
    ours, theirs = torch.tensor([[2, 0, 3], [1, 1, 1]]), torch.tensor([[2, 1, 5], [1, 1, 1]])
    asked = []

    def logits(row, step):
        asked.append((row, step))
        return scores

    same_greedy("engine", ours, theirs, logits, 1e-3)
    assert asked == [(0, 1)]
    ours[0, 1] = 3
    with pytest.raises(RuntimeError, match=r"greedy answer 0 has id 3 at step 1, the peer's 1, and one lies 0\.\d+"):
        same_greedy("engine", ours, theirs, logits, 1e-3)
    with pytest.raises(RuntimeError, match="shapes"):
        same_greedy("engine", ours, theirs[:, :2], logits, 1e-3)


@needs_transformers
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_beside_transformers(dtype):
    rows = run_contest(steps(dtype=dtype), seconds=0.01, peers=("transformers, static cache",))
    assert [row["who"] for row in rows][:2] == ["illume_fast", "transformers, static cache"]
    assert all(row["turns"] >= 3 for row in rows)
    assert all(row["calls"] == 6 * row["turns"] for row in rows)  # of ten steps some are not counted
    assert all(row["tokens_per_s"] == pytest.approx(2 * row["steps_per_s"]) for row in rows)


@needs_transformers
def test_the_peer_draws_the_same_from_a_cache_that_was_filled_before():
    made = steps().make("cpu", ExitStack()).greedy()
    made = replace(made, prompts=[made.prompts[0], made.prompts[1][2:]])  # one has to be filled up on the left
    model = hugging_face.mirror(made.model)
    cache = hugging_face.read(model, made.rows, len(made.plan))
    for _ in range(2):
        answers = hugging_face.generate(model, made.rows, hugging_face.Draw(made.plan, made.sampling), cache=cache)
        assert torch.equal(answers, guided._theirs(made))


@needs_transformers
def test_another_model_is_told_from_ours():
    made = steps().make("cpu", ExitStack())
    guided.check(made)
    other = guided.random_model(replace(TINY, rope_theta=100.0), torch.float32, "cpu")
    with pytest.raises(RuntimeError, match="greedy answer"):
        guided.check(replace(made, model=other))


@needs_transformers
def test_the_peer_draws_by_the_plan():
    (contest_, *_) = illume_plus.REHEARSAL
    made = contest_.make("cpu", ExitStack())
    answers = guided._theirs(made)
    plan = made.plan
    assert torch.equal(answers[:, plan.forced >= 0], torch.from_numpy(plan.forced[plan.forced >= 0]).expand(2, -1))
    for step in plan.draws.tolist():
        site = plan.sites[plan.site[step]]
        assert ((answers[:, step] >= site.lo) & (answers[:, step] < site.hi)).all()
    assert answers[0].ne(answers[1]).any()


def test_an_engine_that_replays_nothing_is_an_error():
    made = illume_plus.REHEARSAL[0].make("cpu", ExitStack())
    with pytest.raises(RuntimeError, match="no recorded step was replayed"):
        illume_plus._replayed(made)
    made.draw()
    assert illume_plus._replayed(made)["graph_replays"] > 0


@pytest.mark.parametrize("contest_", illume_plus.REHEARSAL[2:], ids=lambda c: c.name)
def test_guessing_beside_one_draw_a_step(contest_):
    rows = run_contest(replace(contest_, check=lambda made: None, fewest=1), seconds=0.001)
    assert [row["who"] for row in rows] == ["illume_fast", "without guessing"]
    assert 1 <= rows[0]["accepted_per_step"] <= 4
    made = contest_.make("cpu", ExitStack())
    plain = replace(made, engine=Engine(made.model, replace(made.engine.config, speculative_tokens=0)))
    plain.draw()
    with pytest.raises(RuntimeError, match="no step guessed"):
        illume_plus._replayed(plain)


def test_time_outside_kernels_is_a_part_of_the_whole(monkeypatch):
    made = steps().make("cpu", ExitStack())
    assert 0 < guided.share_of_steps(made)["outside_share"] < 1
    assert outside_share(lambda on_step: on_step(None)) == 1  # nothing is called
    # kernels take three quarters of the time, but for a first step, which does not count
    clock = iter([0.0, 1.0, 2.0, 3.0] * 3)
    kernels = iter([0.0, 0.0, 0.75, 1.5] * 3)
    monkeypatch.setattr("illume_fast.bench.engine.share.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("illume_fast.bench.engine.share.kernel_seconds", lambda: next(kernels))
    assert outside_share(lambda on_step: [on_step(None) for _ in range(3)], settled=1) == 0.25


def test_prompts_are_read_in_every_turn(monkeypatch):
    contest_ = reads(TINY, torch.float32, 2, 40, name="tiny", scale=("tiny", "prompts", 2))
    (row,) = run_contest(contest_, seconds=0.01)
    assert row["tokens_per_s"] == pytest.approx(80e3 / row["median_ms"])
    made = contest_.make("cpu", ExitStack())
    turn, fed = contest_.ours(made), []
    made.model.decoder.register_forward_pre_hook(lambda module, inputs: fed.append(len(inputs[0])))
    turn()
    count = sum(fed)
    turn()
    assert count >= 2 * 40
    assert sum(fed) == 2 * count


def test_pictures_and_samples_of_the_demo_model():
    contest_ = demo.pictures(2, 2, decode=True, with_first=False)
    (row,) = run_contest(replace(contest_, fewest=1), seconds=0.01)
    assert row["pictures_per_s"] > 0
    samples = replace(demo.samples(2), fewest=1)
    assert [row["who"] for row in run_contest(samples, seconds=0.01)] == ["illume_fast", "2 prompts unshared"]


def test_prompt_lengths_of_the_demo_model():
    made = demo.make(1, 1, decode=False, with_first=False)("cpu", ExitStack())
    (request,) = made.pipeline.tasks.requests(demo.Draw(prompt=demo.PROMPTS[0]))
    assert request.unconditional is not None
    assert tuple(sum(map(len, p)) for p in (request.prompt, request.unconditional)) == demo.PROMPT_LENGTHS
    assert len(request.plan.draws) == sum(demo.CODES)


def test_without_history_there_is_no_first_version(tmp_path, monkeypatch):
    monkeypatch.setattr(first, "_ROOT", tmp_path)
    with pytest.raises(RuntimeError, match="needs a checkout with commit de70e39"):
        first.first_version(tmp_path / "first")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_first_version_is_built_and_draws_the_same(tmp_path):
    try:
        folder = first.first_version(tmp_path / "first")
    except RuntimeError as error:
        pytest.skip(str(error))
    assert first.first_version(folder) == folder
    contest_ = replace(demo.pictures(4, 2, decode=False), fewest=1)
    assert [row["who"] for row in run_contest(contest_, seconds=0.01)] == ["illume_fast", "first version"]


@needs_transformers
def test_janus_beside_transformers():
    pytest.importorskip("illume_fast.integrations.janus")
    tiny = janus.pictures(2, hidden=64, layers=2, heads=4, intermediate=96, codes=512, tokens=16)
    rows = run_contest(replace(tiny, fewest=1), seconds=0.01)
    assert [row["who"] for row in rows] == ["illume_fast", "transformers"]


def test_contests_have_names_of_their_own():
    for device, kind in (("cpu", "CONTESTS"), ("cpu", "CURVES"), ("cuda", "CONTESTS"), ("cuda", "REHEARSAL")):
        chosen = contests(device, kind)
        assert len({c.name for c in chosen}) == len(chosen)
        assert all(c.op == "engine" and c.bytes and c.operations and c.footprint for c in chosen)
        assert all((c.scale is not None) == (kind != "CONTESTS" or device == "cuda") for c in chosen)


def test_curves_show_rates(tmp_path):
    machine = {"device": "d", "bandwidth_GB_per_s": 1.0, "float32_GFLOP_per_s": 1.0, "bfloat16_GFLOP_per_s": 1.0}
    plain = {"op": "engine", "p20_ms": 1, "p80_ms": 1, "floor_ms": 0.5, "ours_is_faster_by": 1.0, **machine}
    plain |= {"commit": "c", "date": "2026-01-01", "curve": "demo", "axis": "pictures together"}
    rates = {"floor_pictures_per_s": 9.0, "outside_share": 0.3}
    rows = [
        {**plain, "case": str(n), "who": "illume_fast", "at": n, "median_ms": n, "pictures_per_s": n, **rates}
        for n in (1, 2)
    ]
    names = {path.stem for path in write_report(rows, tmp_path)}
    assert "pictures-per-second-over-pictures-together" in names
    assert "part-of-the-time-outside-kernels-over-pictures-together" in names
    assert not any("speed-up" in name for name in names)
    assert generation_table(rows) == []


def test_curves_of_one_quantity_and_axis_share_a_plot(tmp_path):
    machine = {"device": "d", "bandwidth_GB_per_s": 1.0, "float32_GFLOP_per_s": 1.0, "bfloat16_GFLOP_per_s": 1.0}
    plain = {"op": "engine", "p20_ms": 1, "p80_ms": 1, "floor_ms": 0.5, "ours_is_faster_by": 1.0, **machine}
    plain |= {"commit": "c", "date": "2026-01-01"}
    rows = [
        {**plain, "case": f"{curve}, {n} {axis}", "who": who, "at": n, "curve": curve, "axis": axis, "median_ms": n}
        | {"tokens_per_s": n, "floor_tokens_per_s": 2.0 * n}
        for curve, axis in (("demo", "pictures"), ("Qwen2", "pictures"), ("demo", "prompts"))
        for n in (1, 2)
        for who in ("illume_fast", "peer")
    ]
    rows[0] |= {"left_out": {"transformers": "a turn takes 90 s"}}
    names = {path.stem for path in write_report(rows, tmp_path)}
    assert names == {"README", "report", "tokens-per-second-over-pictures", "tokens-per-second-over-prompts"}
    assert "- demo, 1 pictures: transformers: a turn takes 90 s" in (tmp_path / "README.md").read_text()


def test_the_command_rehearses(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    assert (
        main(
            [
                *("bench", "engine", "--rehearse", "--case", "64, batch 1,", "--peer"),
                *("--seconds", "0.01", "--json", str(file)),
            ]
        )
        == 0
    )
    assert "pictures/s" in capsys.readouterr().out
    (row,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert row["case"].startswith("ILLUME+ tiny")
    assert main(["bench", "engine", "--case", "no such case"]) == 2
    assert "no case is called no such case" in capsys.readouterr().err
