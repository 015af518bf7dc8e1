"""The SDXL decoder against what the official pipeline recorded (diffusers 0.31)."""

import pytest
import torch
from golden_vision import dual_vitok_config, read_case, read_weights

from illume_fast.data.sequence import ImageCodes
from illume_fast.diffusion import DiffusionSettings, SdxlDecoder, SdxlPictures
from illume_fast.model.dual_vitok import DualViTok

STEPS = 4


@pytest.fixture(scope="module")
def case(golden):
    return read_case(golden("sdxl_decoder_tiny"))


@pytest.fixture(scope="module")
def decoder(case, golden, tmp_path_factory):
    """The recorded weights as a folder; what they lack must not matter, and so is random."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    config, folder = case[0], tmp_path_factory.mktemp("sdxl")
    stored = read_weights(golden("sdxl_decoder_tiny"))
    torch.manual_seed(0)
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        model = kind(**config[part])
        own = {name.removeprefix(f"{part}."): t for name, t in stored.items() if name.startswith(f"{part}.")}
        missing, unknown = model.load_state_dict(own, strict=False)
        assert not unknown
        assert all("attn2.to_" in name or name.startswith(("encoder.", "quant_conv.")) for name in missing)
        model.save_pretrained(folder / part)
    EulerDiscreteScheduler(**config["scheduler"]).save_pretrained(folder / "scheduler")
    return SdxlDecoder.from_pretrained(folder)


@pytest.fixture(scope="module")
def pictures(decoder, golden):
    folder = golden("dualvitok_tiny")
    tokenizer = DualViTok(dual_vitok_config(read_case(folder)[0]["vq_model"]["config"])).eval()
    tokenizer.load_state_dict(read_weights(folder), strict=True)
    return SdxlPictures(tokenizer, decoder, DiffusionSettings(steps=1))


@pytest.fixture(scope="module")
def codes(case):
    return ImageCodes(256, 256, (case[1]["semantic_indices"][0], case[1]["pixel_indices"][0]))


def close(actual, expected, **tolerance):
    torch.testing.assert_close(actual, expected.to(actual.dtype), **tolerance)


def test_code_map(pictures, codes, case):
    close(pictures.conditions([codes]), case[2]["vq_embeds"], rtol=1e-5, atol=1e-5)


def test_first_step_and_picture(decoder, case):
    _, inputs, outputs = case
    seen, latents = [], []
    hook = decoder.unet.register_forward_hook(lambda *call: seen.append(call[1:]), with_kwargs=True)
    pixels = decoder(
        outputs["vq_embeds"],
        num_inference_steps=STEPS,
        guidance_scale=2.0,
        latents=inputs["noise"],
        callback_on_step_end=lambda made, step, time, now: latents.append((float(time), now["latents"])),
    )
    hook.remove()
    (sample, _, _), added, out = seen[0]
    close(sample[:, :8], outputs["euler_g2.unet_in_step0"], rtol=1e-3, atol=1e-3)
    close(added["added_cond_kwargs"]["time_ids"], outputs["euler_g2.time_ids"])
    close(out.sample, outputs["euler_g2.unet_out_step0"], rtol=1e-4, atol=1e-4)
    assert [time for time, _ in latents] == outputs["euler_g2.timesteps"].tolist()
    close(torch.cat([now for _, now in latents]), outputs["euler_g2.latents"], rtol=1e-4, atol=1e-4)
    expected = outputs["image_u8"].permute(2, 0, 1)[None]
    assert (pixels.int() - expected.int()).abs().max() <= 1
    assert (pixels != expected).float().mean() < 0.01


@pytest.mark.parametrize("run, guidance, scheduler", [("euler_g1", 1.0, None), ("ddim_g1_5", 1.5, "DDIMScheduler")])
def test_other_runs(decoder, case, run, guidance, scheduler):
    _, inputs, outputs = case
    latents = []
    decoder(
        outputs["vq_embeds"],
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        scheduler=scheduler,
        latents=inputs["noise"],
        callback_on_step_end=lambda made, step, time, now: latents.append((float(time), now["latents"])),
    )
    assert [time for time, _ in latents] == outputs[f"{run}.timesteps"].tolist()
    close(torch.cat([latents[0][1], latents[-1][1]]), outputs[f"{run}.latents"], rtol=1e-4, atol=1e-4)


def test_pictures_of_codes(pictures, decoder, codes, case):
    pixels, work = pictures.start([codes], [5])
    work.synchronize()
    noise = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(5))
    assert torch.equal(pixels, decoder(case[2]["vq_embeds"], num_inference_steps=1, latents=noise))
