#include "illume_fast/crew.h"

#include <omp.h>
#include <sched.h>

#include <atomic>
#include <exception>

#include "illume_fast/fork.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace illume_fast {
namespace {

// looks before a waiting thread lets others use its core: tens of microseconds, longer than most kernels take alone
constexpr int kLooks = 1 << 12;

template <typename Done>
void wait_until(Done&& done) {
  for (int looks = 0; !done();) {
#if defined(__x86_64__)
    _mm_pause();
#endif
    if (looks < kLooks) {
      ++looks;
    } else {
      sched_yield();
    }
  }
}

class Crew {
 public:
  explicit Crew(int64_t size) : size_(size) {}

  int64_t size() const { return at_work_ ? 1 : size_; }

  void run(int64_t threads, void (*work)(void*, int64_t), void* context) {
    work_ = work;
    context_ = context;
    threads_ = threads;
    busy_.store(size_ - 1, std::memory_order_relaxed);
    order_.fetch_add(1, std::memory_order_release);
    at_work_ = true;
    work(context, 0);
    at_work_ = false;
    wait_until([this] { return busy_.load(std::memory_order_acquire) == 0; });
  }

  // What a thread other than the leader does until the crew is dismissed.
  void serve(int64_t rank) {
    for (uint64_t seen = 0;;) {
      uint64_t order = seen;
      wait_until([&] { return (order = order_.load(std::memory_order_acquire)) != seen; });
      if (order == kDismissed) {
        gone_.fetch_add(1, std::memory_order_release);
        return;
      }
      seen = order;
      if (rank < threads_) work_(context_, rank);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  // Whether all others have left, so that nobody looks at the crew any more.
  bool left() const { return gone_.load(std::memory_order_acquire) == size_ - 1; }

  void dismiss() { order_.store(kDismissed, std::memory_order_release); }

 private:
  static constexpr uint64_t kDismissed = ~uint64_t{0};

  const int64_t size_;
  bool at_work_ = false;  // the leader's alone
  void (*work_)(void*, int64_t) = nullptr;
  void* context_ = nullptr;
  int64_t threads_ = 0;
  alignas(64) std::atomic<uint64_t> order_{0};
  alignas(64) std::atomic<int64_t> busy_{0};
  std::atomic<int64_t> gone_{0};
};

thread_local Crew* led = nullptr;

}  // namespace

void with_crew(void (*chain)(void*), void* context) {
  const int most = omp_get_max_threads();
  if (most <= 1 || omp_in_parallel() || forked() || led != nullptr) return chain(context);
  std::atomic<Crew*> made{nullptr};
  std::exception_ptr thrown;  // must not leave the parallel region by itself
#pragma omp parallel num_threads(most)
  if (omp_get_thread_num() == 0) {
    Crew crew(omp_get_num_threads());  // as many as came
    made.store(&crew, std::memory_order_release);
    led = &crew;
    try {
      chain(context);
    } catch (...) {
      thrown = std::current_exception();
    }
    led = nullptr;
    crew.dismiss();
    wait_until([&] { return crew.left(); });
  } else {
    Crew* crew = nullptr;
    wait_until([&] { return (crew = made.load(std::memory_order_acquire)) != nullptr; });
    crew->serve(omp_get_thread_num());
  }
  if (thrown) std::rethrow_exception(thrown);
}

int64_t crew_size() { return led == nullptr ? 0 : led->size(); }

void crew_run(int64_t threads, void (*work)(void*, int64_t), void* context) { led->run(threads, work, context); }

}  // namespace illume_fast
