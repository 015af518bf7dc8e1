// The books of a paged cache: which sequence holds which pages. Mirrors kernels/paging_reference.py, page for page.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace illume_fast {

// Too few free pages; nothing was changed.
class OutOfPages : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Deals out pages to sequences that may share them. Handles are never used again. Wrong arguments throw
// std::invalid_argument, wrong books (found by `check` alone) std::logic_error.
class PagePool {
 public:
  PagePool(int64_t num_pages, int64_t page_size);

  int64_t num_pages() const { return num_pages_; }
  int64_t page_size() const { return page_size_; }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_used() const { return num_pages_ - num_free(); }
  std::vector<int64_t> sequences() const;

  int64_t make();
  int64_t length(int64_t sequence) const { return known(sequence).length; }
  const std::vector<int32_t>& pages(int64_t sequence) const { return known(sequence).pages; }
  int64_t ref_count(int64_t page) const;

  // Makes room for `tokens` more tokens. Returns the (source, destination) pages to copy before writing: at most one
  // pair, for a half full last page that was shared. Throws OutOfPages.
  std::vector<std::pair<int32_t, int32_t>> append(int64_t sequence, int64_t tokens);

  int64_t fork(int64_t sequence);
  int64_t share_prefix(int64_t sequence, int64_t tokens);
  void free(int64_t sequence);

  // Counts every page anew and compares with the books.
  void check() const;
  // Also throws naming the sequences other than `live` that are left.
  void check(const std::vector<int64_t>& live) const;

 private:
  friend struct PagePoolProbe;  // csrc/tests/test_page_pool.cpp breaks the books to see check() notice

  struct Sequence {
    std::vector<int32_t> pages;
    int64_t length;
  };

  const Sequence& known(int64_t sequence) const;
  Sequence& known(int64_t sequence);
  int64_t add(Sequence sequence);
  int64_t pages_for(int64_t tokens) const { return tokens / page_size_ + (tokens % page_size_ != 0); }
  int32_t take();

  int64_t num_pages_;
  int64_t page_size_;
  int64_t next_ = 0;
  std::vector<int32_t> free_;  // taken from the end: low pages and those freed last come first
  std::vector<int64_t> references_;
  std::map<int64_t, Sequence> sequences_;
};

}  // namespace illume_fast
