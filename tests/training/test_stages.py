"""Every stage, one after the other, on a handful of pictures; what each writes, the next one reads."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from illume_fast.data.emoji import EmojiEdit, EmojiRow, EmojiSet
from illume_fast.data.errors import InputError
from illume_fast.data.jsonl import read_conversations
from illume_fast.model.checkpoint import load_checkpoint
from illume_fast.training import mllm, prepare, publish, semantic, tokenizer
from illume_fast.training.encodings import encode_pictures
from illume_fast.training.loop import LoopConfig
from illume_fast.training.state import write_tensors

LOOP = LoopConfig(steps=6, batch_size=4, learning_rate=1e-3, warmup=2, log_every=2, save_every=2, evaluate_every=3)


@pytest.fixture(scope="module")
def run(shapes_dir, tmp_path_factory):
    """All stages, a few steps each."""
    root = tmp_path_factory.mktemp("run")
    prepare.main(prepare.PrepareConfig(data=shapes_dir, out=root / "prepared"))
    common = {"data": shapes_dir, "prepared": root / "prepared"}
    semantic.main(semantic.SemanticConfig(**common, out=root / "semantic", text_tokens=300, loop=LOOP))
    vision = tokenizer.TokenizerConfig(
        **common, semantic=root / "semantic", out=root / "tokenizer", compile=False, loop=LOOP
    )
    tokenizer.main(vision)
    language = mllm.MllmConfig(
        **common, semantic=root / "semantic", tokenizer=root / "tokenizer", out=root / "mllm", sequences=(2, 2, 2),
        loop=LOOP,
    )  # fmt: skip
    mllm.main(language)
    return root, vision, language


def test_conversations_hold_every_row_and_edit(run):
    root, _, _ = run
    train = {task: read_conversations(root / "prepared" / "train" / f"{task}.jsonl") for task in mllm.TASKS}
    assert [len(train[task]) for task in mllm.TASKS] == [10, 10, 10]
    assert train["text_to_image"][0].turns[0].endswith("the content of image is red disc\n")
    assert train["editing"][0].images == ("images/00.png", "images/01.png")


def test_what_little_else_resembles_is_repeated():
    rows = [
        EmojiRow(id=name, name=name, group="", subgroup="", base=base, tone="", split=split)
        for name, base, split in [
            ("apple", "apple", "train"), ("hand", "hand", "train"), ("dark hand", "hand", "train"),
            ("pear", "pear", "val"),
        ]
    ]  # fmt: skip
    edits = [EmojiEdit(1, 2, "darken", "skin tone", "train")] * 6 + [
        EmojiEdit(0, 1, "into a hand", "shape", "train")
    ] * 2
    emoji = EmojiSet(rows, np.zeros((4, 3, 1, 1), np.uint8), edits)
    train = prepare.conversations_of(emoji, "train", repeat=3)
    assert [c.turns[1] for c in train["captions"]] == ["apple"] * 3 + ["hand", "dark hand"]
    assert len(train["text_to_image"]) == 5
    assert [c.images[0] for c in train["editing"]] == ["images/hand.png"] * 6 + ["images/apple.png"] * 6
    assert len(prepare.conversations_of(emoji, "val")["captions"]) == 1


@pytest.mark.parametrize("stage", ["semantic", "tokenizer", "mllm"])
def test_each_stage_leaves_a_log_and_a_picture_of_it(run, stage):
    pytest.importorskip("matplotlib", reason="curves need the extra 'train'")
    root, _, _ = run
    lines = [json.loads(line) for line in (root / stage / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]
    assert [line["step"] for line in lines if "score" in line] == [3, 6]
    assert (root / stage / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_last_stage_writes_a_checkpoint_that_loads(run):
    root, _, _ = run
    loaded = load_checkpoint(root / "mllm" / "checkpoint")
    trained = load_file(root / "tokenizer" / "vision_tokenizer.safetensors")
    got = loaded.vision_tokenizer.state_dict()["pixel_decoder.conv_in.weight"]
    torch.testing.assert_close(got, trained["pixel_decoder.conv_in.weight"].bfloat16().float())


def test_training_goes_on_from_a_checkpoint(run, tmp_path):
    root, _, language = run
    start = root / "mllm" / "checkpoint"
    config = replace(language, semantic=None, tokenizer=None, start=start, out=tmp_path / "more")
    stage, loaded = mllm.Stage(config), load_checkpoint(start)
    for given, wanted in ((stage.model, loaded.model), (stage.tokenizer, loaded.vision_tokenizer)):
        assert all(torch.equal(given.state_dict()[name], value) for name, value in wanted.state_dict().items())
    assert not any(p.requires_grad for p in stage.model.model.vision_tower.parameters())
    mllm.main(config)
    more = load_checkpoint(tmp_path / "more" / "checkpoint")
    assert not torch.equal(more.model.head_weight, loaded.model.head_weight)
    eyes = more.model.model.vision_tower.state_dict()
    assert all(torch.equal(eyes[name], value) for name, value in loaded.model.model.vision_tower.state_dict().items())


def test_training_from_nothing_is_refused(run):
    _, _, language = run
    with pytest.raises(InputError, match=r"give --semantic and --tokenizer, .* or --start"):
        mllm.Stage(replace(language, tokenizer=None))


def test_encodings_of_another_tokenizer_are_not_taken(run, tmp_path):
    _, _, language = run
    model = mllm.Stage(language).tokenizer
    pixels = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    first = encode_pictures(model, pixels, mllm.UPRIGHT[:1], tmp_path / "cache")
    again = encode_pictures(model, pixels, mllm.UPRIGHT[:1], tmp_path / "cache")
    assert torch.equal(first.pixel, again.pixel)
    with torch.no_grad():
        model.pixel_encoder.conv_out.bias.add_(1.0)
    other = encode_pictures(model, pixels, mllm.UPRIGHT[:1], tmp_path / "cache")
    assert not torch.equal(first.pixel, other.pixel)


def is_decoder(name):
    return name.startswith(("pixel_decoder.", "pixel_post_quant_conv."))


@pytest.fixture(scope="module")
def sharper(run, tmp_path_factory):
    """The folder of a run that trained the decoder of `run` further."""
    root, vision, _ = run
    out = tmp_path_factory.mktemp("sharper")
    tokenizer.main(replace(vision, semantic=None, start=root / "tokenizer", decoder_only=True, out=out))
    return out


def test_a_decoder_alone_is_trained_further(run, sharper):
    root, _, _ = run
    before, after = (load_file(folder / "vision_tokenizer.safetensors") for folder in (root / "tokenizer", sharper))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (not is_decoder(name)), name


def test_a_published_model_can_take_another_decoder(run, sharper, tmp_path):
    root, _, _ = run
    common = {"checkpoint": root / "mllm" / "checkpoint", "guidance": 1.5, "edit_guidance": 2.0}
    publish.main(publish.PublishConfig(**common, out=tmp_path / "model", tokenizer=sharper))
    shipped, trained = load_checkpoint(tmp_path / "model"), load_file(sharper / "vision_tokenizer.safetensors")
    assert shipped.config.generation.edit_guidance == 2.0
    for name, tensor in shipped.vision_tokenizer.state_dict().items():
        if is_decoder(name):
            torch.testing.assert_close(tensor, trained[name], rtol=8e-3, atol=0)
    trained["pixel_encoder.conv_in.bias"] += 1
    write_tensors(tmp_path / "vision_tokenizer.safetensors", trained, {})
    with pytest.raises(InputError, match=r"pixel_encoder\.conv_in\.bias is not that of the checkpoint"):
        publish.main(publish.PublishConfig(**common, out=tmp_path / "other", tokenizer=tmp_path))


@pytest.mark.parametrize(("options", "needed"), [({}, "--semantic"), ({"decoder_only": True}, "--start with")])
def test_a_tokenizer_from_nothing_is_refused(run, options, needed):
    _, vision, _ = run
    with pytest.raises(InputError, match=f"train tokenizer: give {needed}"):
        tokenizer.main(replace(vision, **{"semantic": None, **options}))


def test_an_interrupted_run_ends_where_an_unbroken_one_does(run, tmp_path):
    _, vision, _ = run
    half = replace(vision, out=tmp_path / "resumed", loop=replace(LOOP, steps=6))
    code = (
        "import sys, os, signal, pathlib, torch\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "from illume_fast.training import tokenizer\n"
        "from illume_fast.training.loop import LoopConfig\n"
        "import illume_fast.training.state as state\n"
        "save = state.RunState.save\n"
        "def save_then_die(self, folder):\n"
        "    save(self, folder)\n"
        "    if self.step == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "state.RunState.save = save_then_die\n"
        f"tokenizer.main({source(half)})\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    tokenizer.main(half)
    resumed, unbroken = (load_file(f / "vision_tokenizer.safetensors") for f in (half.out, vision.out))
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    steps = [json.loads(line)["step"] for line in (half.out / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def source(config: tokenizer.TokenizerConfig) -> str:
    paths = {name: getattr(config, name) for name in ("data", "prepared", "semantic", "out")}
    fields = ", ".join(f"{name}=pathlib.Path({str(path)!r})" for name, path in paths.items())
    return f"tokenizer.TokenizerConfig({fields}, compile=False, loop={config.loop!r})"


def test_dropping_a_prompt_keeps_the_picture(run, shapes_dir):
    _, _, language = run
    stage = mllm.Stage(language)
    for task in ("text_to_image", "editing"):
        data = stage.seen[task]
        for row in range(len(data)):
            plain, bare = data.plain(row), data.unprompted(row)
            assert bare.read == plain.read
            # editing without an instruction writes its source again
            assert bare.written == (plain.read or plain.written)
            assert int(bare.learnt.sum()) == int(plain.learnt.sum())
    captions = stage.seen["captions"]
    assert captions.unprompted(0) is captions.plain(0)


def test_noise_touches_inputs_alone(run):
    _, _, language = run
    stage = mllm.Stage(language)
    data = [stage.seen["editing"].plain(row) for row in range(3)]
    filled = mllm.fill(data, stage.codes(data, [0, 0, 0]), [lo for lo, _ in stage.vocab.levels])
    spoilt = stage.spoilt(filled.ids, filled.labels, torch.Generator().manual_seed(0))
    changed = spoilt != filled.ids
    assert 0 < changed.float().mean() < 0.3
    for lo, hi in stage.vocab.levels:
        inside = (filled.ids >= lo) & (filled.ids < hi)
        assert torch.equal(inside, (spoilt >= lo) & (spoilt < hi))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ('{"images": []}', "line 2: expected an object with a list 'conversations'"),
        ('{"conversations": [{"from": "gpt", "value": "x"}]}', "line 2: turn 0 must be from 'human'"),
        ('{"images": ["a"], "conversations": [{"from": "human", "value": "x"}]}', "1 images for 0 places"),
    ],
)
def test_bad_conversations_are_named_with_their_line(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}\n' + line)
    with pytest.raises(InputError, match=message):
        read_conversations(path)
