#include "plan_ahead.cuh"

namespace illume_fast::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kFeedThreads)
    feed_ahead_kernel(const PlanTables plan, const int64_t* slot_of, const int64_t* start, const int64_t* window,
                      int64_t streams, int64_t width, int64_t filler, int64_t page_size, const FeedOutputs out,
                      int64_t tokens) {
  __shared__ FeedShared shared;
  feed_block(plan, slot_of, start, window, streams, width, filler, page_size, out, tokens, shared);
}

__global__ void __launch_bounds__(kThreads)
    note_kernel(int64_t* made, int64_t slots, int64_t width, const int64_t* order, const int64_t* ahead,
                const int64_t* ids, int64_t count) {
  const int64_t r = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (r < count) note_row(made, slots, width, order, ahead, ids, r);
}

__global__ void __launch_bounds__(kThreads)
    accept_kernel(const PlanTables plan, const int64_t* order, const int64_t* window, int64_t* made, int64_t rows,
                  int64_t width) {
  const int64_t r = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (r < rows) accept_row(plan, order, window, made, width, r);
}

unsigned blocks_for(int64_t rows) { return static_cast<unsigned>(ceil_div(rows, kThreads)); }

}  // namespace

int plan_feed_ahead(const PlanTables& plan, const int64_t* slot_of, const int64_t* start, const int64_t* window,
                    int64_t streams, int64_t width, int64_t filler, int64_t page_size, int64_t* ids,
                    int64_t* positions, int64_t* stream_of, int64_t* last, int64_t tokens, Stream stream) {
  feed_ahead_kernel<<<1, kFeedThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      plan, slot_of, start, window, streams, width, filler, page_size, {ids, positions, stream_of, last}, tokens);
  return static_cast<int>(cudaGetLastError());
}

int plan_note(int64_t* made, int64_t slots, int64_t width, const int64_t* order, const int64_t* ahead,
              const int64_t* ids, int64_t count, Stream stream) {
  note_kernel<<<blocks_for(count), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(made, slots, width, order, ahead,
                                                                                   ids, count);
  return static_cast<int>(cudaGetLastError());
}

int plan_accept(const PlanTables& plan, const int64_t* order, const int64_t* window, int64_t* made, int64_t rows,
                int64_t width, Stream stream) {
  accept_kernel<<<blocks_for(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(plan, order, window, made, rows,
                                                                                    width);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace illume_fast::cuda
