"""The classes of Hugging Face's conventions over this package's own model, loader and engine.

Importing this registers them with `AutoConfig`, `AutoModel`, `AutoModelForImageTextToText` and `AutoProcessor`.
"""

try:
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"illume_fast.huggingface needs transformers ({error}): pip install 'illume-fast[huggingface]'"
    ) from None

from illume_fast.huggingface.configuration import IllumeConfig, IllumeQwen2Config
from illume_fast.huggingface.modeling import IllumeForConditionalGeneration, IllumeQwen2ForCausalLM
from illume_fast.huggingface.processing import IllumeProcessor
from illume_fast.huggingface.registration import register

__all__ = [
    "IllumeConfig",
    "IllumeForConditionalGeneration",
    "IllumeProcessor",
    "IllumeQwen2Config",
    "IllumeQwen2ForCausalLM",
]

register()
