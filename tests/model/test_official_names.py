"""The published models built without memory: every name, shape and count against a list made from the description of
the official checkpoints, and against the list that the official modules gave."""

import ast
from collections.abc import Iterator

import pytest

from illume_fast.model.checkpoint import build
from illume_fast.model.presets import illume_plus_3b, illume_plus_7b

Shapes = dict[str, tuple[int, ...]]

VIT_WIDTH, VIT_HIDDEN, FEATURES = 1280, 5120, 3584
CODE_WIDTH = 32
LEVELS = {"semantic": 32_768, "pixel": 98_304}


def affine(name: str, *shape: int) -> Shapes:
    """A weight and the bias that goes with its first side."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def vision_blocks(depth: int) -> Shapes:
    found: Shapes = {}
    for i in range(depth):
        found |= under(
            f"blocks.{i}",
            affine("norm1", VIT_WIDTH)
            | affine("norm2", VIT_WIDTH)
            | affine("attn.qkv", 3 * VIT_WIDTH, VIT_WIDTH)
            | affine("attn.proj", VIT_WIDTH, VIT_WIDTH)
            | affine("mlp.fc1", VIT_HIDDEN, VIT_WIDTH)
            | affine("mlp.fc2", VIT_WIDTH, VIT_HIDDEN),
        )
    return found


def vit() -> Shapes:
    return {
        "patch_embed.proj.weight": (VIT_WIDTH, 3, 2, 14, 14),
        **vision_blocks(32),
        **affine("merger.ln_q", VIT_WIDTH),
        **affine("merger.mlp.0", 4 * VIT_WIDTH, 4 * VIT_WIDTH),
        **affine("merger.mlp.2", FEATURES, 4 * VIT_WIDTH),
    }


def norm(name: str, width: int, codes: int | None) -> Shapes:
    if codes is None:
        return affine(name, width)
    return under(
        name,
        affine("norm_layer", width) | affine("conv_y", width, codes, 1, 1) | affine("conv_b", width, codes, 1, 1),
    )


def res_block(inputs: int, outputs: int, codes: int | None) -> Shapes:
    shortcut = {} if inputs == outputs else affine("nin_shortcut", outputs, inputs, 1, 1)
    return {
        **norm("norm1", inputs, codes), **affine("conv1", outputs, inputs, 3, 3),
        **norm("norm2", outputs, codes), **affine("conv2", outputs, outputs, 3, 3), **shortcut,
    }  # fmt: skip


def attention(width: int, codes: int | None) -> Shapes:
    found = norm("norm", width, codes)
    for name in ("q", "k", "v", "proj_out"):
        found |= affine(name, width, width, 1, 1)
    return found


def middle(width: int, codes: int | None) -> Shapes:
    blocks = under("mid.block_1", res_block(width, width, codes)) | under("mid.block_2", res_block(width, width, codes))
    return blocks | under("mid.attn_1", attention(width, codes))


def level(inputs: int, width: int, blocks: int, attends: bool, codes: int | None) -> Shapes:
    found: Shapes = {}
    for i in range(blocks):
        found |= under(f"block.{i}", res_block(width if i else inputs, width, codes))
        if attends:
            found |= under(f"attn.{i}", attention(width, codes))
    return found


def pixel_encoder() -> Shapes:
    widths = [128 * factor for factor in (1, 1, 2, 2, 4)]
    found = affine("conv_in", 128, 3, 3, 3)
    for i, width in enumerate(widths):
        found |= under(f"down.{i}", level(widths[i - 1] if i else 128, width, 2, i == 4, None))
        if i < 4:
            found |= affine(f"down.{i}.downsample.conv", width // 4, width, 3, 3)
    return found | middle(512, None) | affine("norm_out", 512) | affine("conv_out", CODE_WIDTH, 512, 3, 3)


def pixel_decoder() -> Shapes:
    widths = [384 * factor for factor in (1, 1, 2, 2, 4)]
    codes = 2 * CODE_WIDTH
    found = affine("conv_in", 1536, codes, 3, 3) | middle(1536, codes)
    for i, width in enumerate(widths):
        found |= under(f"up.{i}", level(widths[min(i + 1, 4)], width, 3, i == 4, codes))
        if i:
            found |= affine(f"up.{i}.upsample.conv", 4 * width, width, 3, 3)
    return found | norm("norm_out", 384, codes) | affine("conv_out", 3, 384, 3, 3)


def dual_vitok() -> Shapes:
    found = {
        **under("semantic_encoder.model", vit()),
        **affine("semantic_encoder.proj_in", VIT_WIDTH, FEATURES, 1, 1),
        **under("semantic_encoder", vision_blocks(4)),
        **affine("semantic_encoder.proj_out.0", CODE_WIDTH, VIT_WIDTH),
        **affine("semantic_decoder.proj_in", VIT_WIDTH, CODE_WIDTH),
        **under("semantic_decoder", vision_blocks(4)),
        **affine("semantic_decoder.proj_out.0", FEATURES, VIT_WIDTH),
        **affine("semantic_decoder.proj_out.1", FEATURES),
        **under("pixel_encoder", pixel_encoder()),
        **under("pixel_decoder", pixel_decoder()),
        **affine("pixel_quant_conv", CODE_WIDTH, CODE_WIDTH, 1, 1),
        **affine("pixel_post_quant_conv", 2 * CODE_WIDTH, 2 * CODE_WIDTH, 1, 1),
    }
    for kind, count in LEVELS.items():
        found[f"{kind}_quantizer.frozen_codebook"] = (count, CODE_WIDTH)
        found[f"{kind}_quantizer.code_transform.weight"] = (CODE_WIDTH, CODE_WIDTH)
    return found


def language(rows: int, width: int, layers: int, key_width: int, mlp: int, tied: bool) -> Shapes:
    found: Shapes = {"model.embed_tokens.weight": (rows, width), "model.norm.weight": (width,)}
    if not tied:
        found["lm_head.weight"] = (rows, width)
    for i in range(layers):
        found |= under(f"model.layers.{i}", dict(layer(width, key_width, mlp)))
    for part, features in ((1, FEATURES), (2, CODE_WIDTH)):
        found |= affine(f"model.mm_projector.projector_{part}.0", width, features)
        found |= affine(f"model.mm_projector.projector_{part}.2", width, width)
    found |= under("model.vision_tower.semantic_encoder", vit())
    return found | under("model.vision_tower.pixel_encoder", pixel_encoder())


def layer(width: int, key_width: int, mlp: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "input_layernorm.weight", (width,)
    yield "post_attention_layernorm.weight", (width,)
    yield from affine("self_attn.q_proj", width, width).items()
    yield from affine("self_attn.k_proj", key_width, width).items()
    yield from affine("self_attn.v_proj", key_width, width).items()
    yield "self_attn.o_proj.weight", (width, width)
    yield "mlp.gate_proj.weight", (mlp, width)
    yield "mlp.up_proj.weight", (mlp, width)
    yield "mlp.down_proj.weight", (width, mlp)


MODELS = {
    illume_plus_3b: language(283_047, 2048, 36, 2 * 128, 11_008, tied=True),
    illume_plus_7b: language(283_175, 3584, 28, 4 * 128, 18_944, tied=False),
}


@pytest.mark.parametrize("preset", MODELS, ids=lambda preset: preset.__name__)
def test_every_name_and_shape(preset):
    model, vision = build(preset())
    for module, expected in ((model, MODELS[preset]), (vision, dual_vitok())):
        found = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        assert found == expected
        assert all(tensor.is_meta for tensor in module.state_dict().values())


@pytest.mark.parametrize("preset", MODELS, ids=lambda preset: preset.__name__)
def test_counts(preset):
    model, vision = build(preset())
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(vision.pixel_encoder) == count(model.model.vision_tower.pixel_encoder) == 27_159_264
    assert count(vision.pixel_decoder) == 476_363_523
    assert model.head_weight.shape[0] == {illume_plus_3b: 283_047, illume_plus_7b: 283_175}[preset]


def test_the_list_of_the_official_modules(golden):
    """Both halves of the pixel branch, as the official module tree names them."""
    path = golden("preproc").parent.parent / "reference" / "illume_plus_pixel_keys.txt"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    listed = {name: ast.literal_eval(shape) for name, shape in (line.split(" ", 1) for line in lines)}
    assert listed == under("pixel_encoder", pixel_encoder()) | under("pixel_decoder", pixel_decoder())
    assert len(listed) == len(lines)
