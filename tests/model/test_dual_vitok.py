"""The vision tokenizer against outputs recorded from the official code."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from golden_vision import dual_vitok_config, read_case, read_weights

from illume_fast.model.dual_vitok import DualViTok, apply_noise, to_map, to_tokens
from illume_fast.model.movqgan import SpatialNorm, to_uint8
from illume_fast.model.vision_config import DualViTokConfig, SimVQConfig, ViTConfig
from illume_fast.model.vision_encoder import scale_and_patchify
from illume_fast.model.vq import SimVQ

SIZES = ("256x256", "384x512", "160x208")
MARGIN = 1e-4  # ids may differ where the two best distances are nearer than this


@pytest.fixture(scope="module")
def case(golden):
    folder = golden("dualvitok_tiny")
    config, inputs, outputs = read_case(folder)
    model = DualViTok(dual_vitok_config(config["vq_model"]["config"])).eval()
    model.load_state_dict(read_weights(folder), strict=True)
    return model, inputs, outputs


def pictures(inputs, size):
    return (inputs[f"{size}.image_u8"].permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def close(actual, expected, atol=1e-4):
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=1e-4, atol=atol)


@pytest.mark.parametrize("size", SIZES)
def test_features_and_ids_match_the_official_tokenizer(case, size):
    model, inputs, outputs = case
    x = pictures(inputs, size)
    with torch.no_grad():
        raw = model.semantic_encoder.model(x)
        close(raw.flatten(0, 1), outputs[f"{size}.merger_out"])
        semantic, pixel, target = model.features(x)
        close(to_map(target, semantic.shape[-2:]), outputs[f"{size}.semantic_target"])
        close(semantic, outputs[f"{size}.h_semantic"])
        # float32 convolutions of this depth differ by 2e-4 from one number of threads to another
        close(model.pixel_encoder(x), outputs[f"{size}.pixel_encoder_out"], atol=5e-4)
        close(pixel, outputs[f"{size}.h_pixel"], atol=5e-4)
    for ids, branch in zip(model.encode(x), ("semantic", "pixel"), strict=True):
        sure = outputs[f"{size}.{branch}_margin"] > MARGIN
        assert sure.float().mean() > 0.9
        assert torch.equal(ids[sure], outputs[f"{size}.{branch}_indices"][sure])


@pytest.mark.parametrize("size", SIZES)
def test_decoding_matches_the_official_tokenizer(case, size):
    model, _, outputs = case
    ids = [outputs[f"{size}.{branch}_indices"] for branch in ("semantic", "pixel")]
    with torch.no_grad():
        codes = [model.semantic_quantizer.indices_to_codes(ids[0]), model.pixel_quantizer.indices_to_codes(ids[1])]
        close(codes[0], outputs[f"{size}.semantic_codes"])
        close(codes[1], outputs[f"{size}.pixel_codes"])
        close(model.merge(*codes), outputs[f"{size}.merged"])
        image = model.decode_code(*ids)
    expected = outputs[f"{size}.decoded"]
    close(image, expected, atol=2e-3 if expected.dtype == torch.float16 else 1e-3)
    if f"{size}.decoded_u8" in outputs:
        stored = outputs[f"{size}.decoded_u8"].permute(0, 3, 1, 2)
        assert (to_uint8(image).int() - stored.int()).abs().max() <= 1


def losses(model, x):
    encoded = model.quantize(x)
    image = model.decode(encoded.semantic_codes, encoded.pixel_codes)
    rebuilt = model.semantic_decoder(encoded.semantic_codes)
    cosine = (1 - F.cosine_similarity(rebuilt, encoded.target, dim=-1)).mean()
    return torch.stack([encoded.semantic_loss, encoded.pixel_loss, F.mse_loss(image, x), cosine]), rebuilt


@pytest.mark.parametrize("size", SIZES)
def test_losses_match_the_official_tokenizer(case, size):
    model, inputs, outputs = case
    with torch.no_grad():
        values, rebuilt = losses(model, pictures(inputs, size))
    close(values, outputs[f"{size}.losses"])
    close(to_map(rebuilt, outputs[f"{size}.semantic_codes"].shape[-2:]), outputs[f"{size}.semantic_decoder_out"], 5e-4)


def test_gradients_match_the_official_tokenizer(case):
    model, inputs, outputs = case
    model.train()
    values, _ = losses(model, pictures(inputs, SIZES[-1]))
    values.sum().backward()
    close(values.sum().detach(), outputs["grad.total_loss"])
    names = [name.removeprefix("grad.") for name in outputs if name.startswith("grad.") and name != "grad.total_loss"]
    assert len(names) > 10
    for name in names:
        expected, grad = outputs[f"grad.{name}"], model.get_parameter(name).grad
        error = (grad[: len(expected)] - expected).abs().max() / expected.abs().max()
        assert error < 2e-3, f"{name}: relative error {error:.1e}"
    model.zero_grad()
    model.eval()


@pytest.mark.parametrize("kind", ["random", "zero"])
@pytest.mark.parametrize("draw", [0, 1])
def test_pixel_noise_matches_the_official_tokenizer(golden, kind, draw):
    _, inputs, outputs = read_case(golden("dualvitok_tiny"))
    config = replace(DualViTokConfig(), pixel_drop_rate=0.4, pixel_drop_batch_rate=0.5, pixel_noise_type=kind)
    draws = inputs[f"noise.{draw}.rand_batch"], inputs[f"noise.{draw}.rand_token"]
    torch.testing.assert_close(
        apply_noise(inputs["noise.quant_pixel"], *draws, config), outputs[f"noise.{draw}.{kind}"]
    )


@pytest.mark.parametrize("name", ["big", "small"])
def test_simvq_matches_the_official_quantiser_ties_included(golden, name):
    folder = golden("simvq_ties")
    _, inputs, outputs = read_case(folder)
    weights = {k.removeprefix(f"{name}."): v for k, v in read_weights(folder).items() if k.startswith(f"{name}.")}
    codes, dim = weights["frozen_codebook"].shape
    vq = SimVQ(SimVQConfig(codebook_size=codes, dim=dim))
    vq.load_state_dict(weights, strict=True)
    x = inputs[f"{name}.x"].requires_grad_()
    quantized, loss, ids = vq(x)
    margin = outputs[f"{name}.margin"]
    compared = (margin > MARGIN) | (margin == 0)
    assert torch.equal(ids[compared], outputs[f"{name}.indices"][compared])
    close(loss, outputs[f"{name}.loss"])
    close(quantized, outputs[f"{name}.quantized"])
    if name == "small":
        pull = torch.linspace(-1, 1, quantized.numel()).view_as(quantized)
        (loss + 0.01 * (quantized * pull).sum()).backward()
        close(x.grad, outputs["small.grad_x"])
        close(vq.code_transform.weight.grad, outputs["small.grad_code_transform"])
    else:
        close(vq.indices_to_codes(outputs["big.indices"]), outputs["big.codes"])


@pytest.mark.parametrize("i", [0, 1, 2])
def test_scaling_and_patches_match_the_official_layer(golden, i):
    _, inputs, outputs = read_case(golden("preproc"))
    x = (inputs[f"scale{i}.image_u8"].permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    patches, grid = scale_and_patchify(x, ViTConfig())
    expected = outputs[f"scale{i}.patches"]
    torch.testing.assert_close(patches[0, : len(expected)], expected, rtol=1e-4, atol=1e-5)
    assert outputs[f"scale{i}.grid_thw"].tolist() == [[1, *grid]]


def test_spatial_norm_on_a_size_that_is_no_multiple_of_the_code_map():
    norm = SpatialNorm(32, 4).double()
    x, codes = torch.randn(2, 32, 7, 9, dtype=torch.float64), torch.randn(2, 4, 3, 4, dtype=torch.float64)
    grown = F.interpolate(codes, size=(7, 9))
    torch.testing.assert_close(norm(x, codes), norm.norm_layer(x) * norm.conv_y(grown) + norm.conv_b(grown))
    x8 = torch.randn(2, 32, 6, 8, dtype=torch.float64)
    grown = F.interpolate(codes, size=(6, 8))
    torch.testing.assert_close(norm(x8, codes), norm.norm_layer(x8) * norm.conv_y(grown) + norm.conv_b(grown))


def test_token_and_map_layouts_are_inverse():
    tokens = torch.randn(2, 6, 5)
    assert torch.equal(to_tokens(to_map(tokens, (2, 3))), tokens)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="multiples of 16"):
        DualViTokConfig().grids(100, 64)
    with pytest.raises(ValueError, match="z_channels is 64, but both codes side by side have 32"):
        DualViTokConfig(pixel_quantizer=SimVQConfig(codebook_size=8, dim=0))
