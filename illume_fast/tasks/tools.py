"""What every kind of task needs of a checkpoint: its words, its eyes, its sizes and its plans."""

from functools import lru_cache, partial

from illume_fast.data.chat import Chat
from illume_fast.data.sizes import ImageGrid, Size, image_grid
from illume_fast.data.text_tokenizer import TextTokenizer
from illume_fast.model.checkpoint import Checkpoint
from illume_fast.tasks.eyes import Eyes
from illume_fast.tasks.plans import picture_plan


class Tools:
    """A checkpoint with its tokenizer, chat template and eyes."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.generation = checkpoint.config.generation
        self.vocab = checkpoint.config.model.vocab
        text = TextTokenizer.from_file(checkpoint.tokenizer, self.vocab.text_size)
        self.chat = Chat(text, self.vocab)
        self.eyes = Eyes(checkpoint)
        # requests of one size share one plan
        self.plan = lru_cache(maxsize=64)(partial(picture_plan, self.vocab))

    def grid(self, size: Size | None) -> ImageGrid:
        """The grid of a size the model draws (None: its default). InputError, listing those, for another."""
        allowed = self.generation.sizes
        return image_grid(size or self.generation.size, self.checkpoint.config.vision_tokenizer, allowed)
