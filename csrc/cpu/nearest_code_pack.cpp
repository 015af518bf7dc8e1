#include "code_scores.h"
#include "distances.h"
#include "illume_fast/nearest_code.h"
#include "parallel.h"
#include "rounding.h"

namespace illume_fast::ILLUME_FAST_ISA_NS {

void nearest_code_pack(Metric metric, const float* codes, int64_t count, int64_t size, float* panels, uint32_t* pairs,
                       float* offsets, float* longest, float* errors, float* center) {
  const int64_t blocks = (count + kBlockCodes - 1) / kBlockCodes;
  for (int64_t k = 0; k < blocks * kBlockCodes; ++k) {
    offsets[k] = k < count && finite(codes + k * size, size) ? 0.0f : -kInf;
  }
  for (int64_t d = 0; d < size; ++d) center[d] = 0.0f;
  if (metric == Metric::l2) {
    // any centre would do, so the sum may be rounded; near the codes' mean the scores are small and so are their errors
    int64_t usable = 0;
    for (int64_t k = 0; k < count; ++k) usable += offsets[k] == 0.0f;
    for (int64_t k = 0; k < count; ++k) {
      if (offsets[k] != 0.0f) continue;
      const float share = 1.0f / static_cast<float>(usable);
      for (int64_t d = 0; d < size; ++d) center[d] += codes[k * size + d] * share;
    }
    if (!finite(center, size)) {
      for (int64_t d = 0; d < size; ++d) center[d] = 0.0f;
    }
  }
  parallel_for(blocks, 65536 / (kBlockCodes * size + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin * kBlockCodes; k < end * kBlockCodes; ++k) {
      float* column = panels + k / kPanelCodes * size * kPanelCodes + k % kPanelCodes;
      uint32_t* words = pairs + k / kPanelCodes * pairs_of(size) * kPanelCodes + k % kPanelCodes;
      if (k % kBlockCodes == 0) longest[k / kBlockCodes] = errors[k / kBlockCodes] = 0.0f;
      if (offsets[k] == -kInf) {
        for (int64_t d = 0; d < size; ++d) column[d * kPanelCodes] = 0.0f;
        for (int64_t d = 0; d < pairs_of(size); ++d) words[d * kPanelCodes] = 0;
        continue;
      }
      const float* code = codes + k * size;
      double squared = metric == Metric::l2 ? squared_distance(code, center, size) : inner_product(code, code, size);
      if (metric == Metric::cosine) {
        const double scale = squared > 0.0 ? 1.0 / std::sqrt(squared) : 0.0;
        for (int64_t d = 0; d < size; ++d) column[d * kPanelCodes] = static_cast<float>(code[d] * scale);
        squared = squared > 0.0 ? 1.0 : 0.0;
      } else {
        for (int64_t d = 0; d < size; ++d) column[d * kPanelCodes] = code[d] - center[d];
      }
      // rounded up, that the bounds hold
      float own = static_cast<float>(std::sqrt(squared)) * 1.000001f;
      if (metric == Metric::l2) offsets[k] = static_cast<float>(-squared / 2);
      if (!(squared < 1e37)) {
        own = kInf;
        offsets[k] = 0.0f;
      }
      float& widest = longest[k / kBlockCodes];
      widest = own > widest ? own : widest;
      const float lost = round_pairs(column, kPanelCodes, size, words, kPanelCodes);
      float& most = errors[k / kBlockCodes];
      most = lost > most ? lost : most;
    }
  });
}

}  // namespace illume_fast::ILLUME_FAST_ISA_NS
