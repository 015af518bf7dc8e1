"""`IllumeProcessor`: words, conversations and pictures to what the model takes, and what it gives back again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from illume_fast.data.chat import Chat
from illume_fast.data.errors import InputError, shorten
from illume_fast.data.image import ImageProcessor, pad_to, to_picture, unpad
from illume_fast.data.picture import upright
from illume_fast.data.prompts import check_characters
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import Size, nearest_size
from illume_fast.data.text_tokenizer import TextTokenizer, tokenizer_json
from illume_fast.decoding import Decoder, PictureDecoder, decode_pictures
from illume_fast.huggingface.chats import CHAT_TEMPLATE, Conversation, Rendered, pictures_of, render, texts_of
from illume_fast.huggingface.configuration import IllumeConfig, refuse_hub
from illume_fast.huggingface.inputs import pad_rows
from illume_fast.huggingface.loading import check_neutral
from illume_fast.huggingface.tokens import Tokens, rows_of_ids
from illume_fast.model.checkpoint import TOKENIZER, load_vision_tokenizer, read_config, resolve, text_tokenizer
from illume_fast.model.dual_vitok import DualViTok
from illume_fast.model.generation_config import CheckpointConfig
from illume_fast.model.kinds import illume_plus
from illume_fast.model.tensor_files import staging
from illume_fast.model.vision_folder import CONFIG
from illume_fast.model.vocab import IMAGE_PLACEHOLDER


class ChatText(str):
    """A rendered conversation: a text to look at, which also holds the ids that it stands for."""

    rendered: Rendered

    def __new__(cls, text: str, rendered: Rendered) -> Self:
        made = super().__new__(cls, text)
        made.rendered = rendered
        return made


class IllumeProcessor(ProcessorMixin):
    """What goes into `IllumeForConditionalGeneration`, and what comes out of it.

    Words are encoded by our own tokenizer, conversations by `data.chat.Chat`: what users write never becomes a control
    or image token. `tokenizer` is the former; `set_vision_tokenizer` gives what turns drawn codes into pictures.
    """

    image_token = "<image>"
    image_token_id = IMAGE_PLACEHOLDER

    def __init__(
        self, config: CheckpointConfig, tokenizer: Path | str, vision_tokenizer: DualViTok | None = None
    ) -> None:
        self.config = config
        self.tokenizer = TextTokenizer.from_file(tokenizer, config.model.vocab.text_size)
        self._words = tokenizer_json(Path(tokenizer))
        self.chat = Chat(self.tokenizer, config.model.vocab)
        self.tokens = Tokens(self.tokenizer, config)
        self.chat_template = CHAT_TEMPLATE
        tower = config.model.vision_tower
        self.image_processor = ImageProcessor(tower.factor, tower.min_pixels, tower.max_pixels)
        self._decoder: Decoder | None = None
        if vision_tokenizer is not None:
            self.set_vision_tokenizer(vision_tokenizer)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, *, vision_tokenizer: str | Path | None = None, **rest: Any
    ) -> Self:
        """For "demo" or the folder of a model. CheckpointError, or InputError for its tokenizer, where it is damaged.

        The vision tokenizer is loaded from the folder `vision_tokenizer` alone (that of a model will do);
        `set_vision_tokenizer(model.vision_tokenizer)` shares the model's.
        """
        check_neutral(rest)
        folder = resolve(pretrained_model_name_or_path)
        made = cls(illume_plus(read_config(folder)), text_tokenizer(folder))
        if vision_tokenizer is not None:
            made.set_vision_tokenizer(load_vision_tokenizer(resolve(vision_tokenizer)))
        return made

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **rest: Any) -> list[str]:
        """Write `tokenizer.json`, `chat_template.jinja` and, where the folder has none, the model's `config.json`.

        ValueError where the folder's model has another vocabulary. Returns the names of the files.
        """
        refuse_hub(push_to_hub, rest)
        folder = Path(save_directory)
        written = {TOKENIZER: self._words, "chat_template.jinja": CHAT_TEMPLATE}
        if not (folder / CONFIG).exists():
            written[CONFIG] = IllumeConfig(self.config).to_json_string()
        elif read_config(folder).model.vocab != self.config.model.vocab:
            raise ValueError(f"{folder}: its model has another vocabulary than this processor")
        with staging(folder) as stage:
            for name, text in written.items():
                stage.write_text(name, text)
        return [str(folder / name) for name in written]

    def set_vision_tokenizer(self, tokenizer: DualViTok, device: torch.device | str | None = None) -> None:
        """Decode pictures by the pixel decoder of `tokenizer`, on its own device or on `device`."""
        if device is not None:
            tokenizer.to(device)
        self.set_decoder(PictureDecoder(tokenizer, next(tokenizer.parameters()).device))

    def set_decoder(self, decoder: Decoder) -> None:
        """Decode pictures by `decoder`: a diffusion decoder, as `decoders.open_decoder` makes one."""
        self._decoder = decoder

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | Conversation | Sequence[Conversation] | None = None,
        *,
        padding: bool | str = True,
        padding_side: str = "left",
        add_generation_prompt: bool = True,
        resolution: Size | None = None,
        control_tokens: bool = False,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prompts and their pictures -> `input_ids` and `attention_mask` int64 [B, T], and `pixel_values`, a list of
        float32 [1, 3, H, W] in [-1, 1], where there are pictures.

        `text` is a text, a conversation (see `apply_chat_template`), or a list of either. `<image>` in a text is a
        picture, any other word is a word; what `apply_chat_template` returned means its conversation. Names of tokens
        in any other text are refused, since what a user writes must not become a control token, unless
        `control_tokens` says that they stand for tokens. `images` are pictures in the order of their places: one, a
        list, or a list of lists, one for each text; places whose picture came in the conversation need none.
        `resolution` is what `{resolution_tag}` in conversations stands for.

        Raises:
            InputError: numbers of places and pictures differ, a picture cannot be read, or a text or a setting is none
                that is allowed.
        """
        if return_tensors != "pt":
            raise InputError(f"return_tensors {return_tensors!r} is not supported; allowed is 'pt'")
        if padding not in (True, False, "longest"):
            raise InputError(f"padding {padding!r} is not supported; allowed are True, 'longest', False")
        if padding_side not in ("left", "right"):
            raise InputError(f"padding_side {padding_side!r} is not known; allowed are 'left', 'right'")
        prompts = [self._prompt(one, resolution, add_generation_prompt, control_tokens) for one in texts_of(text)]
        if not padding and len({len(prompt.ids) for prompt in prompts}) > 1:
            raise InputError("padding=False: the prompts differ in length; let them be padded, or give them one by one")
        pictures = pictures_of(prompts, images)
        rows = [torch.tensor(prompt.ids, dtype=torch.int64) for prompt in prompts]
        left = padding_side == "left"
        data: dict[str, Any] = {
            "input_ids": pad_rows(rows, self.config.model.vocab.pad, left),
            "attention_mask": pad_rows([torch.ones_like(row) for row in rows], 0, left),
        }
        if pictures:
            data["pixel_values"] = [self._pixels(picture) for picture in pictures]
        return BatchFeature(data)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Conversation | Sequence[Conversation],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str = "pt",
        padding: bool | str = True,
        padding_side: str = "left",
        resolution: Size | None = None,
    ) -> Any:
        """A conversation, or several, as text; with `tokenize` as ids [B, T], and with `return_dict` too as the
        processor returns it, pictures included.

        A conversation is a list of {"role", "content"}; see `chats.render` for what contents may be. The text knows
        the ids it stands for, so that it may be given to the processor. InputError for anything else.
        """
        if chat_template not in (None, CHAT_TEMPLATE):
            raise InputError("chat_template: ILLUME has one template; another cannot be used")
        several = not (conversation and isinstance(conversation[0], Mapping))
        conversations: Any = conversation if several else [conversation]
        rendered = [render(self.chat, one, resolution, add_generation_prompt) for one in conversations]
        if not tokenize:
            texts = [ChatText(self.tokens.decode(one.ids, skip_special_tokens=False), one) for one in rendered]
            return texts if several else texts[0]
        given = [ChatText("", one) for one in rendered]
        found = self(text=given, padding=padding, padding_side=padding_side, return_tensors=return_tensors)
        return found if return_dict else found["input_ids"]

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]:
        """Ids [B, T] -> texts, in which image tokens have their published names."""
        return [self.tokens.decode(row, skip_special_tokens) for row in rows_of_ids(sequences)]

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """Ids [T] -> text. ValueError for a batch of several."""
        rows = rows_of_ids(token_ids)
        if len(rows) != 1:
            raise ValueError(f"decode: {len(rows)} rows were given; batch_decode takes several")
        return self.tokens.decode(rows[0], skip_special_tokens)

    def parse_text_image(
        self, text: str | Tensor | Sequence[int], image_placeholder: str = "<image>"
    ) -> tuple[str, list[ImageCodes], list[str | ImageCodes]]:
        """An answer, as ids or as `decode` shows it -> (its text with `image_placeholder` for each picture, the codes
        of the pictures, both in order). ValueError for a damaged picture."""
        if isinstance(text, str):
            parts = self.tokens.split(text)
        else:
            (ids,) = rows_of_ids(text)
            runs = self.tokens.parts(ids)
            parts = [run if isinstance(run, ImageCodes) else self.tokens.decode(run, True) for run in runs]
        shown = "".join(part if isinstance(part, str) else image_placeholder for part in parts)
        return shown, [part for part in parts if isinstance(part, ImageCodes)], parts

    def post_process_images(
        self,
        drawn: Tensor | Sequence[Any] | ImageCodes,
        target_sizes: Sequence[Size] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Image.Image]:
        """What `generate` returned ([B, T] or [T]), or codes -> all its pictures, row by row.

        `target_sizes` (height, width), one for each picture, undo the padding and scaling of an edit's source. `seeds`,
        one for each (None: 0), are those of a diffusion decoder's noise. ValueError without a decoder, for a damaged
        picture, and for another number of sizes or seeds than of pictures.
        """
        codes = self._codes([drawn] if isinstance(drawn, ImageCodes) else drawn)
        if self._decoder is None:
            raise ValueError(
                "there is no decoder; call set_vision_tokenizer(model.vision_tokenizer) or set_decoder first"
            )
        for name, given in (("target_sizes", target_sizes), ("seeds", seeds)):
            if given is not None and len(given) != len(codes):
                raise ValueError(f"{name}: {len(given)} given for {len(codes)} pictures")
        noise = [0] * len(codes) if seeds is None else seeds
        found: dict[int, Image.Image] = {}
        for size in dict.fromkeys((one.height, one.width) for one in codes):
            here = [i for i, one in enumerate(codes) if (one.height, one.width) == size]
            pixels = decode_pictures(self._decoder, [codes[i] for i in here], [noise[i] for i in here])
            found.update(zip(here, map(to_picture, pixels), strict=True))
        pictures = [found[i] for i in range(len(codes))]
        if target_sizes is None:
            return pictures
        return [unpad(picture, (size[0], size[1])) for picture, size in zip(pictures, target_sizes, strict=True)]

    def transform_image_nearest_resolution_ratio(self, image: Image.Image) -> Image.Image:
        """A picture to be edited, scaled into the size that suits it best of those the model draws, on white."""
        picture = upright(image)
        return pad_to(picture, nearest_size((picture.height, picture.width), self.config.generation.sizes))

    def unpad_and_resize_back(self, image: Image.Image, height: int, width: int) -> Image.Image:
        """The edited picture in its source's size."""
        return unpad(image, (height, width))

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]

    def __repr__(self) -> str:
        vocab = self.config.model.vocab
        return f"{type(self).__name__}({vocab.text_size} text tokens of {vocab.size})"

    def _codes(self, drawn: Tensor | Sequence[Any]) -> list[ImageCodes]:
        if not isinstance(drawn, Tensor) and all(isinstance(one, ImageCodes) for one in drawn):
            return list(drawn)
        rows = [self.tokens.parts(row) for row in rows_of_ids(drawn)]
        return [part for row in rows for part in row if isinstance(part, ImageCodes)]

    def _prompt(self, text: Any, size: Size | None, add_generation_prompt: bool, control_tokens: bool) -> Rendered:
        if isinstance(text, ChatText):
            return text.rendered
        if not isinstance(text, str):
            return render(self.chat, text, size, add_generation_prompt)
        check_characters(text, "the text")
        if control_tokens:
            ids = self.tokens.encode_named(text)
            return Rendered(ids, (None,) * ids.count(IMAGE_PLACEHOLDER))
        if named := self.tokens.first_name(text):
            raise InputError(
                f"the text {shorten(text)} holds {named}, and words never become control tokens; give a conversation,"
                " what apply_chat_template returned, or control_tokens=True where you vouch for the text"
            )
        pieces = [self.tokenizer.encode(piece) for piece in text.split(self.image_token)]
        ids = pieces[0]
        for piece in pieces[1:]:
            ids = [*ids, IMAGE_PLACEHOLDER, *piece]
        return Rendered(ids, (None,) * (len(pieces) - 1))

    def _pixels(self, image: Image.Image) -> Tensor:
        """At its own size within the tower's bounds, or at the one size that the model knows."""
        picture, sizes = upright(image), self.config.generation.sizes
        return self.image_processor(pad_to(picture, sizes[0]) if len(sizes) == 1 else picture)
