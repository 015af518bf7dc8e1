#include "illume_fast/crew.h"

#include <omp.h>

#include <chrono>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>

#include "check.h"
#include "illume_fast/fork.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/wait.h>
#include <unistd.h>
#endif

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

void chain(const std::function<void()>& calls) {
  with_crew([](void* f) { (*static_cast<const std::function<void()>*>(f))(); }, const_cast<std::function<void()>*>(&calls));
}

void work(int64_t threads, const std::function<void(int64_t)>& of) {
  crew_run(
      threads, [](void* f, int64_t rank) { (*static_cast<const std::function<void(int64_t)>*>(f))(rank); },
      const_cast<std::function<void(int64_t)>*>(&of));
}

// Whether each of `threads` does its part of `rounds`, once, before the leader reads it: plain memory, for the thread
// sanitizer to look at.
bool all_work(int64_t threads, int64_t rounds) {
  std::vector<int64_t> parts(static_cast<size_t>(threads), 0);
  bool whole = true;
  for (int64_t round = 1; round <= rounds; ++round) {
    const auto previous = parts;
    work(threads, [&](int64_t rank) { parts[static_cast<size_t>(rank)] = previous[static_cast<size_t>(rank)] + 1; });
    for (int64_t part : parts) whole = whole && part == round;
  }
  return whole;
}

void pause(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }

void test_one_thread_has_no_crew() {
  omp_set_num_threads(1);
  int calls = 0;
  chain([&] {
    CHECK(crew_size() == 0);
    ++calls;
  });
  CHECK(calls == 1 && crew_size() == 0);
}

void test_every_rank_works_once(int threads) {
  omp_set_num_threads(threads);
  int chains = 0;
  chain([&] {
    ++chains;
    CHECK(crew_size() == threads);
    for (int64_t some = 1; some <= threads; ++some) CHECK(all_work(some, 300));
  });
  CHECK(chains == 1 && crew_size() == 0);
}

void test_ranks_are_threads() {
  omp_set_num_threads(3);
  std::vector<std::thread::id> at(3), later(3);
  chain([&] {
    work(3, [&](int64_t rank) { at[static_cast<size_t>(rank)] = std::this_thread::get_id(); });
    work(3, [&](int64_t rank) { later[static_cast<size_t>(rank)] = std::this_thread::get_id(); });
  });
  CHECK(at[0] == std::this_thread::get_id() && at == later);
  CHECK(at[0] != at[1] && at[1] != at[2] && at[0] != at[2]);
}

void test_at_work_there_is_nobody_to_spare() {
  omp_set_num_threads(2);
  std::vector<int64_t> size(2, -1), parallel(2, -1);
  chain([&] {
    work(2, [&](int64_t rank) {
      size[static_cast<size_t>(rank)] = crew_size();
      parallel[static_cast<size_t>(rank)] = omp_in_parallel();
    });
    CHECK(crew_size() == 2);
  });
  CHECK(size[0] == 1 && size[1] == 0 && parallel[0] == 1 && parallel[1] == 1);
}

// pauses much longer than threads look for work before they yield, of the leader and of a worker
void test_pauses() {
  omp_set_num_threads(2);
  chain([&] {
    CHECK(all_work(2, 10));
    pause(30);
    CHECK(all_work(2, 10));
    bool done = false;
    work(2, [&](int64_t rank) {
      if (rank == 1) pause(30), done = true;
    });
    CHECK(done);
    CHECK(all_work(2, 10));
  });
}

void test_crews_come_and_go() {
  omp_set_num_threads(3);
  for (int i = 0; i < 300; ++i) {
    chain([&] {
      if (i % 3 == 0) return;
      if (!all_work(1 + i % 3, 2)) CHECK(false);
    });
  }
  CHECK(crew_size() == 0);
}

void test_a_crew_is_as_large_as_threads_are_set() {
  for (int threads : {4, 2, 3, 1, 4}) {
    omp_set_num_threads(threads);
    chain([&] {
      omp_set_num_threads(2);  // for the next
      CHECK(crew_size() == (threads == 1 ? 0 : threads));
      if (threads > 1) CHECK(all_work(threads, 5));
    });
  }
}

void test_what_a_chain_throws(int threads) {
  omp_set_num_threads(threads);
  for (int64_t before : {0, 3}) {
    std::string said;
    try {
      chain([&] {
        if (crew_size() > 1) CHECK(all_work(crew_size(), before));
        throw std::runtime_error("out of paper");
      });
    } catch (const std::runtime_error& error) {
      said = error.what();
    }
    CHECK(said == "out of paper" && crew_size() == 0);
    chain([&] { CHECK(crew_size() <= 1 || all_work(crew_size(), 5)); });
  }
}

void test_a_chain_in_a_chain() {
  omp_set_num_threads(2);
  bool called = false;
  chain([&] {
    chain([&] {
      called = true;
      CHECK(crew_size() == 2 && all_work(2, 5));
    });
    CHECK(crew_size() == 2 && all_work(2, 5));
  });
  CHECK(called && crew_size() == 0);
}

void test_inside_a_parallel_region() {
  omp_set_num_threads(3);
  std::vector<int64_t> size(3, -1);
#pragma omp parallel num_threads(3)
  {
    const size_t rank = static_cast<size_t>(omp_get_thread_num());
    chain([&] { size[rank] = crew_size(); });
  }
  CHECK(size == std::vector<int64_t>(3, 0));
}

void test_several_callers() {
  std::vector<int> whole(3, 0);
  std::vector<std::thread> callers;
  for (size_t caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&whole, caller] {
      omp_set_num_threads(2);  // each thread has a setting of its own
      for (int i = 0; i < 20; ++i) chain([&] { whole[caller] += crew_size() == 2 && all_work(2, 10); });
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(whole == std::vector<int>(3, 20));
}

#if defined(__unix__) || defined(__APPLE__)
// OpenMP's threads stay behind: the child must neither wait for them nor count on them
void test_a_forked_child_is_alone() {
  omp_set_num_threads(2);
  chain([] { CHECK(all_work(2, 5)); });
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    bool called = false;
    chain([&] { called = crew_size() == 0; });
    _exit(called && forked() ? 0 : 1);
  }
  int status = -1;
  CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
  CHECK(!forked());
  chain([] { CHECK(all_work(2, 5)); });
}
#else
void test_a_forked_child_is_alone() {}
#endif

}  // namespace

int main() {
  omp_set_dynamic(0);
  CHECK(crew_size() == 0);
  test_a_forked_child_is_alone();
  test_one_thread_has_no_crew();
  for (int threads : {2, 3, 5}) test_every_rank_works_once(threads);
  test_ranks_are_threads();
  test_at_work_there_is_nobody_to_spare();
  test_pauses();
  test_crews_come_and_go();
  test_a_crew_is_as_large_as_threads_are_set();
  for (int threads : {1, 3}) test_what_a_chain_throws(threads);
  test_a_chain_in_a_chain();
  test_inside_a_parallel_region();
  test_several_callers();
  return report();
}
