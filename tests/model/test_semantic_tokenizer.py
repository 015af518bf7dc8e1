"""ILLUME's vision tokenizer over encoders of Hugging Face."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_semantic import ENCODERS, tiny_tokenizer
from torch import Tensor

from illume_fast.model.hf_encoder import VisionEncoder, encoder_config, scaled, to_side
from illume_fast.model.semantic_config import EncoderConfig, SemanticTokenizerConfig
from illume_fast.model.semantic_tokenizer import SemanticTokenizer
from illume_fast.model.strict import ConfigError
from illume_fast.model.tensor_files import CheckpointError, stage_tensors, staging
from illume_fast.model.tensor_reader import fill
from illume_fast.model.vision_encoder import CLIP_MEAN, CLIP_STD
from illume_fast.model.vision_folder import VISION, survey_vision

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

# the size a picture is shown in: finer than 16 x 16, equal, coarser, one that does not divide, another position grid
CASES = [("siglip", 64), ("siglip", 256), ("clip", 128), ("dinov2", 136), ("convnext", 64), ("qwen2_vl", 256)]
QUANTIZERS = ["simvq", "ema"]


def made(config: SemanticTokenizerConfig, seed: int = 0) -> SemanticTokenizer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SemanticTokenizer(config).eval()


def pictures(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_any_encoder_serves(kind, size):
    tokenizer = made(tiny_tokenizer(kind, size))
    ids = tokenizer.encode(pictures(2, 3, 60, 90))
    assert ids.shape == (2, 16, 16)
    assert ids.dtype == torch.int64
    assert int(ids.min()) >= 0
    assert int(ids.max()) < 64
    assert len(ids.unique()) > 1
    features = tokenizer.decode_features(ids)
    assert features.shape == (2, 256, tokenizer.config.encoder.width)
    assert features.isfinite().all()


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_features_are_the_encoders_own_where_the_grids_agree(kind):
    from transformers import AutoConfig, AutoModel

    size = 128
    encoder = made(tiny_tokenizer(kind, size)).encoder
    theirs = AutoModel.from_config(AutoConfig.for_model(**ENCODERS[kind])).eval()
    theirs.load_state_dict(encoder.model.state_dict())
    x = pictures(1, 3, size, size)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        expected = theirs(((x + 1) / 2 - mean) / std, interpolate_pos_encoding=True).last_hidden_state[:, -256:]
        torch.testing.assert_close(encoder(x), expected)


def test_qwen2_vl_features_equal_transformers():
    from transformers.models.qwen2_vl import modeling_qwen2_vl as theirs

    from illume_fast.model.vision_encoder import scale_and_patchify

    settings = {key: value for key, value in ENCODERS["qwen2_vl"].items() if key != "model_type"}
    model = theirs.Qwen2VisionTransformerPretrainedModel(theirs.Qwen2VLVisionConfig(**settings)).eval()
    encoder = VisionEncoder(encoder_config(ENCODERS["qwen2_vl"], 256)).eval()
    encoder.model.load_state_dict(model.state_dict(), strict=True)
    x = pictures(1, 3, 256, 256)
    patches, (rows, columns) = scale_and_patchify(x, encoder.model.config)
    with torch.no_grad():
        expected = model(patches[0], grid_thw=torch.tensor([[1, rows, columns]])).pooler_output
        torch.testing.assert_close(encoder(x)[0], expected, rtol=1e-4, atol=1e-5)


def test_finer_grids_are_averaged_and_coarser_ones_interpolated():
    fine = torch.arange(32 * 32 * 2.0).view(1, 32 * 32, 2)
    cells = fine.view(1, 16, 2, 16, 2, 2).mean(dim=(2, 4)).flatten(1, 2)
    torch.testing.assert_close(to_side(fine, (32, 32)), cells)
    ramp = torch.arange(8.0).repeat(8)[None, :, None]  # the column's number
    row = to_side(ramp, (8, 8))[0, :16, 0]
    torch.testing.assert_close(row[1:-1], torch.arange(1, 15) / 2 - 0.25)
    assert row[[0, -1]].tolist() == [0, 7], "the edge is held"
    assert to_side(fine[:, :256], (16, 16)).data_ptr() == fine.data_ptr()


@given(height=st.integers(1, 80), width=st.integers(1, 80))
def test_pictures_of_any_size_are_scaled(height, width):
    new = scaled(pictures(1, 3, height, width), 32)
    assert new.shape == (1, 3, 32, 32)
    assert float(new.abs().max()) <= 1


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_training_brings_the_loss_down_and_leaves_the_encoder(quantizer):
    tokenizer = made(tiny_tokenizer("qwen2_vl", 128, quantizer=quantizer, mse_weight=0.1)).train()
    before = {name: value.clone() for name, value in tokenizer.encoder.state_dict().items()}
    x = pictures(4, 3, 128, 128)
    learnt = [p for p in tokenizer.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(learnt, lr=3e-3)
    losses = []
    for _ in range(12):
        answer = tokenizer(x)
        optimiser.zero_grad()
        answer.loss.backward()
        assert all(p.grad is not None for p in learnt)
        optimiser.step()
        losses.append(answer.cosine.item())
    assert losses[-1] < 0.7 * losses[0]
    torch.testing.assert_close(answer.loss, answer.cosine + 0.1 * answer.mse + answer.quantizer)
    assert not tokenizer.encoder.training
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.encoder.state_dict().items())


def test_a_moving_codebook_stands_still_in_evaluation():
    tokenizer = made(tiny_tokenizer("siglip", 64, quantizer="ema"))
    x, before = pictures(1, 3, 64, 64), tokenizer.quantizer.codebook.clone()
    tokenizer(x)
    assert torch.equal(tokenizer.quantizer.codebook, before)
    tokenizer.train()(x)
    assert not torch.equal(tokenizer.quantizer.codebook, before)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_saved_and_loaded_strictly(tmp_path, quantizer):
    first = made(tiny_tokenizer("siglip", 64, quantizer=quantizer))
    with staging(tmp_path) as stage:
        stage_tensors(stage, VISION, first.state_dict(), "", 2**30)
    with torch.device("meta"):
        second = SemanticTokenizer(SemanticTokenizerConfig.from_dict(first.config.to_dict()))
    assert second.config == first.config
    fill(second.eval(), survey_vision(tmp_path, "", second).read(torch.float32, "cpu"))
    x = pictures(1, 3, 50, 70)
    assert torch.equal(first.encode(x), second.encode(x))
    with torch.device("meta"):
        other = SemanticTokenizer(replace(first.config, num_blocks=2))
    with pytest.raises(CheckpointError, match=r"missing projection\.blocks\.1"):
        survey_vision(tmp_path, "", other)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(1, 8, 8, dtype=torch.int64), r"expected integers \[B, 16, 16\]"),
        (torch.zeros(1, 16, 16), "expected integers"),
        (torch.full((1, 16, 16), 64), "allowed are 0 to 63"),
        (torch.full((1, 16, 16), -1), "allowed are 0 to 63"),
    ],
)
def test_ids_that_are_none(ids, message):
    with pytest.raises(ValueError, match=message):
        made(tiny_tokenizer()).decode_features(ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "siglip2_vision_model"}, "needed is one that takes pixel_values alone"),
        (
            {"model_type": "qwen2_5_vl_vision", "depth": 1, "hidden_size": 32, "num_heads": 2},
            "it takes hidden_states, grid_thw",
        ),
        ({"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1}, "it takes input_ids"),
        ({"model_type": "no such thing"}, "transformers cannot build it: Unrecognized model identifier"),
        ({"model_type": "clip_vision_model", "hidden_size": 33}, "not a multiple of the number of attention heads"),
        ({"model_type": "qwen2_vl_vision", "patch_size": 15}, "image_size 448 must be a multiple of 30 pixels"),
        ({"model_type": "qwen2_vl_vision", "hidden_act": "gelu"}, "allowed is 'quick_gelu'"),
        ({}, "needs the 'model_type'"),
    ],
)
def test_encoders_that_cannot_serve(settings, message):
    with pytest.raises(ConfigError, match=message):
        encoder_config(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantizer": "vq"}, "allowed are 'simvq', 'ema'"),
        ({"embed_dim": 36}, "head size divisible by 4"),
        ({"codebook_size": 0}, "codebook_size: must be at least 1"),
        ({"decay": 1.0}, r"must lie in \[0, 1\)"),
    ],
)
def test_configs_that_are_refused(change, message):
    config = SemanticTokenizerConfig(EncoderConfig({"model_type": "clip_vision_model"}, 768))
    with pytest.raises(ConfigError, match=message):
        replace(config, **change)


def test_a_wrong_width_is_told():
    config = tiny_tokenizer().encoder
    with pytest.raises(ConfigError, match="features have width 32, the config says 33"):
        VisionEncoder(replace(config, width=33))(pictures(1, 3, 64, 64))
