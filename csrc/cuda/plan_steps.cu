#include "plan_steps.cuh"

namespace illume_fast::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kFeedThreads)
    feed_kernel(const PlanTables plan, const int64_t* slot_of, const int64_t* start, int64_t streams, int64_t filler,
                int64_t page_size, const FeedOutputs out, int64_t tokens) {
  __shared__ FeedShared shared;
  feed_block(plan, slot_of, start, nullptr, streams, 1, filler, page_size, out, tokens, shared);
}

__global__ void __launch_bounds__(kThreads)
    draw_kernel(const PlanTables plan, const PlanSettings settings, const int64_t* order, const int64_t* ahead,
                int64_t rows, const DrawParameters out) {
  const int64_t r = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (r < rows) draw_row(plan, settings, order, ahead, out, r);
}

__global__ void __launch_bounds__(kThreads)
    record_kernel(const PlanTables plan, const int64_t* order, const int64_t* ids, int64_t rows, int64_t* latest) {
  const int64_t r = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (r < rows) record_row(plan, order, ids, latest, r);
}

unsigned blocks_for(int64_t rows) { return static_cast<unsigned>(ceil_div(rows, kThreads)); }

}  // namespace

int plan_feed(const PlanTables& plan, const int64_t* slot_of, const int64_t* start, int64_t streams, int64_t filler,
              int64_t page_size, int64_t* ids, int64_t* positions, int64_t* stream_of, int64_t* last, int64_t tokens,
              Stream stream) {
  feed_kernel<<<1, kFeedThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      plan, slot_of, start, streams, filler, page_size, {ids, positions, stream_of, last}, tokens);
  return static_cast<int>(cudaGetLastError());
}

int plan_draw(const PlanTables& plan, const PlanSettings& settings, const int64_t* order, const int64_t* ahead,
              int64_t rows, const DrawParameters& out, Stream stream) {
  draw_kernel<<<blocks_for(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(plan, settings, order, ahead, rows,
                                                                                  out);
  return static_cast<int>(cudaGetLastError());
}

int plan_record(const PlanTables& plan, const int64_t* order, const int64_t* ids, int64_t rows, int64_t* latest,
                Stream stream) {
  record_kernel<<<blocks_for(rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(plan, order, ids, rows, latest);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace illume_fast::cuda
