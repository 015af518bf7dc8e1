"""Folders of diffusion decoders are read strictly: what is wrong is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_diffusion import CODES, save, tiny_unet, tiny_vae

from illume_fast.diffusion import SdxlDecoder
from illume_fast.diffusion.folder import WEIGHTS
from illume_fast.model.tensor_files import CheckpointError

UNET = f"unet/{WEIGHTS}.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save(tmp_path_factory.mktemp("whole"), tiny_unet())


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "decoder")


def load(folder):
    return SdxlDecoder.from_pretrained(folder, code_channels=CODES)


def change_config(path, **changes):
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "left out"}))


def change_weights(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refused(folder, match):
    with pytest.raises(CheckpointError, match=match):
        load(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler"])
def test_a_missing_part(folder, part):
    shutil.rmtree(folder / part)
    refused(folder, f"no folder of a diffusion decoder, {part}/ missing")


@pytest.mark.parametrize(
    "part, change, match",
    [
        ("unet", {"_class_name": "UNet3D"}, "_class_name is 'UNet3D'; expected 'UNet2DConditionModel'"),
        ("vae", {"_class_name": "left out"}, "_class_name is None; expected 'AutoencoderKL'"),
        ("unet", {"wings": 2}, "UNet2DConditionModel has no wings"),
        ("unet", {"in_channels": 9}, "in_channels is 9; expected 16, 4 of latents and 12 of codes"),
        ("unet", {"out_channels": 8}, "out_channels is 8, but the VAE's latents have 4"),
        ("unet", {"addition_embed_type": None}, "addition_embed_type is None; expected 'text_time'"),
        ("unet", {"projection_class_embeddings_input_dim": 24}, "leaves no text"),
        ("unet", {"down_block_types": ["Stairs", "DownBlock2D"]}, "no UNet2DConditionModel can be built"),
        ("vae", {"out_channels": 1}, "out_channels is 1; pictures have 3"),
    ],
)
def test_configs(folder, part, change, match):
    change_config(folder / part / "config.json", **change)
    refused(folder, match)


def test_an_unknown_scheduler(folder):
    change_config(folder / "scheduler" / "scheduler_config.json", _class_name="Clock")
    refused(folder, "'Clock' is no scheduler of diffusers")


def swap(tensors):
    tensors["conv_in.bias"] = torch.zeros(3)


def poison(tensors):
    tensors["conv_in.bias"][0] = float("nan")


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda t: t.pop("conv_in.bias"), r"unet/.*: missing conv_in.bias \[8\]$"),
        (
            lambda t: t.pop("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
            r"missing mid_block.*attn2.to_k.weight \[16, 24\]$",
        ),
        (lambda t: t.update(wing=torch.zeros(2)), "unknown wing$"),
        (swap, r"wrong shape conv_in.bias \[3\] \(expected \[8\]\)"),
        (poison, "NaN or infinite values in conv_in.bias"),
        (
            lambda t: t.update({"conv_in.bias": torch.zeros(8, dtype=torch.int32)}),
            r"not floating point conv_in.bias \(I32\)",
        ),
    ],
)
def test_weights(folder, change, match):
    change_weights(folder / UNET, change)
    refused(folder, match)


def test_a_vae_s_encoder_must_be_whole_and_is_not_kept(folder):
    assert not any("encoder" in name and "decoder" not in name for name in load(folder).vae.state_dict())
    change_weights(folder / f"vae/{WEIGHTS}.safetensors", lambda t: t.pop("encoder.conv_in.bias"))
    refused(folder, r"missing encoder.conv_in.bias")


def test_damaged_files(folder):
    path = folder / UNET
    path.write_bytes(path.read_bytes()[:-100])
    refused(folder, "damaged or truncated")
    path.rename(path.with_suffix(".bin"))
    refused(folder, rf"has neither {WEIGHTS}.safetensors nor {WEIGHTS}.safetensors.index.json$")


def test_weights_in_several_files(folder, whole):
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / UNET).unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="40KB")
    index = folder / "unet" / f"{WEIGHTS}.safetensors.index.json"
    assert len(set(json.loads(index.read_text())["weight_map"].values())) > 1
    expected = load(whole).unet.state_dict()
    for name, tensor in load(folder).unet.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    next(folder.glob("unet/*-00001-of-*.safetensors")).unlink()
    refused(folder, "'.*-00001-of-.*' is not in")


def test_fingerprints_tell_decoders_apart(folder, whole):
    marks = {load(whole).fingerprint, load(folder).fingerprint}
    assert len(marks) == 1
    change_weights(folder / UNET, lambda t: t["conv_in.bias"].add_(1))
    marks.add(load(folder).fingerprint)
    change_config(folder / "scheduler" / "scheduler_config.json", beta_end=0.013)
    marks.add(load(folder).fingerprint)
    assert len(marks) == 3


def test_means_of_latents(tmp_path):
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    plain = load(save(tmp_path / "plain", tiny_unet()))
    meant = load(save(tmp_path / "meant", tiny_unet(), tiny_vae(latents_mean=mean, latents_std=std)))
    latents = torch.randn(1, 4, 16, 16)
    moved = latents * torch.tensor(std).view(1, 4, 1, 1)
    moved += torch.tensor(mean).view(1, 4, 1, 1) * plain.vae.config.scaling_factor
    torch.testing.assert_close(meant.decode_latents(latents), plain.decode_latents(moved))
