"""The command line before any work: help, unknown arguments, values out of range."""

import importlib.util
import subprocess
import sys
import time

import pytest

from illume_fast.commands.train import STAGES


@pytest.mark.parametrize("command", ["generate", "edit", "chat", "evaluate", "convert", "info", "train"])
def test_every_command_is_listed_and_has_help(cli, command):
    assert command in cli("--help").out
    shown = cli(command, "--help")
    assert shown.code == 0
    assert "usage: illume-fast" in shown.out


def test_help_comes_without_loading_torch():
    code = "import sys; from illume_fast.cli import main\n"
    code += "try: main(['generate', '--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'PIL', 'numpy', 'safetensors'} & set(sys.modules); assert not heavy, heavy"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--num-images" in done.stdout
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "arguments,message",
    [
        ([], "generate"),
        (["paint"], "paint"),
        (["generate"], "PROMPTS"),
        (["generate", "red apple"], "--out"),
        (["generate", "red apple", "--out", "x", "--guidnce", "3"], "guidnce"),
        (["generate", "red apple", "--out", "x", "--guidance", "strong"], "strong"),
        (["evaluate", "cars", "--data", "x"], "cars"),
        (["train"], "stages:"),
    ],
)
def test_what_cannot_be_parsed_exits_with_2(cli, arguments, message):
    shown = cli(*arguments)
    assert shown.code == 2
    assert message in shown.out + shown.err


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--guidance", "nan"], "--guidance must be from 0 to 100, got nan"),
        (["--guidance", "-1"], "--guidance must be from 0 to 100, got -1.0"),
        (["--temperature", "-0.5"], "--temperature must be from 0"),
        (["--top-k", "-1"], "--top-k must be from 0"),
        (["--top-p", "1.5"], "--top-p must be from 0 to 1, got 1.5"),
        (["--num-images", "0"], "--num-images must be from 1"),
        (["--seed", "-4"], "--seed must be from 0"),
        (["--batch-size", "0"], "--batch-size must be from 1"),
        (["--workers", "0"], "--workers must be from 1"),
        (["--per-file", "0"], "--per-file must be from 1"),
        (["--shard", "4/3"], "--shard '4/3' is not I/N with I from 1 to N"),
        (["--size", "large"], "--size: size 'large' is not HEIGHTxWIDTH in pixels, for example 64x64"),
    ],
)
def test_values_out_of_range_name_the_option_and_touch_nothing(cli, tmp_path, arguments, message):
    shown = cli("generate", "red apple", "--out", tmp_path / "out", *arguments)
    assert shown.code == 2
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_train_lists_its_stages_and_refuses_others(cli):
    shown = cli("train", "--help")
    assert shown.code == 0
    assert all(stage in shown.out for stage in STAGES)
    refused = cli("train", "everything")
    assert refused.code == 2
    known = ", ".join(STAGES)
    assert refused.err == f"illume-fast: unknown training stage 'everything'; the stages are {known}\n"


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_its_module(stage):
    assert importlib.util.find_spec(f"illume_fast.training.{stage}")


def test_a_fault_of_the_program_is_not_hidden(cli, monkeypatch):
    monkeypatch.setattr("illume_fast.jobs.source.read_prompts", lambda source: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli("generate", "x.txt", "--out", "x")


def test_an_interrupt_says_so(cli, monkeypatch):
    def interrupted(source):
        raise KeyboardInterrupt

    monkeypatch.setattr("illume_fast.jobs.source.read_prompts", interrupted)
    shown = cli("generate", "x.txt", "--out", "x")
    assert (shown.code, shown.err) == (130, "illume-fast: interrupted; what was done is kept\n")
