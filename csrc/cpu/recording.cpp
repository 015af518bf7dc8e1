#include "illume_fast/recording.h"

#include <chrono>
#include <stdexcept>
#include <string>

#include "illume_fast/crew.h"

namespace illume_fast {
namespace {

using Clock = std::chrono::steady_clock;

thread_local std::shared_ptr<Recording> recording_here;

}  // namespace

Recording* Recording::current() { return recording_here.get(); }

void Recording::start(std::shared_ptr<Recording> recording) {
  if (recording_here != nullptr) throw std::logic_error("recording: this thread records already; stop that first");
  if (recording->open_.exchange(true)) throw std::logic_error("recording: another thread records to it");
  recording_here = std::move(recording);
}

void Recording::stop() {
  if (recording_here.get() != this) throw std::logic_error("recording: this thread does not record to it");
  open_ = false;
  recording_here.reset();
}

void Recording::run(double* seconds) const {
  if (open_) throw std::logic_error("recording: replayed while it is recorded");
  if (recording_here != nullptr) throw std::logic_error("recording: replayed while this thread records another");
  struct Chain {
    const std::vector<Call>& calls;
    double* seconds;
    int64_t failed;
  } chain{calls_, seconds, -1};
  with_crew(
      [](void* context) {
        Chain& c = *static_cast<Chain*>(context);
        for (size_t i = 0; i < c.calls.size() && c.failed < 0; ++i) {
          const auto start = c.seconds == nullptr ? Clock::time_point() : Clock::now();
          if (!c.calls[i]()) c.failed = static_cast<int64_t>(i);
          if (c.seconds != nullptr) c.seconds[i] = std::chrono::duration<double>(Clock::now() - start).count();
        }
      },
      &chain);
  if (chain.failed < 0) return;
  const std::string name = names_[static_cast<size_t>(chain.failed)];
  throw std::runtime_error(name + ": an argument was out of range, or there was no memory");
}

std::vector<std::pair<const char*, double>> Recording::profile() const {
  std::vector<double> seconds(calls_.size());
  run(seconds.data());
  std::vector<std::pair<const char*, double>> answer;
  for (size_t i = 0; i < calls_.size(); ++i) answer.emplace_back(names_[i], seconds[i]);
  return answer;
}

}  // namespace illume_fast
