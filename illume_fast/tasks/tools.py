"""What every kind of task needs of a checkpoint: its words, its eyes, its sizes and its plans."""

from functools import lru_cache, partial

import torch
from PIL import Image

from illume_fast.data.chat import Chat
from illume_fast.data.chat_template import chat_template
from illume_fast.data.image import pad_to, to_tensor
from illume_fast.data.picture import upright
from illume_fast.data.sequence import ImageCodes
from illume_fast.data.sizes import ImageGrid, Size, image_grid, nearest_size
from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.model.checkpoint import Checkpoint
from illume_fast.model.semantic_tokenizer import SemanticTokenizer
from illume_fast.model.vision_folder import require_vision_tokenizer
from illume_fast.tasks.eyes import Eyes
from illume_fast.tasks.plans import picture_plan


class Tools:
    """A checkpoint with its tokenizer, chat template and eyes."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.generation = checkpoint.config.generation
        self.vocab = checkpoint.config.model.vocab
        template = chat_template(checkpoint.config.model.template)
        text = TextTokenizer.from_file(checkpoint.tokenizer, self.vocab.text_size, template.specials)
        self.chat = Chat(text, self.vocab, template=template)
        self.eyes = Eyes(checkpoint)
        # requests of one size share one plan
        self.plan = lru_cache(maxsize=64)(partial(picture_plan, self.vocab))

    def grid(self, size: Size | None) -> ImageGrid:
        """The grid of a size the model draws (None: its default). InputError, listing those, for another."""
        allowed = self.generation.allowed_sizes
        return image_grid(size or self.generation.size, self.checkpoint.config.vision_tokenizer, allowed)

    @torch.no_grad()
    def codes_of(self, picture: Image.Image) -> ImageCodes:
        """A picture as the model would have written it: in the nearest of its sizes, on white, as codes."""
        image = upright(picture)
        size = nearest_size((image.height, image.width), self.generation.sizes)
        pixels, tokenizer = to_tensor(pad_to(image, size)), self.checkpoint.vision_tokenizer
        if isinstance(tokenizer, SemanticTokenizer):
            levels: tuple[torch.Tensor, ...] = (tokenizer.encode(pixels.to(next(tokenizer.parameters()))),)
        else:
            tokenizer = require_vision_tokenizer(tokenizer)
            levels = tokenizer.encode(pixels.to(next(tokenizer.parameters())))
        return ImageCodes(*size, tuple(level[0].cpu() for level in levels))
