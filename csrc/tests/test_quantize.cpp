#include "check.h"
#include "illume_fast/quantize.h"

using namespace illume_fast;
using namespace illume_fast::testing;

namespace {

// lambda R^T grad by reflecting: R^T g = g - 2 r (r g) + 2 e (q g)
std::vector<double> turned_back(const float* grad, const float* x, const float* code, int64_t size) {
  double length = 0.0, code_length = 0.0, r_length = 0.0, along_r = 0.0, along_q = 0.0;
  for (int64_t d = 0; d < size; ++d) {
    length += static_cast<double>(x[d]) * x[d];
    code_length += static_cast<double>(code[d]) * code[d];
  }
  length = std::sqrt(length);
  code_length = std::sqrt(code_length);
  std::vector<double> r, result;
  for (int64_t d = 0; d < size; ++d) {
    r.push_back(x[d] / length + code[d] / code_length);
    r_length += r.back() * r.back();
  }
  for (double& value : r) value /= std::sqrt(r_length);
  for (int64_t d = 0; d < size; ++d) {
    along_r += grad[d] * r[static_cast<size_t>(d)];
    along_q += grad[d] * code[d] / code_length;
  }
  for (int64_t d = 0; d < size; ++d) {
    const double g = grad[d] - 2.0 * along_r * r[static_cast<size_t>(d)] + 2.0 * along_q * x[d] / length;
    result.push_back(code_length / length * g);
  }
  return result;
}

void test(int64_t rows, int64_t size, int64_t codes) {
  const int64_t stride = size + 2;
  Buffer<float> x(rows > 0 ? (rows - 1) * stride + size : 0), codebook(codes * size), values(rows * size), error(rows),
      again(rows), grad(rows * size), error_grad(rows), grad_x(rows * size), grad_codebook(codes * size);
  Buffer<int64_t> ids(rows), ends(codes), order(rows);
  fill(x, 1);
  fill(codebook, 2);
  fill(grad, 3);
  fill(error_grad, 4);
  for (int64_t i = 0; i < x.size(); ++i) x[i] += 1.5f;
  for (int64_t i = 0; i < codebook.size(); ++i) codebook[i] += 1.5f;
  for (int64_t row = 0; row < rows; ++row) ids[row] = row * 7 % codes;
  const Quantized q{DType::f32, x.get(), stride, DType::f32, codebook.get(), ids.get(), rows, size, codes};

  CHECK(quantize_forward(q, values.get(), error.get(), again.get()) == -1);
  std::vector<double> of_codes(static_cast<size_t>(codes * size));
  const double share = 1.0 / static_cast<double>(size);
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0.0;
    for (int64_t d = 0; d < size; ++d) {
      const int64_t at = ids[row] * size + d;
      const double off = static_cast<double>(codebook[at]) - x[row * stride + d];
      CHECK(values[row * size + d] == codebook[at]);
      squares += off * off;
      of_codes[static_cast<size_t>(at)] += 2.0 * share * error_grad[row] * off;
    }
    CHECK_NEAR(error[row], squares * share, 1e-5 * (1.0 + squares * share));
    CHECK(error[row] == again[row]);
  }

  for (int rotate : {0, 1}) {
    for (int given : {1, 2, 3}) {
      CHECK(quantize_backward(q, rotate == 1, given & 1 ? grad.get() : nullptr, given & 2 ? error_grad.get() : nullptr,
                              grad_x.get()) == -1);
      for (int64_t row = 0; row < rows; ++row) {
        const float *from = x.get() + row * stride, *code = codebook.get() + ids[row] * size;
        const std::vector<double> turned = turned_back(grad.get() + row * size, from, code, size);
        for (int64_t d = 0; d < size; ++d) {
          const double passed = rotate == 1 ? turned[static_cast<size_t>(d)] : static_cast<double>(grad[row * size + d]);
          const double pull = 2.0 * share * error_grad[row] * (static_cast<double>(from[d]) - code[d]);
          const double expected = (given & 1 ? passed : 0.0) + (given & 2 ? pull : 0.0);
          CHECK_NEAR(grad_x[row * size + d], expected, 1e-5 * (1.0 + std::fabs(expected)));
        }
      }
    }
  }

  CHECK(quantize_codebook_gradient(q, error_grad.get(), ends.get(), order.get(), grad_codebook.get()) == -1);
  for (int64_t i = 0; i < codes * size; ++i) {
    const double expected = of_codes[static_cast<size_t>(i)];
    CHECK_NEAR(grad_codebook[i], expected, 1e-5 * (1.0 + std::fabs(expected)));
  }

  if (rows == 0) return;
  for (int64_t bad : {codes, int64_t{-1}}) {
    ids[rows - 1] = bad;
    CHECK(quantize_forward(q, values.get(), error.get(), again.get()) == rows - 1);
    CHECK(quantize_backward(q, true, grad.get(), nullptr, grad_x.get()) == rows - 1);
    CHECK(quantize_codebook_gradient(q, error_grad.get(), ends.get(), order.get(), grad_codebook.get()) == rows - 1);
  }
}

// a vector or a code of length 0, and one opposite the other, pass the gradient on
void test_unclear_directions() {
  Buffer<float> x(6), codebook(6), grad(6), grad_x(6);
  Buffer<int64_t> ids(3);
  const float vectors[] = {0.0f, 0.0f, 1.0f, 2.0f, 1.0f, 2.0f}, codes[] = {1.0f, 1.0f, 0.0f, 0.0f, -2.0f, -4.0f};
  for (int64_t i = 0; i < 6; ++i) x[i] = vectors[i], codebook[i] = codes[i];
  for (int64_t i = 0; i < 3; ++i) ids[i] = i;
  fill(grad, 5);
  const Quantized q{DType::f32, x.get(), 2, DType::f32, codebook.get(), ids.get(), 3, 2, 3};
  CHECK(quantize_backward(q, true, grad.get(), nullptr, grad_x.get()) == -1);
  for (int64_t i = 0; i < 6; ++i) CHECK(grad_x[i] == grad[i]);
}

}  // namespace

int main() {
  for_each_isa([] {
    for (int64_t size : {1, 15, 17, 63, 300}) {
      test(0, size, 1);
      test(1, size, 1);
      test(50, size, 4);
      test(30, size, 90);
    }
    test_unclear_directions();
  });
  return report();
}
