#include "page_pool.h"

#include <limits>
#include <set>

namespace illume_fast {
namespace {

constexpr int64_t kMaxPages = std::numeric_limits<int32_t>::max();  // page tables are int32

std::string text(int64_t n) { return std::to_string(n); }

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("page pool: " + what); }
[[noreturn]] void report(const std::string& what) { throw std::logic_error("page pool: " + what); }

}  // namespace

PagePool::PagePool(int64_t num_pages, int64_t page_size) : num_pages_(num_pages), page_size_(page_size) {
  if (num_pages < 0 || num_pages > kMaxPages) {
    refuse("num_pages is " + text(num_pages) + ", not from 0 to " + text(kMaxPages));
  }
  if (page_size < 1) refuse("page_size is " + text(page_size) + ", not at least 1");
  free_.resize(static_cast<size_t>(num_pages));
  for (size_t i = 0; i < free_.size(); ++i) free_[i] = static_cast<int32_t>(free_.size() - 1 - i);
  references_.assign(static_cast<size_t>(num_pages), 0);
}

std::vector<int64_t> PagePool::sequences() const {
  std::vector<int64_t> handles;
  for (const auto& [handle, sequence] : sequences_) handles.push_back(handle);
  return handles;
}

int64_t PagePool::make() { return add({{}, 0}); }

int64_t PagePool::ref_count(int64_t page) const {
  if (page < 0 || page >= num_pages_) refuse("page " + text(page) + " is not from 0 to " + text(num_pages_ - 1));
  return references_[static_cast<size_t>(page)];
}

std::vector<std::pair<int32_t, int32_t>> PagePool::append(int64_t handle, int64_t tokens) {
  Sequence& sequence = known(handle);
  if (tokens < 0) refuse(text(tokens) + " tokens to append, not at least 0");
  if (tokens == 0) return {};
  if (tokens > std::numeric_limits<int64_t>::max() - sequence.length) {
    refuse(text(tokens) + " tokens to append to " + text(sequence.length) + " pass 2**63");
  }
  std::vector<int32_t>& pages = sequence.pages;
  const bool split =
      sequence.length % page_size_ != 0 && references_[static_cast<size_t>(pages.back())] > 1;
  const int64_t fresh = pages_for(sequence.length + tokens) - static_cast<int64_t>(pages.size());
  if (fresh + split > num_free()) {
    throw OutOfPages("page pool: " + text(fresh + split) + " pages needed to append " + text(tokens) +
                     " tokens to sequence " + text(handle) + ", " + text(num_free()) + " of " + text(num_pages_) +
                     " free");
  }
  // all that can throw comes before the first change
  std::vector<std::pair<int32_t, int32_t>> copies;
  copies.reserve(1);
  pages.reserve(pages.size() + static_cast<size_t>(fresh));
  if (split) {
    copies.emplace_back(pages.back(), take());
    --references_[static_cast<size_t>(pages.back())];
    pages.back() = copies[0].second;
  }
  for (int64_t i = 0; i < fresh; ++i) pages.push_back(take());
  sequence.length += tokens;
  return copies;
}

int64_t PagePool::fork(int64_t handle) { return add(known(handle)); }

int64_t PagePool::share_prefix(int64_t handle, int64_t tokens) {
  const Sequence& from = known(handle);
  if (tokens < 0 || tokens > from.length) {
    refuse("a prefix of " + text(tokens) + " tokens of sequence " + text(handle) + ", which has " + text(from.length));
  }
  return add({{from.pages.begin(), from.pages.begin() + pages_for(tokens)}, tokens});
}

void PagePool::free(int64_t handle) {
  const std::vector<int32_t>& pages = known(handle).pages;
  for (size_t i = pages.size(); i-- > 0;) {
    if (--references_[static_cast<size_t>(pages[i])] == 0) free_.push_back(pages[i]);
  }
  sequences_.erase(handle);
}

void PagePool::check() const {
  std::vector<int64_t> held(references_.size(), 0), listed(references_.size(), 0);
  for (const auto& [handle, sequence] : sequences_) {
    const int64_t count = static_cast<int64_t>(sequence.pages.size());
    if (count != pages_for(sequence.length)) {
      report("sequence " + text(handle) + " has " + text(count) + " pages for " + text(sequence.length) + " tokens");
    }
    for (int32_t page : sequence.pages) ++held[static_cast<size_t>(page)];
  }
  for (int32_t page : free_) ++listed[static_cast<size_t>(page)];
  for (size_t page = 0; page < held.size(); ++page) {
    const std::string name = "page " + std::to_string(page);
    if (held[page] != references_[page]) {
      report(name + " counts " + text(references_[page]) + " holders, but " + text(held[page]) + " hold it");
    }
    if (listed[page] != (held[page] == 0)) {
      report(name + " has " + text(held[page]) + " holders and is " + text(listed[page]) + " times in the free list");
    }
  }
}

void PagePool::check(const std::vector<int64_t>& live) const {
  check();
  const std::set<int64_t> expected(live.begin(), live.end());
  for (int64_t handle : expected) known(handle);
  std::set<int32_t> pages;
  std::string names;
  int64_t leaked = 0;
  for (const auto& [handle, sequence] : sequences_) {
    if (expected.count(handle) != 0) continue;
    if (leaked < 8) names += (leaked == 0 ? "" : ", ") + text(handle);
    ++leaked;
    pages.insert(sequence.pages.begin(), sequence.pages.end());
  }
  if (leaked == 0) return;
  report(text(leaked) + " sequences were never freed (" + names + (leaked > 8 ? ", ..." : "") + "); they hold " +
         std::to_string(pages.size()) + " pages");
}

const PagePool::Sequence& PagePool::known(int64_t handle) const {
  const auto found = sequences_.find(handle);
  if (found == sequences_.end()) refuse("sequence " + text(handle) + " was never made or is freed");
  return found->second;
}

PagePool::Sequence& PagePool::known(int64_t handle) {
  return const_cast<Sequence&>(static_cast<const PagePool*>(this)->known(handle));
}

int64_t PagePool::add(Sequence sequence) {
  const Sequence& added = sequences_.emplace(next_, std::move(sequence)).first->second;
  for (int32_t page : added.pages) ++references_[static_cast<size_t>(page)];
  return next_++;
}

int32_t PagePool::take() {
  const int32_t page = free_.back();
  free_.pop_back();
  references_[static_cast<size_t>(page)] = 1;
  return page;
}

}  // namespace illume_fast
