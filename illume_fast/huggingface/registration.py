"""What `Auto*` classes make of a folder of ours, and of a published one."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from illume_fast.huggingface.configuration import IllumeConfig, IllumeQwen2Config
from illume_fast.huggingface.modeling import IllumeForConditionalGeneration, IllumeQwen2ForCausalLM
from illume_fast.huggingface.processing import IllumeProcessor

_KINDS = ((IllumeConfig, IllumeForConditionalGeneration), (IllumeQwen2Config, IllumeQwen2ForCausalLM))


def register() -> None:
    """Make the classes known to transformers; doing so again changes nothing."""
    for config, model in _KINDS:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        for auto in (AutoModel, AutoModelForImageTextToText):
            auto.register(config, model, exist_ok=True)
        AutoProcessor.register(config, IllumeProcessor, exist_ok=True)
