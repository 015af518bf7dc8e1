"""The SDXL decoder: alone and in batches, schedulers, callbacks, types, and what it refuses."""

import numpy as np
import pytest
import torch
from tiny_diffusion import CODES, save, tiny_unet

from illume_fast.data.errors import InputError
from illume_fast.diffusion import DiffusionSettings, SdxlDecoder
from illume_fast.diffusion.decoder import NotFiniteError
from illume_fast.diffusion.sdxl import SIZES
from illume_fast.model.vision_config import MAPPED_SIZES

STEPS = {"num_inference_steps": 2}
# as they read a config of Euler's; LMS needs scipy, the SDE solver torchsde
SCHEDULERS = ("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler")
MORE_SCHEDULERS = ("DDPMScheduler", "HeunDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("sdxl"), tiny_unet())


def load(folder, **options):
    return SdxlDecoder.from_pretrained(folder, code_channels=CODES, **options)


@pytest.fixture(scope="module")
def decoder(folder):
    return load(folder)


@pytest.fixture(scope="module")
def pairs(folder):
    return load(folder, pictures_together=2)


@pytest.fixture(scope="module")
def maps():
    return torch.randn(3, CODES, 16, 16, generator=torch.Generator().manual_seed(0))


def latents_of(decoder, maps, **settings):
    seen = []
    decoder(maps, callback_on_step_end=lambda made, step, time, now: seen.append(now["latents"]), **settings)
    return seen


@pytest.mark.parametrize("together", [1, 2])
def test_a_picture_is_the_same_in_any_company(decoder, pairs, maps, together):
    made_by = decoder if together == 1 else pairs
    all_of_them = made_by(maps, seed=[7, 8, 9], **STEPS)
    assert (all_of_them.shape, all_of_them.dtype) == ((3, 3, 512, 512), torch.uint8)
    assert torch.equal(all_of_them[2:], made_by(maps[2:], seed=9, **STEPS))
    assert torch.equal(all_of_them.flip(0), made_by(maps.flip(0), seed=[9, 8, 7], **STEPS))
    other = (decoder(maps[:1], seed=7, **STEPS).int() - all_of_them[:1].int()).abs()
    assert other.max() <= 1, "groups of another size differ by rounding alone"
    assert not torch.equal(all_of_them[0], made_by(maps[:1], seed=8, **STEPS)[0])


def test_noise_is_that_of_a_generator_with_the_seed(pairs, maps):
    noise = torch.cat([torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(s)) for s in (7, 8, 9)])
    by_seed = pairs(maps, seed=[7, 8, 9], **STEPS)
    assert torch.equal(by_seed, pairs(maps, latents=noise, **STEPS))
    generators = [torch.Generator().manual_seed(s) for s in (7, 8, 9)]
    assert torch.equal(by_seed, pairs(maps, generator=generators, **STEPS))


@pytest.mark.parametrize("name", [*SCHEDULERS, *(pytest.param(n, marks=pytest.mark.slow) for n in MORE_SCHEDULERS)])
def test_any_scheduler_and_its_noise_is_each_picture_s_own(pairs, maps, name):
    steps = {"num_inference_steps": 4, "guidance_scale": 1.0}
    two = pairs(maps[:2], seed=[7, 8], scheduler=name, **steps)
    assert torch.equal(two[1:], pairs(maps[1:2], seed=8, scheduler=name, **steps))
    import diffusers

    given = getattr(diffusers, name).from_config({**pairs.scheduler.config, "clip_sample": False})
    if name != "DDIMScheduler":  # whose own default of set_alpha_to_one is not Stable Diffusion's
        assert torch.equal(two, pairs(maps[:2], seed=[7, 8], scheduler=given, **steps))


def test_guidance_leads_away_from_a_map_of_zeros(decoder, maps):
    plain, none = (latents_of(decoder, m[:1], seed=1, guidance_scale=1.0, **STEPS)[0] for m in (maps, 0 * maps))
    guided = latents_of(decoder, maps[:1], seed=1, guidance_scale=3.0, **STEPS)[0]
    # the first step of Euler is linear in what the UNet predicts
    torch.testing.assert_close(guided, none + 3 * (plain - none), rtol=1e-3, atol=1e-3)
    below = latents_of(decoder, maps[:1], seed=1, guidance_scale=0.5, **STEPS)[0]
    assert torch.equal(below, plain), "guidance up to 1 is none, in one forward pass"


def test_unguided_pictures_take_one_row(decoder, maps):
    rows = []
    hook = decoder.unet.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))
    decoder(maps[:1], seed=1, guidance_scale=1.0, **STEPS)
    decoder(maps[:1], seed=1, guidance_scale=1.5, **STEPS)
    hook.remove()
    assert rows == [1, 1, 2, 2]


def test_callback_sees_its_pictures_and_may_change_them(pairs, maps):
    calls = []

    def look(made, step, time, now):
        calls.append((made, step, float(time), now["latents"].shape, now["pictures"]))
        return {"latents": torch.zeros_like(now["latents"])} if step == 1 else None

    pixels = pairs(maps, seed=[7, 8, 9], callback_on_step_end=look, **STEPS)
    shape = torch.Size([2, 4, 32, 32])
    assert [call[1:] for call in calls[:2]] == [(0, 501.0, shape, range(2)), (1, 1.0, shape, range(2))]
    assert [(call[3][0], call[4]) for call in calls[2:]] == [(1, range(2, 3))] * 2
    assert all(call[0] is pairs for call in calls)
    nothing = pairs.decode_latents(torch.zeros(1, 4, 32, 32))
    assert (pixels.float() - (nothing / 2 + 0.5).clamp(0, 1) * 255).abs().max() <= 0.51


