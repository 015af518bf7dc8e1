"""ILLUME as a `PreTrainedModel`: the modules of `IllumeModel` under the published names, drawn from by our engine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from illume_fast.data.sequence import expanded_length
from illume_fast.data.sizes import image_grid
from illume_fast.data.text_tokenizer import tokenizer_json
from illume_fast.engine import EngineConfig
from illume_fast.huggingface.adapters import has_adapters, require_plain
from illume_fast.huggingface.configuration import IllumeConfig, IllumeQwen2Config, refuse_hub
from illume_fast.huggingface.generation import Generating
from illume_fast.huggingface.inputs import Pictures, deal_pictures, is_left_padded, one_of, pad_rows, rows_of
from illume_fast.huggingface.loading import DeviceMap, check_neutral, load
from illume_fast.model.checkpoint import Checkpoint, save_checkpoint
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.illume import IllumeModel, Sample
from illume_fast.model.kinds import illume_plus
from illume_fast.model.quantized import is_quantized
from illume_fast.model.vocab import IGNORE_INDEX


class IllumeForConditionalGeneration(Generating, PreTrainedModel):
    """ILLUME+ with the conventions of transformers: `from_pretrained`, `forward`, `generate`, `save_pretrained`.

    `model` and `lm_head` (none where weights are tied) are those of `core`, an `IllumeModel`, and their names those of
    the published checkpoints. `vision_tokenizer` (a `DualViTok` or None) and `tokenizer` (the path of `tokenizer.json`
    or None) belong to a checkpoint but not to the state dict.
    """

    config_class: type[PretrainedConfig] = IllumeConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012
    _no_split_modules = ["DecoderLayer", "DualVisionTower", "MixedProjector"]  # noqa: RUF012
    _supports_sdpa = True
    generation_config: Any = None  # peft asks for one; ours is part of the checkpoint's config

    core: IllumeModel
    vision_tokenizer: DualViTok | None

    def __init__(self, config: IllumeConfig | IllumeQwen2Config, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(config)
        core = IllumeModel(config.checkpoint.model) if checkpoint is None else checkpoint.model
        for name, module in core.named_children():
            self.add_module(name, module)
        if core.lm_head is None:
            self.lm_head = None
        # one table of modules for both: what replaces a module here (an adapter) is what `core` and the engine run.
        # Neither `core` nor the tokenizer is a module of this one, since they would come twice or add names
        core._modules = self._modules
        self.__dict__["core"] = core
        self.__dict__["vision_tokenizer"] = None if checkpoint is None else checkpoint.vision_tokenizer
        self.checkpoint_config = config.checkpoint if checkpoint is None else checkpoint.config
        self.tokenizer: Path | None = None if checkpoint is None else checkpoint.tokenizer
        self.engine_config: EngineConfig | None = None
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: IllumeConfig | IllumeQwen2Config | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: DeviceMap | None = None,
        max_memory: Mapping[Any, Any] | None = None,
        quantization_config: Any = None,
        vision_tokenizer: str | Path | None = None,
        engine: EngineConfig | None = None,
        adapter_kwargs: Mapping[str, Any] | None = None,
        **rest: Any,
    ) -> Self:
        """Load "demo", a folder of ours, or a published ILLUME+ language model's; `vision_tokenizer` is the folder of
        the tokenizer that a published one lacks.

        `dtype` None or "auto" is that of the file. `device_map` is a device, a dict that names one, or "auto": the
        first device with room for all. `quantization_config` is "int8", "int4", a torchao configuration or a
        `TorchAoConfig`. Strict: CheckpointError, listing names, for every tensor that is missing, unknown, misshapen or
        not finite. TypeError for arguments that are not known.
        """
        check_neutral(rest)
        if dtype is not None and torch_dtype is not None and dtype != torch_dtype:
            raise ValueError(f"dtype {dtype} and torch_dtype {torch_dtype} differ; give dtype alone")
        wanted = torch_dtype if dtype is None else dtype
        name = pretrained_model_name_or_path
        checkpoint = load(name, wanted, device_map, max_memory, quantization_config, vision_tokenizer)
        if config is None:
            config = IllumeConfig(illume_plus(checkpoint.config))
        elif config.checkpoint.model != checkpoint.config.model:
            raise ValueError(f"from_pretrained: config is not that of {name}; its weights have other shapes or tokens")
        with torch.device("meta"):
            model = cls(config, checkpoint)
        model.name_or_path = config.name_or_path = str(name)
        model.engine_config = engine
        if adapter := (adapter_kwargs or {}).get("_adapter_model_path"):
            model.load_adapter(str(adapter))
        return model.eval()

    @property
    def checkpoint(self) -> Checkpoint:
        """What `IllumePipeline` and the command line work with, over the same weights.

        ValueError where the vision tokenizer or the text's was not given.
        """
        if self.tokenizer is None:
            raise ValueError("this model came without a tokenizer; set model.tokenizer to the path of a tokenizer.json")
        return Checkpoint(self.checkpoint_config, self.core, self.vision_tokenizer, self.tokenizer)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Pictures | None = None,
        labels: Tensor | None = None,
        images: Pictures | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        inputs_embeds: None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        use_cache: bool | None = None,
    ) -> CausalLMOutput | tuple[Tensor, ...]:
        """Scores of every next token, and the mean cross entropy over `labels` that are not -100.

        `input_ids` and `labels` are [B, T], padded on one side where `attention_mask` is 0, with -200 where a picture
        is read. `pixel_values` (or `images`) are the pictures of the batch in order, in [-1, 1]: [N, 3, H, W], or a
        list of [1, 3, H, W] of any sizes. Each takes the place of its -200, so logits are [B, T', V] with T' the
        longest row with its pictures, padded on the same side. `logits_to_keep` above 0 is how many of the last places
        get scores.

        Raises:
            ValueError: shapes disagree, a row with its pictures is longer than the model takes, or an argument (hidden
                states, attentions, embeddings) is none that this model gives or takes.
        """
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if wrong := [name for name, value in asked.items() if value]:
            raise ValueError(f"forward: {', '.join(wrong)} is not supported; logits and loss alone are returned")
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("forward: input_ids are needed; inputs_embeds are not supported")
        require_plain(self.core)
        rows = rows_of(input_ids, attention_mask)
        left = is_left_padded(rows)
        samples = self._samples(input_ids, rows, one_of(pixel_values, images), labels)
        batch = self.core.assemble(samples)
        hidden = self.core.hidden(batch.inputs_embeds)
        loss = None if labels is None else self.core.loss(hidden, batch.labels)
        unpadded = [row[:length] for row, length in zip(hidden, batch.lengths, strict=True)]
        kept = pad_rows(unpadded, 0.0, left, width=input_ids.shape[1])
        kept = kept[:, -logits_to_keep:] if logits_to_keep else kept
        logits = F.linear(kept, self.core.head_weight)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return CausalLMOutput(loss=loss, logits=logits)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        max_shard_size: int | str = "4GB",
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **rest: Any,
    ) -> None:
        """Write a folder of ours, in files of at most `max_shard_size` ("200MB", or bytes), whole or not at all.

        `from_pretrained` gives the same model back, bit for bit. A published model is written in our form as well.

        Raises:
            ValueError: weights are quantised or carry an adapter, or the tokenizer is not known.
            CheckpointError: the folder cannot be written.
        """
        refuse_hub(push_to_hub, rest)
        if is_quantized(self.core):
            raise ValueError("save_pretrained: the weights are quantised; save the model that they were made from")
        if has_adapters(self):
            raise ValueError("save_pretrained: the model carries an adapter; save that by peft, or merge_and_unload it")
        if not is_main_process:
            return
        if state_dict is not None:
            self._require_own(state_dict)
        here = self.checkpoint
        words = tokenizer_json(here.tokenizer)
        shards = _bytes(max_shard_size)
        save_checkpoint(save_directory, here.config, self.core, here.vision_tokenizer, words, max_shard_bytes=shards)

    def set_vision_tokenizer(self, tokenizer: DualViTok | None) -> None:
        """The vision tokenizer that is saved with the model; it stays outside the state dict."""
        self.__dict__["vision_tokenizer"] = tokenizer

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module | None:
        return self.lm_head

    def set_input_embeddings(self, value: nn.Module) -> None:
        raise NotImplementedError("the vocabulary of ILLUME is part of its config; rows cannot be replaced or resized")

    def resize_token_embeddings(self, *_: Any, **__: Any) -> nn.Embedding:
        """NotImplementedError: which rows are codes is part of the config."""
        raise NotImplementedError("the vocabulary of ILLUME is part of its config; rows cannot be replaced or resized")

    def prepare_inputs_for_generation(self, *_: Any, **__: Any) -> dict[str, Any]:
        """RuntimeError: transformers' own sampling loop does not know this model's grammar of pictures."""
        raise RuntimeError("transformers' sampling loop cannot run this model; call its own generate()")

    @classmethod
    def can_generate(cls) -> bool:
        """Whether transformers' sampling loop can run it: False; `generate` is our own."""
        return False

    def init_weights(self) -> None:
        """Nothing: the modules have drawn their weights, or were given them."""

    def _samples(
        self, input_ids: Tensor, rows: Sequence[slice], pictures: Pictures | None, labels: Tensor | None
    ) -> list[Sample]:
        if labels is not None and labels.shape != input_ids.shape:
            raise ValueError(f"labels {list(labels.shape)} must have the shape of input_ids {list(input_ids.shape)}")
        ids = [row[where] for row, where in zip(input_ids, rows, strict=True)]
        marks = [torch.full_like(row, IGNORE_INDEX) for row in ids]
        if labels is not None:
            marks = [row[where] for row, where in zip(labels, rows, strict=True)]
        dealt = deal_pictures(ids, pictures)
        samples = [Sample(*parts) for parts in zip(ids, marks, dealt, strict=True)]
        for i, sample in enumerate(samples):
            length, most = self._length(sample), self.core.config.max_length
            if length > most:
                raise ValueError(f"row {i} is {length} tokens long with its pictures; the model takes {most}")
        return samples

    def _length(self, sample: Sample) -> int:
        tower = self.core.config.vision_tower
        grids = [image_grid((picture.shape[2], picture.shape[3]), tower) for picture in sample.images]
        return expanded_length(sample.input_ids, grids)

    def _require_own(self, state_dict: Mapping[str, Tensor]) -> None:
        own = self.state_dict()
        if own.keys() != state_dict.keys() or any(t.data_ptr() != own[k].data_ptr() for k, t in state_dict.items()):
            raise ValueError("save_pretrained: state_dict holds other weights than the model; load them first")


class IllumeQwen2ForCausalLM(IllumeForConditionalGeneration):
    """The same for folders whose `config.json` is a published ILLUME+ language model's."""

    config_class = IllumeQwen2Config


def _bytes(size: int | str) -> int:
    from accelerate.utils import convert_file_size_to_int

    return convert_file_size_to_int(size)
