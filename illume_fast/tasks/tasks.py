"""Every kind of task to engine requests, and what was drawn back to codes and words."""

from torch import Tensor

from illume_fast.data.sequence import ImageCodes, PartialCodes, decode_image, partial_codes
from illume_fast.data.sizes import ImageGrid
from illume_fast.engine import Request
from illume_fast.tasks.answer import Answer
from illume_fast.tasks.asked import Ask, Converse, Task
from illume_fast.tasks.asking import asked
from illume_fast.tasks.checks import check
from illume_fast.tasks.drawing import drawn, edited
from illume_fast.tasks.tools import Tools


class Tasks(Tools):
    """Turns tasks into engine requests for one checkpoint, and drawn ids into codes and words."""

    def requests(self, task: Task) -> list[Request]:
        """One request a sample; of a conversation's answer the first one (see `tasks.answer`).

        Raises:
            InputError: in one line, for what this model cannot do.
        """
        check(task)
        if isinstance(task, Ask):
            return [asked(self, task)]
        if isinstance(task, Converse):
            request = Answer(self, task).request
            assert request is not None
            return [request]
        return edited(self, task) if task.image is not None else drawn(self, task)

    def codes(self, ids: Tensor, grid: ImageGrid) -> ImageCodes:
        """The drawn ids of a picture -> its codes."""
        return decode_image(ids, grid, self.vocab)

    def codes_so_far(self, ids: Tensor, grid: ImageGrid) -> PartialCodes:
        """The first ids of a picture -> the codes among them. ValueError for an id that is no code."""
        return partial_codes(ids, grid, self.vocab)

    def words(self, ids: Tensor) -> str:
        """The drawn ids of an answer -> its text."""
        return self.chat.text.decode([i for i in ids.tolist() if i not in self.vocab.eos]).strip()

    def words_so_far(self, ids: Tensor) -> str:
        """The first ids of an answer -> its text, without the bytes of a character that is not whole yet.

        It is the beginning of what `words` makes of any more ids.
        """
        return self.words(ids[ids >= 0]).rstrip("\N{REPLACEMENT CHARACTER}").rstrip()
