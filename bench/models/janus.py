"""A `transformers` Janus of any size with random weights; its eyes and its picture decoder are always tiny."""

from dataclasses import dataclass

import torch
from transformers import GenerationConfig, JanusConfig, JanusForConditionalGeneration

PAD, BOS, EOS, BOI = 0, 1, 2, 3
FIRST_WORD = 4
_PATCH = 4
_TINY = 32


@dataclass(frozen=True, kw_only=True)
class JanusShape:
    """Sizes of what generates pictures: `image_tokens` must be a square, `codes` is the number of picture tokens."""

    layers: int = 6
    hidden: int = 256
    heads: int = 8
    key_value_heads: int | None = None
    intermediate: int = 688
    image_tokens: int = 576
    codes: int = 16384
    words: int = 1000
    max_positions: int = 2048


def janus_config(shape: JanusShape = JanusShape()) -> JanusConfig:
    """The configuration of a Janus of that shape.

    Raises:
        ValueError: `image_tokens` is no square.
    """
    side = int(shape.image_tokens**0.5)
    if side * side != shape.image_tokens:
        raise ValueError(f"JanusShape.image_tokens: must be a square, got {shape.image_tokens}")
    text = {
        "model_type": "llama",
        "vocab_size": shape.words,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads or shape.heads,
        "max_position_embeddings": shape.max_positions,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    vision = {
        "hidden_size": _TINY,
        "projection_dim": shape.hidden,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "mlp_ratio": 2,
        "image_size": side * _PATCH,
        "patch_size": _PATCH,
        "num_image_tokens": shape.image_tokens,
    }
    codes = {
        "embed_dim": 8,
        "num_embeddings": shape.codes,
        "latent_channels": _TINY,
        "base_channels": _TINY,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "projection_dim": shape.hidden,
        "image_token_embed_dim": shape.hidden,
    }
    return JanusConfig(
        text_config=text, vision_config=vision, vq_config=codes, image_token_id=shape.words - 1, pad_token_id=PAD
    )


def janus_model(
    shape: JanusShape = JanusShape(), *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> JanusForConditionalGeneration:
    """A model of that shape in eval mode on the CPU, ready to generate pictures.

    Linear layers keep the size of what goes through them, so that the tokens depend on prompt and history; with the
    weights that `transformers` draws, small models write one token for ever.
    """
    torch.manual_seed(seed)
    model = JanusForConditionalGeneration(janus_config(shape)).eval().requires_grad_(False)
    for part in model.modules():
        if isinstance(part, torch.nn.Linear):
            part.weight.normal_(std=part.in_features**-0.5)
        elif isinstance(part, torch.nn.Embedding):
            part.weight.normal_()
    model.generation_config = GenerationConfig(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, generation_kwargs={"boi_token_id": BOI}
    )
    return model.to(dtype)


def janus_prompts(lengths: list[int], shape: JanusShape = JanusShape(), *, seed: int = 1) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` int64 [B, L] of random prompts of these lengths, padded to the left.

    A prompt begins with the token that begins all text and ends with the one that begins a picture.
    """
    longest = max(lengths)
    gen = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), longest), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        words = torch.randint(FIRST_WORD, shape.words - 1, (length - 2,), generator=gen)
        ids[row, longest - length :] = torch.cat((torch.tensor([BOS]), words, torch.tensor([BOI])))
        mask[row, longest - length :] = 1
    return {"input_ids": ids, "attention_mask": mask}
