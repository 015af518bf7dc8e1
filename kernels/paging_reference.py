"""The page pool in plain Python: same behaviour, page for page, as csrc/paging, for when there is no extension."""

from collections.abc import Iterable

MAX_PAGES = 2**31 - 1  # page tables are int32


class OutOfPages(RuntimeError):  # noqa: N818 - a state of the pool, not a mistake
    """The pool has too few free pages for an `append`; nothing was changed."""


class PagePool:
    """Deals out the `num_pages` pages of a paged cache, `page_size` tokens each, to sequences that may share them.

    A sequence is a handle (int, never used again after `free`) that owns `length` tokens on a list of pages. Pages are
    counted by reference: `fork` and `share_prefix` share them, and `append` replaces a shared page that it would write
    to by a copy of its own. The pool only keeps the books; the caller copies what `append` tells it to.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        if not 0 <= num_pages <= MAX_PAGES:
            raise ValueError(f"page pool: num_pages is {num_pages}, not from 0 to {MAX_PAGES}")
        if page_size < 1:
            raise ValueError(f"page pool: page_size is {page_size}, not at least 1")
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))  # taken from the end: low pages and those freed last come first
        self._references = [0] * num_pages
        self._pages: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        self._next = 0

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Pages that some sequence holds."""
        return self.num_pages - len(self._free)

    def sequences(self) -> list[int]:
        """The sequences not yet freed, in the order they were made."""
        return list(self._pages)

    def new(self) -> int:
        """An empty sequence."""
        return self._add([], 0)

    def length(self, sequence: int) -> int:
        """Tokens of a sequence."""
        self._known(sequence)
        return self._lengths[sequence]

    def pages(self, sequence: int) -> list[int]:
        """Pages of a sequence, in order: token t lies at slot t % page_size of page number t // page_size."""
        return list(self._known(sequence))

    def ref_count(self, page: int) -> int:
        """How many sequences hold a page."""
        if not 0 <= page < self.num_pages:
            raise ValueError(f"page pool: page {page} is not from 0 to {self.num_pages - 1}")
        return self._references[page]

    def append(self, sequence: int, tokens: int) -> list[tuple[int, int]]:
        """Make room for `tokens` more tokens.

        Returns the pages (source, destination) whose contents the caller must copy before it writes: at most one, the
        last page when it was half full and shared.

        Raises:
            OutOfPages: naming how many pages are needed and how many are free; nothing is changed.
        """
        pages = self._known(sequence)
        if tokens < 0:
            raise ValueError(f"page pool: {tokens} tokens to append, not at least 0")
        if tokens == 0:
            return []
        length = self._lengths[sequence]
        split = length % self.page_size != 0 and self._references[pages[-1]] > 1
        fresh = -(-(length + tokens) // self.page_size) - len(pages)
        if fresh + split > len(self._free):
            raise OutOfPages(
                f"page pool: {fresh + split} pages needed to append {tokens} tokens to sequence {sequence}, "
                f"{len(self._free)} of {self.num_pages} free"
            )
        copies = []
        if split:
            copies.append((pages[-1], self._take()))
            self._references[pages[-1]] -= 1
            pages[-1] = copies[0][1]
        pages.extend(self._take() for _ in range(fresh))
        self._lengths[sequence] = length + tokens
        return copies

    def fork(self, sequence: int) -> int:
        """A sequence with the same tokens, sharing all pages."""
        return self._share(self._known(sequence), self._lengths[sequence])

    def share_prefix(self, sequence: int, tokens: int) -> int:
        """A sequence with the first `tokens` tokens, sharing their pages."""
        pages = self._known(sequence)
        if not 0 <= tokens <= self._lengths[sequence]:
            raise ValueError(
                f"page pool: a prefix of {tokens} tokens of sequence {sequence}, which has {self._lengths[sequence]}"
            )
        return self._share(pages[: -(-tokens // self.page_size)], tokens)

    def free(self, sequence: int) -> None:
        """Give a sequence's pages back; its handle is invalid from now on."""
        for page in reversed(self._known(sequence)):
            self._references[page] -= 1
            if self._references[page] == 0:
                self._free.append(page)
        del self._pages[sequence], self._lengths[sequence]

    def check(self, live: Iterable[int] | None = None) -> None:
        """Count every page anew and compare with the books; with `live`, also that no other sequence is left.

        Raises:
            RuntimeError: naming a page whose count is wrong, or the sequences that leaked and the pages they hold.
        """
        held = [0] * self.num_pages
        for sequence, pages in self._pages.items():
            if len(pages) != -(-self._lengths[sequence] // self.page_size):
                raise RuntimeError(
                    f"page pool: sequence {sequence} has {len(pages)} pages for {self._lengths[sequence]} tokens"
                )
            for page in pages:
                held[page] += 1
        listed = [0] * self.num_pages
        for page in self._free:
            listed[page] += 1
        for page in range(self.num_pages):
            if held[page] != self._references[page]:
                raise RuntimeError(
                    f"page pool: page {page} counts {self._references[page]} holders, but {held[page]} hold it"
                )
            if listed[page] != (held[page] == 0):
                raise RuntimeError(
                    f"page pool: page {page} has {held[page]} holders and is {listed[page]} times in the free list"
                )
        if live is None:
            return
        known = set(live)
        for sequence in sorted(known):
            self._known(sequence)
        leaked = [sequence for sequence in self._pages if sequence not in known]
        if leaked:
            pages_held = len({page for sequence in leaked for page in self._pages[sequence]})
            names = ", ".join(map(str, leaked[:8])) + (", ..." if len(leaked) > 8 else "")
            raise RuntimeError(
                f"page pool: {len(leaked)} sequences were never freed ({names}); they hold {pages_held} pages"
            )

    def _known(self, sequence: int) -> list[int]:
        pages = self._pages.get(sequence)
        if pages is None:
            raise ValueError(f"page pool: sequence {sequence} was never made or is freed")
        return pages

    def _add(self, pages: list[int], length: int) -> int:
        sequence = self._next
        self._next += 1
        self._pages[sequence] = pages
        self._lengths[sequence] = length
        return sequence

    def _share(self, pages: list[int], length: int) -> int:
        for page in pages:
            self._references[page] += 1
        return self._add(list(pages), length)

    def _take(self) -> int:
        page = self._free.pop()
        self._references[page] = 1
        return page
