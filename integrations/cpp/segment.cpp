// Segments an image with the fused graph of the bundle `default`, in OpenVINO's C++ interface: docs/cpp.md.
//
//   segment repository/default/1/model.onnx image.ppm mask.pgm
//
// Patches lie side by side here. fctl itself lets them overlap and averages their scores, so that its masks differ a little.
#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <map>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int bands = 3;

// What the manifest of a bundle says under `contexts`: the side of a window over the side of the patch.
const std::map<std::string, int> factors{{"patch", 1}, {"window_medium", 2}, {"window_large", 4}};

struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> pixels;  // (height, width, bands)

  // Black beyond the edge, as in training.
  uint8_t at(int row, int column, int band) const {
    const bool inside = row >= 0 && row < height && column >= 0 && column < width;
    return inside ? pixels[(static_cast<size_t>(row) * width + column) * bands + band] : 0;
  }
};

Image read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int most = 0;
  Image image;
  file >> magic >> image.width >> image.height >> most;
  file.get();
  if (!file || magic != "P6" || most != 255) throw std::runtime_error(path + " is no binary PPM of 8 bits");
  image.pixels.resize(static_cast<size_t>(image.width) * image.height * bands);
  file.read(reinterpret_cast<char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()));
  if (!file) throw std::runtime_error(path + " ends early");
  return image;
}

// A window around a patch, shrunk to the patch's size: (bands, side, side). Each pixel is the mean of factor x factor
// pixels of the image, rounded along rows first and then along columns, as fctl does (`box`).
std::vector<uint8_t> cut(const Image& image, int top, int left, int side, int factor) {
  const int margin = (factor - 1) * side / 2;
  std::vector<uint8_t> window(static_cast<size_t>(bands) * side * side);
  for (int band = 0; band < bands; ++band)
    for (int row = 0; row < side; ++row)
      for (int column = 0; column < side; ++column) {
        int of_rows = 0;
        for (int y = 0; y < factor; ++y) {
          int sum = 0;
          for (int x = 0; x < factor; ++x)
            sum += image.at(top - margin + row * factor + y, left - margin + column * factor + x, band);
          of_rows += (sum + factor / 2) / factor;
        }
        window[(static_cast<size_t>(band) * side + row) * side + column] =
            static_cast<uint8_t>((of_rows + factor / 2) / factor);
      }
  return window;
}

// The class with the highest score for each pixel of a patch, from scores (classes, side, side).
void write_classes(const float* scores, int classes, int side, int top, int left, const Image& image,
                   std::vector<uint8_t>& mask) {
  const size_t area = static_cast<size_t>(side) * side;
  for (int row = 0; row < std::min(side, image.height - top); ++row)
    for (int column = 0; column < std::min(side, image.width - left); ++column) {
      const float* pixel = scores + static_cast<size_t>(row) * side + column;
      int best = 0;
      for (int id = 1; id < classes; ++id)
        if (pixel[id * area] > pixel[best * area]) best = id;
      mask[static_cast<size_t>(top + row) * image.width + left + column] = static_cast<uint8_t>(best);
    }
}

void segment(const std::string& graph, const std::string& source, const std::string& target) {
  const Image image = read_ppm(source);
  ov::Core core;
  auto compiled = core.compile_model(graph, "CPU", ov::hint::inference_precision(ov::element::f32));
  auto request = compiled.create_infer_request();
  const int side = static_cast<int>(compiled.input("patch").get_partial_shape()[2].get_length());
  const int classes = static_cast<int>(compiled.output("logits").get_partial_shape()[1].get_length());
  std::vector<uint8_t> mask(static_cast<size_t>(image.width) * image.height);
  for (int top = 0; top < image.height; top += side)
    for (int left = 0; left < image.width; left += side) {
      std::map<std::string, std::vector<uint8_t>> windows;  // they live until the request is done
      for (const auto& [name, factor] : factors) {
        auto& window = windows[name] = cut(image, top, left, side, factor);
        const ov::Shape shape{1, bands, static_cast<size_t>(side), static_cast<size_t>(side)};
        request.set_tensor(name, ov::Tensor(ov::element::u8, shape, window.data()));
      }
      request.infer();
      write_classes(request.get_tensor("logits").data<float>(), classes, side, top, left, image, mask);
    }
  std::ofstream file(target, std::ios::binary);
  file << "P5\n" << image.width << ' ' << image.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(mask.data()), static_cast<std::streamsize>(mask.size()));
  if (!file) throw std::runtime_error("cannot write " + target);
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 4) throw std::runtime_error("expected: segment GRAPH.onnx IMAGE.ppm MASK.pgm");
  segment(arguments[1], arguments[2], arguments[3]);
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 1;
}
