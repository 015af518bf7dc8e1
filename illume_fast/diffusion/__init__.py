"""Diffusion decoders: pictures from the codes or features that a vision tokenizer gives.

They need the diffusers library (`pip install 'illume-fast[diffusion]'`), which is loaded with the first of them.
"""

from illume_fast.diffusion.pictures import DiffusionPictures, SdPictures, SdxlPictures
from illume_fast.diffusion.sd import SdDecoder
from illume_fast.diffusion.sdxl import SdxlDecoder
from illume_fast.diffusion.settings import DiffusionSettings

__all__ = ["DiffusionPictures", "DiffusionSettings", "SdDecoder", "SdPictures", "SdxlDecoder", "SdxlPictures"]
