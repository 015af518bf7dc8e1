#include "illume_fast/recording.h"

#include <omp.h>

#include <new>
#include <stdexcept>
#include <string>
#include <thread>

#include "check.h"
#include "illume_fast/crew.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

// A kernel, as the bindings wrap one: recorded if the thread records, then called.
template <typename F>
void kernel(const char* name, F f) {
  if (Recording* recording = Recording::current()) recording->add(name, f);
  f();
}

void test_nothing_to_replay() {
  const auto recording = std::make_shared<Recording>();
  Recording::start(recording);
  recording->stop();
  recording->replay();
  CHECK(recording->size() == 0 && recording->profile().empty());
}

void test_calls_are_made_in_order(int threads) {
  omp_set_num_threads(threads);
  const auto recording = std::make_shared<Recording>();
  std::vector<int64_t> parts(static_cast<size_t>(threads), 0);
  int64_t sum = 0;
  Recording::start(recording);
  kernel("parts", [&] {
    const auto each = [](void* to, int64_t rank) { ++(*static_cast<std::vector<int64_t>*>(to))[static_cast<size_t>(rank)]; };
    if (crew_size() > 1) {
      crew_run(crew_size(), each, &parts);
    } else {
      for (int64_t rank = 0; rank < threads; ++rank) each(&parts, rank);
    }
    return true;
  });
  kernel("sum", [&] {
    for (int64_t part : parts) sum += part;
    return true;
  });
  recording->stop();
  CHECK(recording->size() == 2 && sum == threads);
  for (int64_t replays = 2; replays < 50; ++replays) {
    const int64_t before = sum;
    recording->replay();
    CHECK(sum - before == replays * threads);
  }
  const auto profile = recording->profile();
  CHECK(profile.size() == 2 && has(profile[0].first, "parts") && has(profile[1].first, "sum"));
  CHECK(profile[0].second >= 0 && profile[1].second >= 0);
  CHECK(recording->size() == 2);
}

void test_what_fails_is_named_and_ends_the_replay(int threads) {
  omp_set_num_threads(threads);
  Recording recording;
  int before = 0, after = 0;
  bool good = false;
  recording.add("first", [&] { return ++before > 0; });
  recording.add("second", [&] { return good; });
  recording.add("third", [&] { return ++after > 0; });
  for (int i = 1; i <= 3; ++i) {
    CHECK(has(message_of<std::runtime_error>([&] { recording.replay(); }), "second: an argument was out of range"));
    CHECK(has(message_of<std::runtime_error>([&] { recording.profile(); }), "second: an argument was out of range"));
    CHECK(before == 2 * i && after == 0);
  }
  good = true;
  recording.replay();
  CHECK(before == 7 && after == 1);
}

void test_what_a_call_throws_goes_on(int threads) {
  omp_set_num_threads(threads);
  Recording recording;
  bool full = true;
  int after = 0;
  recording.add("grows", [&] {
    if (full) throw std::bad_alloc();
    return true;
  });
  recording.add("after", [&] { return ++after > 0; });
  for (int i = 0; i < 3; ++i) CHECK(!message_of<std::bad_alloc>([&] { recording.replay(); }).empty());
  CHECK(after == 0);
  full = false;
  recording.replay();
  CHECK(after == 1 && crew_size() == 0);
}

void test_one_at_a_time() {
  const auto first = std::make_shared<Recording>(), second = std::make_shared<Recording>();
  const auto refused = [](auto&& f) { return message_of<std::logic_error>(f); };
  CHECK(has(refused([&] { first->stop(); }), "does not record to it"));
  Recording::start(first);
  CHECK(has(refused([&] { Recording::start(second); }), "records already"));
  CHECK(has(refused([&] { Recording::start(first); }), "records already"));
  CHECK(has(refused([&] { second->stop(); }), "does not record to it"));
  kernel("call", [] { return true; });
  CHECK(Recording::current() == first.get() && first->size() == 1 && second->size() == 0);
  CHECK(has(refused([&] { first->replay(); }), "while it is recorded"));
  CHECK(has(refused([&] { second->replay(); }), "while this thread records another"));
  CHECK(has(refused([&] { second->profile(); }), "while this thread records another"));
  first->stop();
  CHECK(Recording::current() == nullptr);
  first->replay();
  Recording::start(second);
  second->stop();
}

void test_other_threads_are_not_recorded() {
  const auto recording = std::make_shared<Recording>();
  Recording::start(recording);
  std::thread other([&] {
    const auto refused = [](auto&& f) { return message_of<std::logic_error>(f); };
    CHECK(Recording::current() == nullptr);
    kernel("elsewhere", [] { return true; });
    CHECK(has(refused([&] { recording->stop(); }), "does not record to it"));
    CHECK(has(refused([&] { Recording::start(recording); }), "another thread records to it"));
    CHECK(has(refused([&] { recording->replay(); }), "while it is recorded"));
    const auto own = std::make_shared<Recording>();
    Recording::start(own);
    kernel("own", [] { return true; });
    own->stop();
    CHECK(own->size() == 1);
  });
  other.join();
  kernel("here", [] { return true; });
  recording->stop();
  CHECK(recording->size() == 1);
}

void test_a_recording_lives_while_it_is_recorded() {
  auto recording = std::make_shared<Recording>();
  const std::weak_ptr<Recording> watched = recording;
  Recording::start(std::move(recording));
  recording.reset();
  kernel("call", [] { return true; });
  CHECK(!watched.expired() && watched.lock()->size() == 1);
  watched.lock()->stop();
  CHECK(watched.expired() && Recording::current() == nullptr);

  // a thread that ends without having stopped
  auto left = std::make_shared<Recording>();
  std::thread([&] { Recording::start(left); }).join();
  CHECK(left.use_count() == 1);
  CHECK(has(message_of<std::logic_error>([&] { left->replay(); }), "while it is recorded"));
}

void test_several_threads_replay() {
  std::vector<int64_t> sums(3, 0);
  std::vector<std::thread> threads;
  for (size_t own = 0; own < sums.size(); ++own) {
    threads.emplace_back([&sums, own] {
      omp_set_num_threads(2);
      Recording recording;
      for (int call = 0; call < 10; ++call) recording.add("adds", [&sums, own] { return ++sums[own] > 0; });
      for (int i = 0; i < 20; ++i) recording.replay();
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK((sums == std::vector<int64_t>{200, 200, 200}));
}

}  // namespace

int main() {
  omp_set_dynamic(0);
  test_nothing_to_replay();
  for (int threads : {1, 2, 3}) {
    test_calls_are_made_in_order(threads);
    test_what_fails_is_named_and_ends_the_replay(threads);
    test_what_a_call_throws_goes_on(threads);
  }
  test_one_at_a_time();
  test_other_threads_are_not_recorded();
  test_a_recording_lives_while_it_is_recorded();
  test_several_threads_replay();
  return report();
}
