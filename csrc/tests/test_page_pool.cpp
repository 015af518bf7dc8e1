#include "../paging/page_pool.h"

#include <stdexcept>

#include "check.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace illume_fast {

// Breaks the books.
struct PagePoolProbe {
  static void count(PagePool& pool, int64_t page, int64_t by) { pool.references_[static_cast<size_t>(page)] += by; }
  static void list(PagePool& pool, int32_t page) { pool.free_.push_back(page); }
  static void unlist(PagePool& pool) { pool.free_.pop_back(); }
  static void stretch(PagePool& pool, int64_t sequence, int64_t length) { pool.sequences_.at(sequence).length = length; }
};

}  // namespace illume_fast

namespace {

void test_copy_on_write() {
  PagePool pool(8, 4);
  const int64_t prompt = pool.make();
  CHECK(pool.append(prompt, 6).empty());
  const int64_t sample = pool.fork(prompt);
  const auto copies = pool.append(sample, 3);
  CHECK(copies.size() == 1 && copies[0].first == 1 && copies[0].second == 2);
  CHECK((pool.pages(sample) == std::vector<int32_t>{0, 2, 3}));
  CHECK(pool.ref_count(0) == 2 && pool.ref_count(1) == 1 && pool.num_used() == 4);
  const int64_t prefix = pool.share_prefix(sample, 5);
  CHECK((pool.pages(prefix) == std::vector<int32_t>{0, 2}) && pool.length(prefix) == 5);
  pool.check({prompt, sample, prefix});
  for (int64_t sequence : {prompt, prefix, sample}) pool.free(sequence);
  CHECK(pool.num_free() == 8);
  pool.check({});
}

void test_refusals() {
  PagePool pool(3, 2);
  const int64_t a = pool.make();
  pool.append(a, 3);
  const int64_t b = pool.fork(a);
  CHECK(has(message_of<OutOfPages>([&] { pool.append(b, 2); }), "2 pages needed to append 2 tokens to sequence 1, 1 of"));
  CHECK(pool.length(b) == 3 && pool.num_free() == 1);
  CHECK(has(message_of<OutOfPages>([&] { pool.append(b, INT64_MAX - 3); }), "pages needed"));
  using Refused = std::invalid_argument;
  CHECK(has(message_of<Refused>([&] { pool.append(b, INT64_MAX); }), "pass 2**63"));
  CHECK(has(message_of<Refused>([&] { pool.append(b, -1); }), "-1 tokens to append"));
  CHECK(has(message_of<Refused>([&] { pool.share_prefix(b, 4); }), "a prefix of 4 tokens of sequence 1, which has 3"));
  CHECK(has(message_of<Refused>([&] { pool.free(9); }), "sequence 9 was never made or is freed"));
  CHECK(has(message_of<Refused>([] { PagePool(1, 0); }), "page_size is 0"));
  CHECK(has(message_of<Refused>([] { PagePool(-1, 1); }), "num_pages is -1"));
}

void test_check_notices() {
  PagePool pool(4, 2);
  const int64_t a = pool.make();
  pool.append(a, 3);
  const auto report = [&] { return message_of<std::logic_error>([&] { pool.check(); }); };
  CHECK(report().empty());
  PagePoolProbe::count(pool, 0, 1);
  CHECK(has(report(), "page 0 counts 2 holders, but 1 hold it"));
  PagePoolProbe::count(pool, 0, -1);
  PagePoolProbe::list(pool, 1);
  CHECK(has(report(), "page 1 has 1 holders and is 1 times in the free list"));
  PagePoolProbe::unlist(pool);
  PagePoolProbe::stretch(pool, a, 5);
  CHECK(has(report(), "sequence 0 has 2 pages for 5 tokens"));
  PagePoolProbe::stretch(pool, a, 3);
  CHECK(has(message_of<std::logic_error>([&] { pool.check({}); }), "1 sequences were never freed (0); they hold 2"));
}

}  // namespace

int main() {
  test_copy_on_write();
  test_refusals();
  test_check_notices();
  return report();
}
