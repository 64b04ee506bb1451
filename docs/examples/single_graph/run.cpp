// Generates an image with a bundle's one graph in ONNX Runtime: run MODEL INPUTS IMAGE.ppm
#include <onnxruntime_c_api.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

static const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);

static void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::fprintf(stderr, "%s\n", api->GetErrorMessage(status));
  std::exit(1);
}

// The numbers of a .npy file: ten bytes, the last two of which are the length of the header, the header, the numbers.
static std::vector<char> read_numbers(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  const size_t start = bytes.size() < 10 ? 10 : 10 + (unsigned char)bytes[8] + 256 * (unsigned char)bytes[9];
  if (bytes.size() <= start) {
    std::fprintf(stderr, "%s: expected a .npy file with numbers\n", path.c_str());
    std::exit(1);
  }
  return {bytes.begin() + std::ptrdiff_t(start), bytes.end()};
}

int main(int count, char** words) {
  if (count != 4) return std::fprintf(stderr, "run MODEL INPUTS IMAGE.ppm\n"), 1;
  OrtEnv* env;
  OrtSessionOptions* options;
  OrtSession* session;
  OrtMemoryInfo* memory;
  OrtAllocator* allocator;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "diffoundry", &env));
  check(api->CreateSessionOptions(&options));
  check(api->CreateSession(env, words[1], options, &session));
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(api->GetAllocatorWithDefaultOptions(&allocator));

  size_t inputs;
  check(api->SessionGetInputCount(session, &inputs));
  std::vector<const char*> names(inputs);
  std::vector<const OrtValue*> values(inputs);
  std::vector<std::vector<char>> numbers(inputs);
  for (size_t i = 0; i < inputs; ++i) {
    char* name;
    OrtTypeInfo* info;
    const OrtTensorTypeAndShapeInfo* tensor;
    ONNXTensorElementDataType type;
    size_t rank;
    OrtValue* value;
    check(api->SessionGetInputName(session, i, allocator, &name));
    check(api->SessionGetInputTypeInfo(session, i, &info));
    check(api->CastTypeInfoToTensorInfo(info, &tensor));
    check(api->GetTensorElementType(tensor, &type));
    check(api->GetDimensionsCount(tensor, &rank));
    std::vector<int64_t> shape(rank);
    check(api->GetDimensions(tensor, shape.data(), rank));
    numbers[i] = read_numbers(std::string(words[2]) + "/" + name + ".npy");
    size_t images = numbers[i].size() / (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? 8 : 4);
    for (int64_t size : shape) images /= size > 0 ? size_t(size) : 1;
    for (int64_t& size : shape) size = size > 0 ? size : int64_t(images);  // the free size
    check(api->CreateTensorWithDataAsOrtValue(memory, numbers[i].data(), numbers[i].size(), shape.data(), rank, type,
                                              &value));
    names[i] = name;
    values[i] = value;
  }

  const char* output = "image";
  OrtValue* image = nullptr;
  OrtTensorTypeAndShapeInfo* info;
  int64_t shape[4];  // images, height, width, colours
  void* pixels;
  check(api->Run(session, nullptr, names.data(), values.data(), inputs, &output, 1, &image));
  check(api->GetTensorTypeAndShape(image, &info));
  check(api->GetDimensions(info, shape, 4));
  check(api->GetTensorMutableData(image, &pixels));
  std::ofstream file(words[3], std::ios::binary);
  file << "P6 " << shape[2] << " " << shape[0] * shape[1] << " 255\n";  // one below the other
  file.write(static_cast<char*>(pixels), shape[0] * shape[1] * shape[2] * 3);
  return file.good() ? 0 : 1;
}
