"""The multimodal model against recordings of the official code (golden case mllm_tiny)."""

import pytest
import torch
from golden_mllm import Recorded
from support import assert_matches

from illume_fast.model.config import VocabConfig
from illume_fast.model.illume import IllumeModel, Sample
from illume_fast.model.image_block import PIXEL_SLOT, SEMANTIC_SLOT, block_slots, fill_block
from illume_fast.model.presets import demo, illume_plus_3b, illume_plus_7b
from illume_fast.model.vocab import IGNORE_INDEX

SAMPLES = ("und", "und2", "text", "t2i", "edit")
TIGHT = 1e-5


@pytest.fixture
def recorded(golden) -> Recorded:
    return Recorded(golden("mllm_tiny"))


@pytest.mark.parametrize("image", ["u1", "u2", "edit"])
@torch.no_grad()
def test_tower_and_projector(recorded, image):
    semantic, pixel = recorded.model.model.vision_tower(recorded.image(image))
    assert_matches(semantic, recorded.outputs[f"tower.{image}.semantic"], "semantic", tolerance=TIGHT)
    assert_matches(pixel, recorded.outputs[f"tower.{image}.pixel"], "pixel", tolerance=TIGHT)
    projected = torch.cat(recorded.model.model.mm_projector(semantic, pixel), dim=1)
    assert_matches(projected, recorded.outputs[f"proj.{image}"], "projector", tolerance=TIGHT)


@torch.no_grad()
def test_equal_sizes_go_through_the_tower_together(recorded):
    image = recorded.image("u1")
    semantic, pixel = recorded.model.model.vision_tower(torch.cat([image, image.flip(-1)]))
    assert_matches(semantic.flatten(0, 1)[None], recorded.outputs["tower.u1_and_hflip.semantic"], "semantic")
    assert_matches(pixel.flatten(0, 1)[None], recorded.outputs["tower.u1_and_hflip.pixel"], "pixel", tolerance=TIGHT)


@torch.no_grad()
def test_images_of_mixed_sizes_keep_their_order(recorded):
    images = [recorded.image("u1"), recorded.image("u2"), recorded.image("u1").flip(-1)]
    together = recorded.model.image_embeds(images)
    for i, image in enumerate(images):
        assert_matches(together[i], recorded.model.image_embeds(image)[0], f"image {i}")


@pytest.mark.parametrize("name", SAMPLES)
@torch.no_grad()
def test_sample(recorded, name):
    batch = recorded.model.assemble([recorded.sample(name)])
    assert torch.equal(batch.labels[0], recorded.outputs[f"{name}.expanded_labels"])
    if f"{name}.inputs_embeds" in recorded.outputs:
        assert_matches(batch.inputs_embeds[0], recorded.outputs[f"{name}.inputs_embeds"], "embeddings")
    logits = recorded.logits(batch.inputs_embeds)[0]
    positions = recorded.outputs.get(f"{name}.logits_positions", torch.arange(len(logits)))
    assert_matches(logits[positions], recorded.outputs[f"{name}.logits"], "logits", tolerance=1e-4)
    assert_matches(recorded.model([recorded.sample(name)]), recorded.outputs[f"{name}.loss"], "loss")


@pytest.mark.parametrize("name", ["batch", "batch_t2i"])
@torch.no_grad()
def test_batch(recorded, name):
    """The official code pads to the left and we to the right: compare each sample where it has tokens."""
    samples = [recorded.sample(n) for n in recorded.official["samples"][name]["samples"]]
    batch = recorded.model.assemble(samples)
    mask = recorded.outputs[f"{name}.expanded_mask"].bool()
    assert list(batch.lengths) == mask.sum(1).tolist()
    for row, length in enumerate(batch.lengths):
        assert torch.equal(batch.labels[row, :length], recorded.outputs[f"{name}.expanded_labels"][row][mask[row]])
    assert_matches(recorded.model(samples), recorded.outputs[f"{name}.loss"], "loss")
    if f"{name}.logits_every3" in recorded.outputs:
        logits = recorded.logits(batch.inputs_embeds)
        every = torch.arange(0, mask.shape[1], 3)
        for row, length in enumerate(batch.lengths):
            columns = every[mask[row, every]] - (mask.shape[1] - length)
            expected = recorded.outputs[f"{name}.logits_every3"][row][mask[row, every]]
            assert_matches(logits[row, columns], expected, f"logits of row {row}", tolerance=1e-4)


@torch.no_grad()
def test_truncation_comes_after_expansion(golden):
    recorded = Recorded(golden("mllm_tiny"), max_length=60)
    batch = recorded.model.assemble([recorded.sample("und")])
    assert batch.inputs_embeds.shape[1] == 60
    assert torch.equal(batch.labels[0], recorded.outputs["und.truncated60.labels"])
    with pytest.raises(ValueError, match="every label of the batch is ignored"):
        recorded.model([recorded.sample("und")])


