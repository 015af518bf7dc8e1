"""ILLUME from a Llama (Vicuna) and a vision encoder of one's own, ready to be trained.

Nothing of ILLUME is published: a model begins here, with a language model and an encoder of Hugging Face. What they
do not have is drawn afresh: rows of new tokens, the adapter and the vision tokenizer around its encoder.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from illume_fast.data.chat_template import ChatTemplate, chat_template
from illume_fast.data.errors import InputError
from illume_fast.data.sentencepiece_file import read_sentencepiece
from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.model.checkpoint import save_checkpoint
from illume_fast.model.config import DecoderConfig, ProjectorConfig
from illume_fast.model.decoder import initialise
from illume_fast.model.generation_config import GenerationConfig
from illume_fast.model.hf_encoder import QWEN2_VL, encoder_config
from illume_fast.model.illume_v1 import IllumeV1Model
from illume_fast.model.projector import mlp
from illume_fast.model.semantic_config import PICTURE, EncoderConfig, SemanticTokenizerConfig
from illume_fast.model.semantic_tokenizer import SemanticTokenizer
from illume_fast.model.strict import ConfigError
from illume_fast.model.tensor_files import CheckpointError, read_json
from illume_fast.model.tensor_reader import differences, fill
from illume_fast.model.v1_config import IllumeV1CheckpointConfig, IllumeV1Config, SlicedTowerConfig, illume_vocab
from illume_fast.model.vision_encoder import CLIP_MEAN, CLIP_STD

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NEW_ROW_STD = 0.02
# where models of several parts keep their eyes
_EYES = ("vision_model", "visual", "vision_tower")
# of a config, what says nothing about the model
_ASIDE = ("transformers_version", "architectures", "dtype", "_name_or_path", "return_dict", "output_hidden_states")


@dataclass(frozen=True)
class Assembly:
    """What is chosen for the new model; sizes of the vision tokenizer as in `SemanticTokenizerConfig`.

    Pictures are shown to the encoder in `image_size` pixels, which is also the size of a slice. `seed` is for all that
    is drawn.
    """

    image_size: int = 448
    codes: int = 16_384
    width: int = 1024
    blocks: int = 4
    quantizer: str = "simvq"
    template: str = "vicuna"
    seed: int = 0


def assemble(language: Path, encoder: Path, out: Path, settings: Assembly) -> IllumeV1CheckpointConfig:
    """Write the checkpoint folder `out` from two folders of Hugging Face.

    The rows of new tokens (padding if there is none, structure, codes) are drawn from N(0, 0.02), as those of ILLUME+
    were; everything that the folders hold stays as it is, in its dtype. Network and pickled code are not used.

    Raises:
        InputError: `out` holds a model already, or a folder lacks a text tokenizer.
        CheckpointError: a folder cannot be used; the message says which and why.
        ConfigError: the sizes in `settings` cannot be.
    """
    if (out / "config.json").exists():
        raise InputError(f"{out} holds a model already; give another folder")
    template = chat_template(settings.template)
    tokenizer, known = read_text_tokenizer(language, template)
    text = TextTokenizer(tokenizer, template.specials)
    llama = _decoder_config(language)
    if known > llama.vocab_size:
        raise InputError(f"{language}: its tokenizer has {known} tokens, its embeddings {llama.vocab_size} rows")
    eyes, weights = read_encoder(encoder, settings.image_size)
    vocab = illume_vocab(text.size, pad=text.pad, start=text.im_start, end=text.im_end, codes=settings.codes)
    model_config = IllumeV1Config(
        replace(llama, vocab_size=vocab.rows),
        SlicedTowerConfig(eyes, settings.image_size),
        ProjectorConfig(),
        vocab,
        max_length=llama.max_position_embeddings,
        template=settings.template,
    )
    vision_config = SemanticTokenizerConfig(
        eyes, settings.codes, embed_dim=settings.width, num_blocks=settings.blocks, quantizer=settings.quantizer
    )
    config = IllumeV1CheckpointConfig(model_config, vision_config, GenerationConfig((PICTURE,), decoder="diffusion"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = _model(config.model, read_language(language), known, weights)
        vision = SemanticTokenizer(vision_config)
    vision.encoder.model.load_state_dict(weights, strict=True)
    save_checkpoint(out, config, model, vision, tokenizer.to_str())
    return config


def read_text_tokenizer(folder: Path, template: ChatTemplate) -> "tuple[Tokenizer, int]":
    """The tokenizer of a folder (`tokenizer.json`, or Llama's `tokenizer.model`), with a token for padding, and how
    many tokens it had before. InputError when there is none, or it lacks the template's control tokens."""
    from tokenizers import Tokenizer

    whole, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    if whole.is_file():
        TextTokenizer.from_file(whole, specials=template.specials[1:2] * 3)  # says in words what is wrong with a file
        tokenizer = Tokenizer.from_file(str(whole))
    elif pieces.is_file():
        tokenizer = read_sentencepiece(pieces)
    else:
        raise InputError(f"{folder}: has neither tokenizer.json nor tokenizer.model")
    known = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    tokenizer.add_special_tokens([template.specials[0]])
    return tokenizer, known


def read_language(folder: Path) -> dict[str, Tensor]:
    """All weights of a causal language model of Hugging Face, by name."""
    from transformers import AutoModelForCausalLM

    model = _load(AutoModelForCausalLM, folder)
    weights = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    return weights


def read_encoder(folder: Path, image_size: int) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """A vision encoder of Hugging Face, or the eyes of a model of several parts (CLIP, SigLIP, Qwen2-VL), and its
    weights. Pictures are normalised as its `preprocessor_config.json` says, without one as CLIP's."""
    from transformers import AutoModel

    # it may be stored with a head for a task of its own
    whole = _load(AutoModel, folder, strangers=())
    part: Any = next((getattr(whole, name) for name in _EYES if hasattr(whole, name)), whole)
    settings = {key: value for key, value in part.config.to_diff_dict().items() if key not in _ASIDE}
    if "vision_use_head" in settings:
        settings["vision_use_head"] = False  # it makes one vector of the picture, which nobody asks for
    if settings["model_type"] == QWEN2_VL:
        settings = {**part.config.to_dict(), **settings}
        settings = {key: settings[key] for key in _QWEN2_VL_KEYS}
    path = folder / "preprocessor_config.json"
    norms = read_json(path) if path.is_file() else {}
    mean, std = (tuple(norms.get(f"image_{key}", own)) for key, own in (("mean", CLIP_MEAN), ("std", CLIP_STD)))
    try:
        config = encoder_config(settings, image_size, mean, std)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    weights = {key: value for key, value in part.state_dict().items() if not key.startswith("head.")}
    return config, weights


_QWEN2_VL_KEYS = (
    *("model_type", "depth", "embed_dim", "num_heads", "hidden_size", "mlp_ratio", "patch_size"),
    *("temporal_patch_size", "spatial_merge_size", "in_channels", "hidden_act"),
)


def _model(config: IllumeV1Config, language: dict[str, Tensor], known: int, eyes: dict[str, Tensor]) -> IllumeV1Model:
    with torch.device("meta"):
        model = IllumeV1Model(config)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in language:
            language[name] = grown(language[name], known, config.vocab.rows)
    adapter = mlp(config.vision_tower.encoder.width, config.decoder.hidden_size, config.projector.depth)
    initialise(adapter)
    weights = {
        **language,
        **{f"model.mm_projector.{key}": value for key, value in adapter.state_dict().items()},
        **{f"model.vision_tower.model.{key}": value for key, value in eyes.items()},
    }
    if problems := differences(model.state_dict(), {name: tensor.shape for name, tensor in weights.items()}):
        raise CheckpointError(f"the language model and the encoder do not make up the model: {'; '.join(problems)}")
    fill(model, weights)
    return model


def grown(table: Tensor, known: int, rows: int) -> Tensor:
    """The first `known` rows of [V, H], and new ones from N(0, 0.02): [rows, H], in the table's dtype."""
    new = torch.empty(rows, table.shape[1]).normal_(std=NEW_ROW_STD).to(table.dtype)
    new[:known] = table[:known]
    return new


def _decoder_config(folder: Path) -> DecoderConfig:
    try:
        return DecoderConfig.from_hf(read_json(folder / "config.json"))
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def _load(auto: Any, folder: Path, strangers: tuple[str, ...] = ("unexpected_keys",)) -> Any:
    """What a class of transformers reads from a folder, in its stored dtype. CheckpointError unless all fits."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: there is no config.json; give a folder of Hugging Face")
    try:
        model, found = auto.from_pretrained(folder, dtype="auto", local_files_only=True, output_loading_info=True)
    # transformers raises whatever its readers raise
    except Exception as error:
        raise CheckpointError(f"{folder}: cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    for what in ("missing_keys", "mismatched_keys", *strangers):
        if found[what]:
            names = ", ".join(sorted(map(str, found[what]))[:6])
            raise CheckpointError(f"{folder}: {what.replace('_', ' ')} in its weights: {names}")
    return model.eval()
