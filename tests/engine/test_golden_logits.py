"""`generate_tiny`: logits of both branches and processed scores of the official runs, beside our model's and engine's.

Scores are compared at steps where ours draws; at the others a single token is legal. Where rounding decided a draw
otherwise, there is nothing to compare from there on.
"""

import pytest
import torch
import torch.nn.functional as F
from golden_pipeline import golden_pipeline
from golden_vision import read_case
from PIL import Image

from illume_fast.data.sequence import encode_image
from illume_fast.engine import step
from illume_fast.model.illume import Sample

RUNS = ("t2i", "t2i_nocfg", "t2i_batch2", "t2i_reppen", "edit")
TOLERANCE = 2e-4  # of float32 logits, which are about 10


@pytest.fixture
def pipe(golden):
    return golden_pipeline(golden("mllm_tiny"), golden("dualvitok_tiny"))


class Run:
    """A recorded run."""

    def __init__(self, folder, name):
        config, self.inputs, outputs = read_case(folder)
        self.name, self.settings = name, config["runs"][name]
        self.outputs = {key.removeprefix(f"{name}."): v for key, v in outputs.items() if key.startswith(f"{name}.")}
        self.penalty = self.settings["hf_kwargs"].get("repetition_penalty", 1.0)
        self.generated = self.outputs["generated_ids"].long()
        self.source = self.inputs.get(f"{name}.processed_u8")

    def prompt(self, row):
        mask = self.inputs[f"{self.name}.attention_mask"][row].bool()
        return self.inputs[f"{self.name}.prompt_ids"][row][mask]

    def draw(self, pipe):
        """Every row, greedily, through the engine."""
        before = "{resolution_tag}, the content of image is "
        texts = [prompt.partition(before)[2].removesuffix("\n") for prompt in self.settings["prompts"]]
        how = {"guidance_scale": self.settings["guidance"], "temperature": 0.0, "seed": [*range(len(texts))]}
        if self.penalty != 1:
            how["sampling"] = "official"
        if self.source is None:
            return pipe(texts, **how, output_type="codes").images
        source = Image.fromarray(self.source[0].numpy())
        return pipe.edit(source, "make the sky green", **how, output_type="codes").images


@torch.no_grad()
def logits(pipe, run, prompt, answer):
    """Of the token behind the prompt and the answer so far [V]."""
    ids = torch.cat([prompt, answer])
    images = [] if run.source is None else [((run.source.float() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)]
    model = pipe.checkpoint.model
    return F.linear(model.hidden(model.assemble([Sample(ids, ids, images)]).inputs_embeds)[0, -1], model.head_weight)


def penalised(z, seen, penalty):
    own = torch.zeros_like(z, dtype=torch.bool).index_fill_(-1, seen, True)
    return torch.where(own, torch.where(z > 0, z / penalty, z * penalty), z)


@pytest.mark.parametrize("name", RUNS)
def test_first_logits_of_both_branches(pipe, golden, name):
    run = Run(golden("generate_tiny"), name)
    for row, ids in enumerate(run.generated):
        for count in (0, 1):
            z = penalised(logits(pipe, run, run.prompt(row), ids[:count]), ids[:count], run.penalty)
            torch.testing.assert_close(z, run.outputs[f"cond_logits_step{count}"][row], atol=TOLERANCE, rtol=0)
        if name == "t2i_nocfg":
            continue
        for count, expected in enumerate(run.outputs["uncond_logits_step1_2_3"], start=1):
            z = logits(pipe, run, run.inputs[f"{name}.uncond_ids"][row], ids[:count])
            torch.testing.assert_close(z, expected[row], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", RUNS)
def test_scores_of_the_draws(pipe, golden, monkeypatch, name):
    run = Run(golden("generate_tiny"), name)
    sample, seen = step.cfg_head_sample, {}

    def spy(conditional, unconditional, weight, ranges, *, seed, step, guidance, **rest):
        penalty, held = rest.get("repetition_penalty"), rest.get("seen")
        for r, key in enumerate(zip(seed.tolist(), step.tolist(), strict=True)):
            z = F.linear(conditional[r], weight)
            if held is not None:
                z = penalised(z, held[r, : int(step[r])], float(penalty[r]))
            if unconditional is not None:
                u = F.linear(unconditional[r], weight)
                z = u + float(guidance[r]) * (z - u)
            seen[key] = torch.full_like(z, -torch.inf)
            for lo, hi in ranges:
                seen[key][lo:hi] = z[lo:hi]
        return sample(conditional, unconditional, weight, ranges, seed=seed, step=step, guidance=guidance, **rest)

    monkeypatch.setattr(step, "cfg_head_sample", spy)
    pipe.engine.graphs.refusal = "every step is to be looked at"
    compared = 0
    for row, codes in enumerate(run.draw(pipe)):
        drawn = encode_image(codes, pipe.tasks.vocab)
        same = int((drawn == run.generated[row, :-1]).long().cumprod(0).sum())
        for place, at in enumerate(run.outputs["score_steps"].tolist()):
            expected = run.outputs["scores"][place, row]
            if (row, at) not in seen or at > same:
                continue
            z = seen[row, at]
            assert torch.equal(z.isinf(), expected.isinf())
            torch.testing.assert_close(z.log_softmax(-1), expected.log_softmax(-1), atol=1e-3, rtol=0)
            compared += 1
    assert compared >= 5 * len(run.generated)
