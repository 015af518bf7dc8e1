"""The Stable Diffusion decoder of the first ILLUME: features as context, with and without a layer before them."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_diffusion import save, tiny_sd_unet

from illume_fast.data.errors import InputError
from illume_fast.data.sequence import ImageCodes
from illume_fast.decoding import decode_pictures
from illume_fast.diffusion import DiffusionSettings, SdDecoder, SdPictures
from illume_fast.diffusion.folder import WEIGHTS
from illume_fast.model.tensor_files import CheckpointError

STEPS = {"num_inference_steps": 2}
WIDTH, FEATURES = 24, 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("sd"), tiny_sd_unet())


@pytest.fixture
def conditioned(tmp_path):
    """A folder whose conditioning holds these tensors."""

    def make(**tensors):
        path = save(tmp_path / "sd", tiny_sd_unet())
        (path / "conditioning").mkdir()
        save_file({k.replace("_", "."): t for k, t in tensors.items()}, path / f"conditioning/{WEIGHTS}.safetensors")
        return path

    return make


def features(count, width=WIDTH):
    return torch.randn(count, 256, width, generator=torch.Generator().manual_seed(0))


def context_of(decoder, given, **settings):
    seen = []
    hook = decoder.unet.register_forward_pre_hook(lambda module, call: seen.append(call))
    pixels = decoder(given, seed=1, **STEPS, **settings)
    hook.remove()
    assert len({len(call[0]) for call in seen}) == 1
    return seen[0], pixels


def test_features_are_the_context(folder):
    decoder, given = SdDecoder.from_pretrained(folder), features(1)
    (sample, _, context), pixels = context_of(decoder, given)
    assert (pixels.shape, pixels.dtype) == ((1, 3, 512, 512), torch.uint8)
    assert sample.shape == (2, 4, 32, 32)
    assert torch.equal(context, torch.cat([torch.zeros_like(given), given]))
    (_, _, context), _ = context_of(decoder, given, guidance_scale=1.0)
    assert torch.equal(context, given)
    assert not torch.equal(decoder(given.flip(1), seed=1, **STEPS), pixels)


def test_it_is_what_diffusers_makes(folder):
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    given, latents = features(1), torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3))
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    scheduler = EulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(3)
    expected, last = latents * scheduler.init_noise_sigma, []
    for time in scheduler.timesteps:
        with torch.no_grad():
            scaled = scheduler.scale_model_input(expected, time)
            none, towards = (unet(scaled, time, context).sample for context in (torch.zeros_like(given), given))
        expected = scheduler.step(none + 2.0 * (towards - none), time, expected).prev_sample
    SdDecoder.from_pretrained(folder)(
        given,
        num_inference_steps=3,
        seed=3,
        callback_on_step_end=lambda made, step, time, now: last.append(now["latents"]),
    )
    torch.testing.assert_close(last[-1], expected, rtol=1e-4, atol=1e-4)


def test_projection_and_a_learnt_nothing(conditioned):
    weight, bias, nothing = torch.randn(WIDTH, FEATURES), torch.randn(WIDTH), torch.randn(256, WIDTH)
    path = conditioned(projection_weight=weight, projection_bias=bias, unconditional=nothing)
    decoder, given = SdDecoder.from_pretrained(path), features(1, FEATURES)
    assert decoder.feature_width == FEATURES
    (_, _, context), _ = context_of(decoder, given)
    torch.testing.assert_close(context, torch.cat([nothing[None], given @ weight.T + bias]))


def test_in_any_company(folder):
    decoder, given = SdDecoder.from_pretrained(folder, pictures_together=2), features(3)
    pixels = decoder(given, seed=[1, 2, 3], **STEPS)
    assert torch.equal(pixels[2:], decoder(given[2:], seed=3, **STEPS))


def test_what_is_refused(folder, conditioned, tmp_path):
    decoder = SdDecoder.from_pretrained(folder)
    for wrong in (features(1, FEATURES), features(1)[:, :100], features(1)[0], features(1).long()):
        with pytest.raises(InputError, match=r"features must be floating point \[N, 256, 24\], got"):
            decoder(wrong, **STEPS)
    with pytest.raises(CheckpointError, match=r"holds projection.weight; allowed are projection.weight with"):
        SdDecoder.from_pretrained(conditioned(projection_weight=torch.randn(WIDTH, FEATURES)))


def test_a_projection_to_another_width(conditioned):
    path = conditioned(projection_weight=torch.randn(8, FEATURES), projection_bias=torch.randn(8))
    with pytest.raises(CheckpointError, match=r"projection.weight \[8, 10\] \(expected \[24, 10\]\)"):
        SdDecoder.from_pretrained(path)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"in_channels": 9}, "in_channels is 9; expected 4"),
        ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep'"),
        ({"cross_attention_dim": (24, 24)}, r"cross_attention_dim is .*; expected one number"),
    ],
)
def test_unets_of_another_kind(tmp_path, change, match):
    with pytest.raises(CheckpointError, match=match):
        SdDecoder.from_pretrained(save(tmp_path, tiny_sd_unet(**change)))


class Features(torch.nn.Module):
    """Codes to features as a semantic tokenizer turns them."""

    def __init__(self):
        super().__init__()
        self.book = torch.nn.Embedding(9, WIDTH)

    def decode_features(self, ids):
        return self.book(ids).flatten(1, 2)


def test_pictures_of_codes(folder):
    decoder, tokenizer = SdDecoder.from_pretrained(folder, pictures_together=2), Features()
    pictures = SdPictures(tokenizer, decoder, DiffusionSettings(2))
    ids = torch.randint(0, 9, (2, 16, 16))
    codes = [ImageCodes(512, 512, (one,)) for one in ids]
    assert pictures.together((512, 512)) == 2
    pixels = decode_pictures(pictures, codes, [4, 5])
    assert torch.equal(pixels, decoder(tokenizer.decode_features(ids).detach(), seed=[4, 5], **STEPS))
    with pytest.raises(CheckpointError, match="loaded without the vision tokenizer that makes features"):
        decode_pictures(SdPictures(None, decoder), codes, [4, 5])
