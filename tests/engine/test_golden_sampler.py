"""`sampler_trace`: our plan and our draw against the official logits processor, step by step on recorded logits.

The official code finds out what is legal by looking at what it drew; ours knows it beforehand. Where the official state
machine goes astray ours has nothing to say, since its plan never lets such a token in: the tests of `odd` cases show
that. Each row here is a step: logits masked by the plan, guidance inside a picture alone, and the parameters of its
kind of token.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from support import DEVICE, backends_here

from illume_fast.data.sizes import ImageGrid
from illume_fast.engine import Request, SamplingParams, Segment
from illume_fast.engine.scheduler import branches
from illume_fast.model.vocab import VocabConfig
from illume_fast.ops import cfg_probabilities, cfg_sample, use_backend
from illume_fast.ops.cfg_probabilities import cfg_weights_op
from illume_fast.tasks import picture_plan

R256 = ("r256.cfg1", "r256.cfg2", "r256.cfg7_5", "r256.edit", "nonsq.cfg2")
SMALL = ("greedy", "no_filter", "ties", "topk_gt_vocab", "topp_small", "class_defaults")
PRE = (
    "text_tag_soi.uncond_no_tag", "text_tag_soi.uncond_same_tag", "text_tag_soi.uncond_other_tag", "text_soi",
    "two_tokens_soi", "uncond_ends_with_soi",
)  # fmt: skip
CASES = (*R256, *(f"small.{n}" for n in SMALL), *(f"pre.{n}" for n in PRE), "two_images", "batch2", "text_only")
FIRST_ODD = {
    "odd.eol_after_soi": 1,
    "odd.wrong_level_token": 3,
    "odd.early_eol": 3,
    "odd.skip_level0": 1,
    "odd.level_token_in_text": 0,
    "odd.eoi_in_middle": 4,
}


class Trace:
    """A recorded case, and what our plan says of each of its steps."""

    def __init__(self, folder, name):
        config = json.loads((folder / "config.json").read_text())
        self.inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
        self.case, self.vocab = config["cases"][name], vocabulary(config["vocab"])
        self.sampling = config["class_defaults"] | self.case["sampling"]
        self.outputs = {key.removeprefix(f"{name}."): v for key, v in outputs.items() if key.startswith(f"{name}.")}
        self.tokens, self.steps = self.inputs[f"{name}.tokens"].long(), self.case["steps"]
        self.cond, self.uncond = (self._logits(f"{self.case['logits']}.{b}_logits") for b in ("cond", "uncond"))
        h1, w1, h2, w2 = self.case["grid"]
        self.plan = picture_plan(self.vocab, ImageGrid(0, 0, ((h1, w1), (h2, w2))))

    def _logits(self, name):
        return self.inputs[name][: self.steps].float()

    def kinds(self):
        """For each step its legal ids, bool [V], and the kind of token ("level0", "level1" or "default" for text)."""
        start, end, steps = 0, 0, []
        row = self.tokens[0].tolist()
        for t in range(self.steps):
            inside = t < end
            steps.append(self.picture_step(t - start) if inside else (self.text(), "default"))
            if not inside and row[t] == self.vocab.start_of_image:
                start, end = t, t + len(self.plan)
        return steps

    def picture_step(self, step):
        legal = torch.zeros(self.vocab.rows, dtype=torch.bool)
        site = int(self.plan.site[step])
        if site < 0:
            legal[int(self.plan.forced[step])] = True
            return legal, "forced"
        for lo, hi in self.plan.sites[site].ranges:
            legal[lo:hi] = True
        return legal, f"level{self.plan.sites[site].set}"

    def text(self):
        """What the official code lets through outside a picture: more than ours, which has text and eos alone."""
        legal = torch.ones(self.vocab.rows, dtype=torch.bool)
        for lo, hi in self.vocab.levels:
            legal[lo:hi] = False
        legal[[self.vocab.end_of_line, *(mark for marks in self.vocab.level_marks for mark in marks)]] = False
        return legal

    def settings(self, kinds, then=None):
        def each(name):
            values = [self.sampling[f"{'default' if kind == 'forced' else kind}_{name}"] for kind in kinds]
            return torch.tensor(values, dtype=torch.int64 if name == "top_k" else torch.float32, device=DEVICE)

        scale = self.case["guidance_scale"]
        guidance = torch.tensor([1.0 if kind == "default" else scale for kind in kinds], device=DEVICE)
        heat, k, p = then or (1.0, 0, 1.0)
        second = {"then_temperature": heat, "then_top_k": k, "then_top_p": p}
        first = {"temperature": each("temp"), "top_k": each("top_k"), "top_p": each("top_p")}
        return {"guidance": guidance, **first, **second}

    def checked(self, row, prefix="", then=None, only=None):
        """Compare masks, probabilities and the best token of one row of the batch, on every backend."""
        steps = self.kinds()
        kept = [t for t, (_, kind) in enumerate(steps) if only is None or kind in only]
        legal, kinds = torch.stack([steps[t][0] for t in kept]), [steps[t][1] for t in kept]
        cond = self.cond[kept, row].masked_fill(~legal, -torch.inf).to(DEVICE)
        uncond, settings = self.uncond[kept, row].to(DEVICE), self.settings(kinds, then)
        mask, expected = (self.outputs[prefix + what][kept, row] for what in ("mask", "probs"))
        assert not (mask.bool() & ~legal).any(), "the official code lets an id through that the plan does not"
        for backend in backends_here(cfg_weights_op):
            with use_backend(backend):
                p = cfg_probabilities(cond, uncond, **settings).cpu()
                best = cfg_sample(cond, uncond, guidance=settings["guidance"], temperature=0.0, seed=0, step=0).cpu()
            assert_same_draw(p, mask.bool(), expected, mixed(cond, uncond, settings["guidance"]), backend)
            assert torch.equal(best, self.outputs["argmax"][kept, row].long()), backend


def mixed(cond, uncond, guidance):
    """Float32, rounded once, as the rule has it."""
    c, u, g = cond.double().cpu(), uncond.double().cpu(), guidance.double().cpu()[:, None]
    return torch.where(g == 1, c, (u + g * (c.float() - u.float()).double()).float().double())


def assert_same_draw(p, mask, expected, z, backend):
    """The same ids as likely, but for what the rule says otherwise of equals and of next to nothing.

    Of tokens that are equal to the last one kept the official sort keeps some (top-p), or rounding of its log-softmax
    parts them (top-k); ours stay together. What weighs less than 2**-41 of the best weighs nothing.
    """
    least = z.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
    more = (p > 0) & ~mask
    assert torch.equal(z[more], least.expand_as(z)[more]), f"{backend}: ids are kept that are not equal to the last"
    fewer = mask & (p == 0)
    light = expected <= expected.amax(1, keepdim=True) * 2.0**-40
    assert not (fewer & ~light).any(), f"{backend}: ids are left out at the steps {fewer.any(1).nonzero().tolist()}"
    shared = torch.where(mask, p, 0)
    torch.testing.assert_close((shared / shared.sum(1, keepdim=True)).float(), expected, atol=1e-5, rtol=0)


def vocabulary(layout):
    structure = ("start_of_image", "end_of_image", "end_of_line", "start_of_level0", "end_of_level0",
                 "start_of_level1", "end_of_level1")  # fmt: skip
    first, last = layout["heights"]
    return VocabConfig(
        rows=layout["vocab_size"],
        text_size=layout["start_of_image"],
        pad=layout["end_of_text"],
        im_start=38,
        im_end=39,
        structure=tuple(layout[name] for name in structure),
        tag_pixels=tuple(range(64, 64 * (last - first + 1), 64)),
        first_height=first,
        first_width=layout["widths"][0],
        levels=(tuple(layout["level0_range"]), tuple(layout["level1_range"])),
    )


@pytest.fixture
def trace(golden):
    return lambda name: Trace(golden("sampler_trace"), name)


@pytest.mark.parametrize("name", CASES)
def test_what_is_kept_and_how_likely_it_is(trace, name):
    recorded = trace(name)
    for row in range(recorded.case["batch"]):
        recorded.checked(row)


@pytest.mark.parametrize("name", ["r256.cfg2", "r256.edit", "text_only"])
def test_the_second_chain_is_that_of_hugging_face(trace, name):
    recorded = trace(name)
    recorded.checked(0, "hf_", recorded.case["hf_warpers"])


def test_codes_of_the_older_chain_are_drawn_alike(trace):
    """It differs in what it forces around the codes, and guides from step 0 on."""
    recorded = trace("legacy_chain")
    recorded.checked(0, only=("level0", "level1", "forced"))


def test_an_answer_in_words_may_hold_less_than_the_official_one(trace):
    recorded = trace("text_only")
    ours = torch.arange(recorded.vocab.rows) < recorded.vocab.text_size
    assert not (ours & ~recorded.text()).any()


@pytest.mark.parametrize(("name", "step"), FIRST_ODD.items())
def test_tokens_that_lead_the_official_state_astray_are_not_legal(trace, name, step):
    """The recorded case was forced to take it; what the official code did from there on, ours cannot come to."""
    recorded = trace(name)
    token = int(recorded.tokens[0, step])
    assert token == recorded.case["forced_steps"][str(step)][0]
    if recorded.tokens[0, 0] == recorded.vocab.start_of_image:
        legal, _ = recorded.picture_step(step)
        assert all(recorded.picture_step(t)[0][recorded.tokens[0, t]] for t in range(step))
    else:
        legal = torch.arange(recorded.vocab.rows) < recorded.vocab.text_size
    assert not legal[token]


def test_a_picture_without_rows_is_its_structure(trace):
    recorded = trace("zero_grid_image")
    assert recorded.plan.forced.tolist() == recorded.tokens[0, :6].tolist()
    recorded.checked(0)


def test_rows_of_a_batch_have_plans_of_their_own(trace):
    """The official masks of every row follow the state of row 0; of our rows each follows its own plan."""
    recorded = trace("batch2.row1_differs")
    recorded.checked(0)
    assert recorded.tokens[1, 0] != recorded.vocab.start_of_image
    mask = recorded.outputs["mask"].bool()
    assert mask[1, 1].nonzero().flatten().tolist() == [recorded.vocab.level_marks[0][0]], "row 1 is forced like row 0"
    assert int(recorded.text().sum()) > 1


@pytest.mark.parametrize("name", [*R256[1:], *(f"small.{n}" for n in SMALL), "two_images", "pre.uncond_ends_with_soi"])
def test_the_unconditional_branch_reads_the_same(trace, name):
    """Its prompt, then what is drawn, from `<start_of_image>` on.

    So it is where the picture comes first. Where words came before it (the other `pre` cases, the second picture of
    `two_images`) the official code appends no more than the last three tokens drawn; our branch reads all that was.
    """
    recorded = trace(name)
    first = recorded.case["uncond_prefix_calls"][0]
    assert first["step"] == 1
    (expected,) = first["input_ids"]
    prompt = expected[:-1]
    assert recorded.case["uncond_prompt"][: len(prompt)] == prompt
    away, guided = (Segment(tuple(prompt)),), SamplingParams(guidance=2.0)
    request = Request(id="", prompt=(Segment((1,)),), plan=recorded.plan, unconditional=away, sampling=guided)
    read = [i for segment in branches(request)[1] for i in segment.ids]
    assert read == [*expected, recorded.vocab.level_marks[0][0]]
    assert recorded.tokens[0, 1] == recorded.vocab.level_marks[0][0]
