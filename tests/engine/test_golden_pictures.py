"""The pipeline against recordings of the official code: greedy pictures of tiny random models, token for token."""

import json

import pytest
import torch
from golden_pipeline import golden_pipeline
from golden_vision import read_case
from PIL import Image
from safetensors.torch import load_file

from illume_fast.data.chat import ReadImage, parse_marks
from illume_fast.data.sequence import encode_image
from illume_fast.model.vocab import IMAGE_PLACEHOLDER
from illume_fast.pipeline import Converse, IllumePipeline, Turn

# below this gap between the best two scores, rounding may choose
TINY_GAP = 1e-4


@pytest.fixture
def pipe(golden) -> IllumePipeline:
    return golden_pipeline(golden("mllm_tiny"), golden("dualvitok_tiny"))


def assert_drawn(pipe, codes, outputs, run, row):
    """Every token as recorded, up to the first that rounding may decide; returns whether there was none such."""
    expected, gaps = outputs[f"{run}.generated_ids"][row].long(), outputs[f"{run}.top1_gap"][:, row]
    drawn = encode_image(codes, pipe.tasks.vocab)
    assert len(drawn) == len(expected) - 1, "all but the closing <|im_end|>"
    different = (drawn != expected[:-1]).nonzero().flatten()
    if len(different):
        first = int(different[0])
        assert gaps[first] < TINY_GAP, f"{run} row {row}: token {first} differs, gap {float(gaps[first]):.1e}"
        return False
    assert torch.equal(codes.semantic, outputs[f"{run}.{row}.semantic_indices"][0].long())
    assert torch.equal(codes.pixel, outputs[f"{run}.{row}.pixel_indices"][0].long())
    return True


def caption(prompt: str) -> str:
    return prompt.removeprefix("Generate an image of {resolution_tag}, the content of image is ").removesuffix("\n")


@pytest.mark.parametrize("run", ["t2i", "t2i_nocfg", "t2i_batch2", "t2i_reppen"])
def test_text_to_image(pipe, golden, run):
    config, inputs, outputs = read_case(golden("generate_tiny"))
    settings = config["runs"][run]
    prompts = [caption(prompt) for prompt in settings["prompts"]]
    for row, prompt in enumerate(prompts):
        mask = inputs[f"{run}.attention_mask"][row].bool()
        assert pipe.tasks.chat.generate(prompt, (256, 256)) == inputs[f"{run}.prompt_ids"][row][mask].tolist()
    assert pipe.tasks.chat.generate_anything((256, 256)) == inputs[f"{run}.uncond_ids"][0].tolist()
    # the penalty of the official preset, of whose filters a greedy run has none
    sampling = "official" if settings["hf_kwargs"].get("repetition_penalty") == 1.05 else None
    how = {"guidance_scale": settings["guidance"], "sampling": sampling, "temperature": 0.0}
    out = pipe(prompts, **how, seed=0, output_type="codes")
    same = [assert_drawn(pipe, codes, outputs, run, row) for row, codes in enumerate(out.images)]
    if same[0] and f"{run}.0.image_u8" in outputs:
        difference = pipe.decode(out.images[:1])[0].permute(1, 2, 0).int() - outputs[f"{run}.0.image_u8"].int()
        assert difference.abs().max() <= 1


def test_editing(pipe, golden):
    config, inputs, outputs = read_case(golden("generate_tiny"))
    instruction = "make the sky green"
    assert pipe.tasks.chat.edit(instruction, (256, 256)) == inputs["edit.prompt_ids"][0].tolist()
    assert pipe.tasks.chat.edit_nothing((256, 256)) == inputs["edit.uncond_ids"][0].tolist()
    # the source as the official code cropped it: padding, our way of framing, leaves a whole frame alone
    source = Image.fromarray(inputs["edit.processed_u8"][0].numpy())
    guidance = config["runs"]["edit"]["guidance"]
    out = pipe.edit(source, instruction, guidance_scale=guidance, temperature=0.0, seed=0, output_type="codes")
    assert_drawn(pipe, out.images[0], outputs, "edit", 0)


@pytest.mark.parametrize("name", ["und", "und2"])
def test_conversations(pipe, golden, name):
    """Several turns, and pictures in them, are the official prompts."""
    folder = golden("mllm_tiny")
    turns = json.loads((folder / "config.json").read_text())["samples"][name]["conversation"]
    recorded = load_file(folder / "inputs.safetensors")[f"{name}.input_ids"].tolist()
    picture = Image.new("RGB", (64, 64))
    roles = {"human": "user", "gpt": "assistant"}
    said = [
        Turn(roles[turn["from"]], tuple(picture if isinstance(p, ReadImage) else p for p in parse_marks(turn["value"])))
        for turn in turns[:-1]
    ]
    (request,) = pipe.tasks.requests(Converse(messages=said))
    ids = [i for s in request.prompt for i in (s.ids if s.features is None else (IMAGE_PLACEHOLDER,))]
    assert ids == recorded[: len(ids)]
    assert len(ids) > len(recorded) // 2