def test_half_types_differ_by_little(folder, decoder, maps):
    exact = decoder(maps[:1], seed=1, num_inference_steps=4).float()
    half = load(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.vae.dtype == torch.float32, "its config asks for it"
    error = (half(maps[:1], seed=1, num_inference_steps=4).float() - exact).square().mean()
    assert 10 * torch.log10(255**2 / error) > 35
    with pytest.raises(InputError, match=r"dtype torch.int8 is not supported; allowed are torch.float32"):
        load(folder, dtype=torch.int8)


@pytest.mark.slow
def test_compiles_without_graph_breaks(folder, decoder, maps):
    compiled = load(folder)
    compiled.compile(fullgraph=True, backend="aot_eager")
    made = compiled(maps[:1], seed=1, **STEPS)
    assert (made.int() - decoder(maps[:1], seed=1, **STEPS).int()).abs().max() <= 1


def test_sizes_are_those_of_the_model():
    assert len(SIZES) == 12
    assert set(SIZES) == set(MAPPED_SIZES)
    assert SIZES[:2] == ((512, 512), (512, 384))


@pytest.mark.parametrize("size", [(512, 384), (256, 1024)])
def test_other_sizes(decoder, size):
    places = []
    hook = decoder.unet.register_forward_pre_hook(
        lambda module, given, named: places.append(named["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    maps = torch.zeros(1, CODES, size[0] // 16, size[1] // 16)
    pixels = decoder(maps, seed=1, num_inference_steps=1, guidance_scale=1.0)
    hook.remove()
    assert pixels.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert places[0].tolist() == [[0, 0, 0, 0, 0, SIZES.index(size)]]


def refused(decoder, maps, match, **settings):
    with pytest.raises(InputError, match=match):
        decoder(maps, **settings)


def test_what_is_refused(decoder, maps):
    refused(decoder, maps[..., :8], r"does not decode pictures of 256x128; allowed are 512x512, 512x384, .*, 256x256$")
    refused(decoder, maps[:, :5], r"must be floating point \[N, 12, p, q\], got torch.float32 \[3, 5, 16, 16\]")
    refused(decoder, maps.long(), "must be floating point")
    refused(decoder, maps[0], r"must be floating point \[N, 12, p, q\]")
    refused(decoder, maps, "from 1 to 1000, got 0", num_inference_steps=0)
    refused(decoder, maps, "PNDMScheduler takes no 2 steps", scheduler="PNDMScheduler", num_inference_steps=2)
    refused(decoder, maps, "must be whole, from 1 to 1000, got 2.5", num_inference_steps=2.5)
    refused(decoder, maps, "from 0 to 100, got nan", guidance_scale=float("nan"))
    refused(decoder, maps, "from 0 to 100, got '2'", guidance_scale="2")
    refused(decoder, maps, "a whole number of 64 bits, .*; got 1.5", seed=1.5)
    refused(decoder, maps, "a whole number of 64 bits, .*; got 18446744073709551616", seed=[1, 2, 2**64])
    if torch.cuda.is_available():
        wrong = [torch.Generator("cuda")] * 3
        refused(decoder, maps, "torch's on the CPU; got a generator on cuda", generator=wrong)
    refused(decoder, maps, "2 seeds were given for 3 pictures", seed=[1, 2])
    refused(decoder, maps, "2 generators were given for 3 pictures", generator=[torch.Generator()] * 2)
    refused(decoder, maps, "one generator was given for 3 pictures", generator=torch.Generator())
    refused(decoder, maps, "a seed or a generator, not both", seed=1, generator=torch.Generator())
    refused(decoder, maps, r"latents must be \[3, 4, 32, 32\], got \[3, 4, 16, 16\]", latents=torch.zeros(3, 4, 16, 16))
    refused(decoder, maps, "scheduler 'EDMEulerScheduler' is not known", scheduler="EDMEulerScheduler")
    refused(decoder, maps, "scheduler 'Euler' is not known; allowed are DDIMScheduler", scheduler="Euler")
    refused(decoder, maps, "Linear is no scheduler of latent noise", scheduler=torch.nn.Linear(1, 1))


def test_seeds_may_be_numpy_s(decoder, maps):
    assert torch.equal(decoder(maps[:1], seed=np.int64(7), **STEPS), decoder(maps[:1], seed=[7], **STEPS))


def test_no_pictures(decoder, maps):
    assert decoder(maps[:0], seed=[], **STEPS).shape == (0, 3, 512, 512)


def test_values_that_are_not_finite_are_an_error(decoder, maps):
    broken = maps.clone()
    broken[1, 0, 0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match=r"not finite of picture 0 of its group; its UNet runs in torch\.float32"):
        decoder(broken, seed=1, **STEPS)


def test_work_goes_on_piece_by_piece(decoder, maps):
    settings = DiffusionSettings(2, 2.0)
    pixels, work = decoder.start(maps[:1], [7], settings)
    # two steps, the VAE, and the end
    assert [work.query() for _ in range(5)] == [False, False, False, True, True]
    assert torch.equal(pixels, decoder(maps[:1], seed=7, **STEPS))
    _, work = decoder.start(maps[:1] * float("nan"), [7], settings)
    assert [work.query() for _ in range(4)] == [False, False, False, True]
    with pytest.raises(NotFiniteError):
        work.synchronize()
