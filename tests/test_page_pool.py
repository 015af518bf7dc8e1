import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from illume_fast.kernels import native, paging, paging_reference
from illume_fast.kernels.paging_reference import OutOfPages

POOLS = [
    pytest.param(paging_reference.PagePool, id="python"),
    pytest.param(
        getattr(native._C, "PagePool", None),
        id="cpp",
        marks=pytest.mark.skipif(native.missing is not None, reason=str(native.missing)),
    ),
]


@pytest.fixture(params=POOLS)
def make(request):
    return request.param


class PoolMachine(RuleBasedStateMachine):
    """Every implementation side by side, and a model: what each sequence should read, and what the pages hold.

    Tokens are written where the pool says, after the copies it asks for; a sequence that then reads anything but its
    own tokens was overwritten by another.
    """

    sequences = Bundle("sequences")

    @initialize(num_pages=st.integers(0, 12), page_size=st.integers(1, 5))
    def start(self, num_pages, page_size):
        self.pools = [pool.values[0](num_pages, page_size) for pool in POOLS if pool.values[0] is not None]
        self.num_pages, self.size = num_pages, page_size
        self.tokens = {}
        self.memory = {}
        self.written = 0

    def all(self, call):
        """The one answer that every pool gives, or the error that every pool raises."""
        outcomes = []
        for pool in self.pools:
            try:
                outcomes.append((None, call(pool)))
            except (ValueError, OutOfPages) as error:
                outcomes.append((type(error), str(error)))
        assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
        return outcomes[0]

    @rule(target=sequences)
    def new(self):
        _, sequence = self.all(lambda pool: pool.new())
        assert sequence not in self.tokens
        self.tokens[sequence] = []
        return sequence

    @rule(sequence=sequences, count=st.integers(-1, 12))
    def append(self, sequence, count):
        before = [(pool.num_free, pool.pages(sequence), pool.length(sequence)) for pool in self.pools]
        error, copies = self.all(lambda pool: pool.append(sequence, count))
        if error is not None:
            assert (error is ValueError) == (count < 0)
            assert before == [(pool.num_free, pool.pages(sequence), pool.length(sequence)) for pool in self.pools]
            return
        assert len(copies) <= 1
        for source, target in copies:
            self.memory[target] = list(self.memory[source])
        pages = self.pools[0].pages(sequence)
        for _ in range(count):
            position = len(self.tokens[sequence])
            cells = self.memory.setdefault(pages[position // self.size], [None] * self.size)
            cells[position % self.size] = self.written
            self.tokens[sequence].append(self.written)
            self.written += 1

    @rule(target=sequences, sequence=sequences)
    def fork(self, sequence):
        _, child = self.all(lambda pool: pool.fork(sequence))
        self.tokens[child] = list(self.tokens[sequence])
        return child

    @rule(sequence=sequences, share=st.floats(0, 1), target=sequences)
    def share_prefix(self, sequence, share):
        count = round(share * len(self.tokens[sequence]))
        _, child = self.all(lambda pool: pool.share_prefix(sequence, count))
        self.tokens[child] = self.tokens[sequence][:count]
        return child

    @rule(sequence=sequences, beyond=st.integers(1, 3))
    def share_too_much(self, sequence, beyond):
        for count in (len(self.tokens[sequence]) + beyond, -beyond):
            error, _ = self.all(lambda pool, count=count: pool.share_prefix(sequence, count))
            assert error is ValueError

    @rule(sequence=consumes(sequences))
    def free(self, sequence):
        self.all(lambda pool: pool.free(sequence))
        del self.tokens[sequence]
        for call in (
            lambda pool: pool.free(sequence),
            lambda pool: pool.pages(sequence),
            lambda pool: pool.length(sequence),
            lambda pool: pool.append(sequence, 1),
            lambda pool: pool.fork(sequence),
            lambda pool: pool.share_prefix(sequence, 0),
        ):
            error, message = self.all(call)
            assert error is ValueError
            assert f"sequence {sequence} was never made or is freed" in message

    @invariant()
    def nobody_was_overwritten(self):
        for sequence, tokens in getattr(self, "tokens", {}).items():
            _, pages = self.all(lambda pool, sequence=sequence: pool.pages(sequence))
            assert len(pages) == len(set(pages)) == -(-len(tokens) // self.size)
            assert self.all(lambda pool, sequence=sequence: pool.length(sequence)) == (None, len(tokens))
            held = [self.memory[pages[i // self.size]][i % self.size] for i in range(len(tokens))]
            assert held == tokens

    @invariant()
    def every_page_is_accounted_for(self):
        held = {}
        for sequence in getattr(self, "tokens", {}):
            for page in self.pools[0].pages(sequence):
                held[page] = held.get(page, 0) + 1
        for pool in getattr(self, "pools", []):
            pool.check(live=list(self.tokens))
            assert pool.sequences() == sorted(self.tokens)
            assert [pool.ref_count(page) for page in range(self.num_pages)] == [
                held.get(page, 0) for page in range(self.num_pages)
            ]
            assert (pool.num_used, pool.num_free) == (len(held), self.num_pages - len(held))


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=50, stateful_step_count=30, deadline=None, derandomize=True)


def test_the_fastest_is_chosen():
    expected = paging_reference.PagePool if native.missing is not None else native._C.PagePool
    assert paging.PagePool is expected


def test_appending_to_a_shared_half_page_copies_it(make):
    pool = make(8, 4)
    prompt = pool.new()
    assert pool.append(prompt, 6) == []
    assert pool.pages(prompt) == [0, 1]
    sample = pool.fork(prompt)
    assert pool.append(sample, 3) == [(1, 2)]
    assert (pool.pages(prompt), pool.pages(sample)) == ([0, 1], [0, 2, 3])
    assert [pool.ref_count(page) for page in range(4)] == [2, 1, 1, 1]
    # the prompt is now alone on its last page
    assert pool.append(prompt, 1) == []


def test_a_failed_append_changes_nothing(make):
    pool = make(3, 2)
    a = pool.new()
    pool.append(a, 3)
    b = pool.fork(a)
    with pytest.raises(OutOfPages, match=r"2 pages needed to append 2 tokens to sequence 1, 1 of 3 free"):
        pool.append(b, 2)
    assert (pool.pages(b), pool.length(b), pool.num_free) == ([0, 1], 3, 1)
    pool.check(live=[a, b])
    assert pool.append(b, 1) == [(1, 2)]


def test_leaks_are_named(make):
    pool = make(4, 2)
    kept, lost = pool.new(), pool.new()
    pool.append(kept, 1)
    pool.append(lost, 3)
    pool.check()
    with pytest.raises(RuntimeError, match=r"1 sequences were never freed \(1\); they hold 2 pages"):
        pool.check(live=[kept])
    with pytest.raises(RuntimeError, match=r"2 sequences were never freed \(0, 1\); they hold 3 pages"):
        pool.check(live=[])
    with pytest.raises(ValueError, match="sequence 7 was never made or is freed"):
        pool.check(live=[7])


def test_wrong_books_are_noticed():
    pool = paging_reference.PagePool(4, 2)
    sequence = pool.new()
    pool.append(sequence, 3)
    pool._references[0] += 1
    with pytest.raises(RuntimeError, match="page 0 counts 2 holders, but 1 hold it"):
        pool.check()
    pool._references[0] -= 1
    pool._free.append(1)
    with pytest.raises(RuntimeError, match="page 1 has 1 holders and is 1 times in the free list"):
        pool.check()
    pool._free.pop()
    pool._lengths[sequence] = 5
    with pytest.raises(RuntimeError, match="sequence 0 has 2 pages for 5 tokens"):
        pool.check()


def test_bad_arguments_are_named(make):
    with pytest.raises(ValueError, match="page_size is 0, not at least 1"):
        make(4, 0)
    with pytest.raises(ValueError, match="num_pages is -1"):
        make(-1, 4)
    with pytest.raises(ValueError, match="num_pages is 2147483648, not from 0 to 2147483647"):
        make(2**31, 4)
    with pytest.raises(ValueError, match="page 4 is not from 0 to 3"):
        make(4, 4).ref_count(4)