def test_gradients(recorded):
    recorded.model([recorded.sample("und")]).backward()
    parameters = dict(recorded.model.named_parameters())
    names = [key.removeprefix("grad_und.") for key in recorded.outputs if key.startswith("grad_und.")]
    assert len(names) >= 8
    for name in names:
        assert_matches(parameters[name].grad, recorded.outputs[f"grad_und.{name}"], name, tolerance=1e-4)


def test_every_image_needs_its_placeholder(recorded):
    sample = recorded.sample("und2")
    with pytest.raises(ValueError, match="sample 1: 2 image placeholders but 1 images"):
        recorded.model.assemble([recorded.sample("text"), Sample(sample.input_ids, sample.labels, sample.images[:1])])


def test_a_picture_must_suit_the_strides(recorded):
    with pytest.raises(ValueError, match="40x48: both sides must be multiples of 16"):
        recorded.model.image_embeds(torch.zeros(1, 3, 40, 48))
    with pytest.raises(ValueError, match="picture 0: expected"):
        recorded.model.image_embeds([torch.zeros(3, 48, 48)])


def test_features_fill_the_slots(recorded):
    vocab, grids = recorded.config.vocab, ((2, 3), (3, 4))
    slots = block_slots(vocab, grids)
    semantic = torch.arange(6.0).add(100).view(1, 6, 1)
    pixel = torch.arange(12.0).add(200).view(1, 12, 1)
    block = fill_block(vocab, torch.tensor(vocab.structure).float().unsqueeze(1), (semantic, pixel), grids)[0, :, 0]
    assert block[slots == SEMANTIC_SLOT].tolist() == semantic.flatten().tolist()
    assert block[slots == PIXEL_SLOT].tolist() == pixel.flatten().tolist()
    assert block[slots >= 0].tolist() == slots[slots >= 0].tolist()


@pytest.mark.parametrize("preset, rows, tied", [(illume_plus_3b, 283047, True), (illume_plus_7b, 283175, False)])
def test_published_sizes(preset, rows, tied):
    config = preset()
    with torch.device("meta"):
        model = IllumeModel(config.model)
    assert model.embed(torch.zeros(1, dtype=torch.int64, device="meta")).shape[-1] == config.model.decoder.hidden_size
    assert model.head_weight.shape[0] == model.decoder.embed_tokens.num_embeddings == rows
    assert ("lm_head.weight" not in model.state_dict()) == tied
    vocab = config.model.vocab
    assert vocab.size == 282776
    assert vocab.structure == tuple(range(151665, 151672))
    assert vocab.size_tag(64, 1024) == [151672, 151703]
    assert vocab.levels == ((151704, 184472), (184472, 282776))


def test_presets_and_vocab_survive_json():
    for preset in (illume_plus_3b, illume_plus_7b, demo):
        assert type(preset()).from_dict(preset().to_dict()) == preset()
    vocab = demo().model.vocab
    tokens = dict(vocab.added_tokens())
    assert len(tokens) == vocab.size - vocab.text_size
    assert tokens["<height_64>"], tokens["<|image_level1_0|>"] == (vocab.first_height, vocab.levels[1][0])
    with pytest.raises(ValueError, match="no size tag for 65 pixels; allowed sides are 64"):
        vocab.height_tag(65)


def test_a_vocab_with_overlapping_ids_is_refused(recorded):
    values = recorded.config.vocab.to_dict()
    values["pad"] = values["structure"][0]
    with pytest.raises(ValueError, match="stands for two tokens"):
        VocabConfig.from_dict(values)


def test_ignored_labels_do_not_reach_the_head(recorded):
    sample = recorded.sample("text")
    hidden = recorded.model.hidden(recorded.model.embed(sample.input_ids)[None]).detach()
    poisoned = hidden.clone()
    poisoned[0, :-1][sample.labels[1:] == IGNORE_INDEX] = float("nan")
    labels = sample.labels[None]
    assert torch.equal(recorded.model.loss(poisoned, labels), recorded.model.loss(hidden, labels))


def test_several_batches_in_one_pass_are_those_alone(recorded):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5), (1, 9), (3, 1)]
    width = recorded.model.head_weight.shape[1]
    batches = [torch.randn(*shape, width, generator=generator) for shape in shapes]
    together = recorded.model.hidden_of(batches)
    for batch, hidden in zip(batches, together, strict=True):
        torch.testing.assert_close(hidden, recorded.model.hidden(batch), rtol=1e-4, atol=1e-5)
    labels = [torch.randint(0, 50, shape, generator=generator) for shape in shapes[:2]]
    labels[0][:, 3] = IGNORE_INDEX
    losses = recorded.model.losses(together[:2], labels)
    for hidden, wanted, loss in zip(together, labels, losses, strict=False):
        torch.testing.assert_close(loss, recorded.model.loss(hidden, wanted), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="every label of the batch is ignored"):
        recorded.model.losses(together[:1], [torch.full((2, 5), IGNORE_INDEX)])
