"""Cross-attention to a zero context, folded: the same predictions from fewer weights; no constant, no folding."""

import pytest
import torch
from tiny_diffusion import save, tiny_unet

from illume_fast.diffusion import SdxlDecoder
from illume_fast.diffusion.folding import fold_cross_attention
from illume_fast.model.tensor_files import CheckpointError


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """diffusers' UNet as it comes, and ours of the same folder."""
    from diffusers import UNet2DConditionModel

    folder = save(tmp_path_factory.mktemp("sdxl"), tiny_unet(transformer_layers_per_block=(1, 2)))
    theirs = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    return theirs, SdxlDecoder.from_pretrained(folder, code_channels=12).unet


def predict(unet, context):
    generator = torch.Generator().manual_seed(0)
    added = {"text_embeds": torch.zeros(2, 20), "time_ids": torch.tensor([[0.0, 0, 0, 0, 0, 11]] * 2)}
    sample = torch.randn(2, 16, 32, 32, generator=generator)
    with torch.no_grad():
        return unet(sample, torch.tensor(501.0), context, added_cond_kwargs=added).sample


def test_predictions_are_equal_but_for_rounding(pair):
    theirs, ours = pair
    expected = predict(theirs, torch.zeros(2, 77, 24))
    assert expected.std() > 0.1
    torch.testing.assert_close(predict(ours, None), expected, rtol=1e-4, atol=1e-5)
    seen = predict(theirs, torch.randn(2, 77, 24))
    assert (seen - expected).abs().max() > 1e-3, "with a context that is not zero it makes a difference"


def test_its_weights_are_gone(pair):
    theirs, ours = pair
    gone = {name for name in theirs.state_dict() if "attn2" in name or ("norm2" in name and "transformer" in name)}
    assert len(gone) == 8 * 7
    assert set(ours.state_dict()) == set(theirs.state_dict()) - gone


def test_in_place(pair):
    theirs, ours = pair
    unet = tiny_unet(transformer_layers_per_block=(1, 2))
    unet.load_state_dict(theirs.state_dict())
    moved = fold_cross_attention(unet.eval())
    assert len(moved) == 8
    assert torch.equal(predict(unet, None), predict(ours, None))
    assert fold_cross_attention(unet) == {}


@pytest.mark.parametrize(
    "change, match",
    [
        ({"encoder_hid_dim": 8, "encoder_hid_dim_type": "text_proj"}, "projects its context"),
        ({"only_cross_attention": True}, "attn1 that reads the context"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "outside of transformer blocks, at mid_block"),
    ],
)
def test_what_is_no_constant_is_refused(change, match):
    with pytest.raises(CheckpointError, match=match):
        fold_cross_attention(tiny_unet(**change))


def test_biased_keys_are_refused():
    unet = tiny_unet()
    unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k = torch.nn.Linear(24, 16)
    with pytest.raises(CheckpointError, match=r"mid_block.* has attn2 with biased keys or values"):
        fold_cross_attention(unet)
