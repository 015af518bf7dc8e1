"""`illume-fast assemble`: ILLUME from a language model and a vision encoder of one's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from illume_fast.commands.options import check_range
from illume_fast.data.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Assemble:
    """Make an ILLUME model, to be trained, of a Vicuna (or Llama) and a vision encoder in Hugging Face's form.

    Rows of new tokens, the adapter and the vision tokenizer's own layers are drawn afresh. Nothing is downloaded.
    """

    language: Annotated[Path, arg(metavar="DIR")]
    """Folder of the language model, with its tokenizer.json or tokenizer.model."""
    encoder: Annotated[Path, arg(metavar="DIR")]
    """Folder of the vision encoder (SigLIP, CLIP, DINOv2, ...), or of a model that has one (CLIP, SigLIP, Qwen2-VL)."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for the new model."""
    image_size: Annotated[int, arg(metavar="PIXELS")] = 448
    """Side of a picture, or of a slice of one, as the encoder sees it."""
    codes: Annotated[int, arg(metavar="N")] = 16_384
    """Codes of the vision tokenizer."""
    width: Annotated[int, arg(metavar="N")] = 1024
    """Width of the tokenizer's blocks."""
    blocks: Annotated[int, arg(metavar="N")] = 4
    """Blocks before, and blocks behind, the codes."""
    quantizer: Literal["simvq", "ema"] = "simvq"
    """A frozen codebook behind a trained map, or one that follows its features."""
    template: Literal["vicuna", "qwen2"] = "vicuna"
    """How the language model writes conversations down."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Number that what is drawn starts from."""


def assemble(options: Assemble) -> None:
    """Write the folder that `options` describes."""
    check_range("--image-size", options.image_size, 16, 4096)
    check_range("--codes", options.codes, 2, 2**20)
    check_range("--width", options.width, 64, 2**16)
    if options.width % 64:
        raise InputError(f"--width must be a multiple of 64, got {options.width}")
    check_range("--blocks", options.blocks, 0, 64)
    check_range("--seed", options.seed, 0, 2**63 - 1)
    from illume_fast import assembly

    settings = assembly.Assembly(
        image_size=options.image_size,
        codes=options.codes,
        width=options.width,
        blocks=options.blocks,
        quantizer=options.quantizer,
        template=options.template,
        seed=options.seed,
    )
    config = assembly.assemble(options.language, options.encoder, options.out, settings)
    vocab = config.model.vocab
    print(f"{options.out}: {vocab.text_size:,} text tokens and {vocab.codes(0):,} codes; vision tokenizer untrained")
