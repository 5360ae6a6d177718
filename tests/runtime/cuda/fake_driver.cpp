// A simulated GPU: the part of CUDA's driver API that fctl, cuda-bindings and PyCUDA call, as a libcuda.so.1.
//
// Device memory is memory of the host, kernels are compiled from kernels.cu for the host. Work is queued, and done as
// late as it may be: only when somebody waits for it, and then only what that wait needs. So whatever forgets to wait
// (an event between two streams, a synchronisation before a result is read, a buffer that is filled again too early)
// gives wrong numbers here. Memory that work touches must be alive when it is done, else CUDA_ERROR_ILLEGAL_ADDRESS.
//
// Environment: FAKE_GPU_MEMORY, bytes of memory (1 GiB); FAKE_GPU_COUNT, GPUs (1); FAKE_GPU_CAPABILITY, as 86;
// FAKE_GPU_DRIVER, as 13000; FAKE_GPU_BROKEN, 1 where it does not start; FAKE_GPU_REPORT, a file to which what is left
// is written at exit, as JSON.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

// --- CUDA C++ for kernels.cu ---------------------------------------------------------------------------------------

struct Dim3 {
  unsigned x, y, z;
};
static thread_local Dim3 gridDim, blockDim, blockIdx, threadIdx;
#define __global__
#define __device__ inline
static float __fmul_rn(float a, float b) { return a * b; }  // compiled with -ffp-contract=off
static float __fadd_rn(float a, float b) { return a + b; }
static float __fsub_rn(float a, float b) { return a - b; }
static float __fdiv_rn(float a, float b) { return a / b; }
static double __dmul_rn(double a, double b) { return a * b; }
static double __dadd_rn(double a, double b) { return a + b; }
static unsigned atomicAdd(unsigned *at, unsigned more) { return (*at += more) - more; }  // one thread runs all

namespace kernels {
using std::rintf;
#include KERNELS
}  // namespace kernels

// --- things ----------------------------------------------------------------------------------------------------

typedef int Status;
enum {
  OK = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_PTX = 218,
  INVALID_CONTEXT = 201,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  CAPTURE_INVALIDATED = 901,
};

typedef std::function<Status()> Work;

struct Stream;

struct Event {
  Stream *stream = nullptr;
  long position = 0;  // it is reached when so much of its stream is done
  bool timing = true;
};

struct Graph {
  std::vector<Work> work;
};

struct Stream {
  std::vector<Work> queue;
  long done = 0;  // of the queue
  std::shared_ptr<Graph> capture;
  bool invalid = false;  // what is captured
  long end() { return (long)queue.size(); }
};

struct Context {
  int device;
  long retained = 0;
  std::set<Stream *> streams;
  Stream *legacy = new Stream;
  explicit Context(int number) : device(number) {}
};

struct Kernel {
  const char *name;
  std::vector<size_t> sizes;  // of the parameters
  std::function<void(const std::vector<std::vector<char>> &)> run;
};

static std::recursive_mutex lock;  // one call at a time
#define LOCKED std::lock_guard<std::recursive_mutex> guard(lock)

static std::map<uintptr_t, size_t> memory, pinned;
static std::set<void *> events, modules, execs, graphs;
static std::vector<Stream *> graveyard;  // destroyed with work in the queue: it is still done when an event asks for it
static std::vector<Context> primary;
static std::vector<Context *> made;
static thread_local std::vector<Context *> stack;
static Status sticky = OK;
static long launches = 0;
static bool initialised = false;

static long setting(const char *name, long otherwise) {
  const char *found = getenv(name);
  return found && *found ? atol(found) : otherwise;
}

static size_t used() {
  size_t sum = 0;
  for (auto &block : memory) sum += block.second;
  return sum;
}

static long streams() {
  long count = 0;
  for (auto &context : primary) count += (long)context.streams.size();
  for (auto *context : made) count += (long)context->streams.size();
  return count;
}

static long contexts() {
  long count = (long)made.size();
  for (auto &context : primary) count += context.retained;
  return count;
}

extern "C" __attribute__((visibility("default"))) void fake_report(char *text, int length) {
  LOCKED;
  snprintf(text, length,
           "{\"memory\": %zu, \"pinned\": %zu, \"streams\": %ld, \"events\": %zu, \"modules\": %zu, \"graphs\": %zu, "
           "\"contexts\": %ld, \"bytes\": %zu, \"launches\": %ld}",
           memory.size(), pinned.size(), streams(), events.size(), modules.size(), graphs.size() + execs.size(),
           contexts(), used(), launches);
}

static void at_exit() {
  const char *path = getenv("FAKE_GPU_REPORT");
  FILE *file = path ? fopen(path, "w") : nullptr;
  if (!file) return;
  char text[400];
  fake_report(text, sizeof text);
  fputs(text, file);
  fclose(file);
}

// --- queues ----------------------------------------------------------------------------------------------------

// Do a stream's work up to a position, in order. Waits are work too, and run other streams.
static Status advance(Stream *stream, long position) {
  while (stream->done < position && sticky == OK) {
    Work work = std::move(stream->queue[stream->done]);
    stream->done++;
    Status status = work();
    if (status != OK) sticky = status;
  }
  return sticky;
}

static Status current(Context **context) {
  if (!initialised) return NOT_INITIALIZED;
  if (stack.empty()) return INVALID_CONTEXT;
  *context = stack.back();
  return sticky;
}

#define CURRENT                                    \
  LOCKED;                                          \
  Context *context;                                \
  if (Status status = current(&context)) return status

static Stream *stream_of(Context *context, void *handle) {
  if ((uintptr_t)handle <= 2) return context->legacy;  // null, legacy and per-thread
  auto *stream = (Stream *)handle;
  return context->streams.count(stream) ? stream : nullptr;
}

static Status enqueue(void *handle, Work work) {
  CURRENT;
  Stream *stream = stream_of(context, handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture)
    stream->capture->work.push_back(std::move(work));
  else
    stream->queue.push_back(std::move(work));
  return OK;
}

static bool inside(const std::map<uintptr_t, size_t> &blocks, uintptr_t address, size_t bytes) {
  auto next = blocks.upper_bound(address);
  if (next == blocks.begin()) return false;
  --next;
  return address + bytes <= next->first + next->second;
}

static bool on_device(uintptr_t address, size_t bytes) { return inside(memory, address, bytes); }

// --- kernels ----------------------------------------------------------------------------------------------------

template <typename... P, size_t... I>
static Kernel kernel(const char *name, void (*function)(P...), std::index_sequence<I...>) {
  auto run = [function](const std::vector<std::vector<char>> &values) {
    std::tuple<P...> arguments;
    (void)std::initializer_list<int>{(memcpy(&std::get<I>(arguments), values[I].data(), sizeof(P)), 0)...};
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
      for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
          for (threadIdx.z = 0; threadIdx.z < blockDim.z; threadIdx.z++)
            for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)
              for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) function(std::get<I>(arguments)...);
  };
  return Kernel{name, {sizeof(P)...}, run};
}

template <typename... P>
static Kernel kernel(const char *name, void (*function)(P...)) {
  return kernel(name, function, std::index_sequence_for<P...>{});
}

#define KERNEL(name) kernel(#name, kernels::name)
static std::vector<Kernel> all_kernels = {
    KERNEL(cut_1),       KERNEL(cut_2),      KERNEL(cut_4),         KERNEL(across_uint8), KERNEL(across_uint16),
    KERNEL(across_int16), KERNEL(across_float32), KERNEL(down_uint8), KERNEL(down_uint16),  KERNEL(down_int16),
    KERNEL(down_float32), KERNEL(add_tile),    KERNEL(finish),        KERNEL(add_turned),   KERNEL(divide),
    KERNEL(mask_missing), KERNEL(paste_2),     KERNEL(paste_4),       KERNEL(interpolate_float16),
    KERNEL(interpolate_float32),
};

// --- the driver API ------------------------------------------------------------------------------------------------

#define API extern "C" __attribute__((visibility("default"))) Status

API cuInit(unsigned) {
  LOCKED;
  if (setting("FAKE_GPU_BROKEN", 0)) return 999;  // CUDA_ERROR_UNKNOWN
  if (!initialised) {
    atexit(at_exit);
    for (int device = 0; device < setting("FAKE_GPU_COUNT", 1); device++) primary.emplace_back(device);
  }
  initialised = true;
  return primary.empty() ? NO_DEVICE : OK;
}

API cuDriverGetVersion(int *version) {
  *version = (int)setting("FAKE_GPU_DRIVER", 13000);
  return OK;
}

API cuGetErrorName(Status, const char **name) {
  *name = "CUDA_ERROR";
  return OK;
}

API cuGetErrorString(Status status, const char **text) {
  *text = status == NO_DEVICE       ? "no CUDA-capable device is detected"
          : status == OUT_OF_MEMORY ? "out of memory"
                                    : "another error";
  return OK;
}

API cuDeviceGetCount(int *count) {
  *count = (int)primary.size();
  return initialised ? OK : NOT_INITIALIZED;
}

API cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return ordinal >= 0 && ordinal < (int)primary.size() ? OK : INVALID_DEVICE;
}

API cuDeviceGetName(char *name, int length, int device) {
  if (device < 0 || device >= (int)primary.size()) return INVALID_DEVICE;
  snprintf(name, length, "Simulated GPU");
  return OK;
}

API cuDeviceComputeCapability(int *major, int *minor, int) {
  *major = (int)setting("FAKE_GPU_CAPABILITY", 86) / 10;
  *minor = (int)setting("FAKE_GPU_CAPABILITY", 86) % 10;
  return OK;
}

API cuDeviceGetAttribute(int *value, int attribute, int device) {
  int capability[2];
  cuDeviceComputeCapability(capability, capability + 1, device);
  *value = attribute == 75 ? capability[0] : attribute == 76 ? capability[1] : attribute == 16 ? 4 : 0;
  return OK;
}

API cuDevicePrimaryCtxRetain(Context **context, int device) {
  LOCKED;
  if (device < 0 || device >= (int)primary.size()) return INVALID_DEVICE;
  *context = &primary[device];
  (*context)->retained++;
  return OK;
}

API cuDevicePrimaryCtxRelease_v2(int device) {
  LOCKED;
  if (device < 0 || device >= (int)primary.size() || !primary[device].retained) return INVALID_CONTEXT;
  primary[device].retained--;
  return OK;
}

API cuCtxCreate_v2(Context **context, unsigned, int device) {
  LOCKED;
  *context = new Context(device);
  made.push_back(*context);
  stack.push_back(*context);
  return OK;
}

API cuCtxCreate_v4(Context **context, void *, unsigned flags, int device) {
  return cuCtxCreate_v2(context, flags, device);
}

API cuCtxDestroy_v2(Context *context) {
  LOCKED;
  made.erase(std::remove(made.begin(), made.end(), context), made.end());
  if (!stack.empty() && stack.back() == context) stack.pop_back();
  return OK;
}

API cuCtxGetCurrent(Context **context) {
  *context = stack.empty() ? nullptr : stack.back();
  return initialised ? OK : NOT_INITIALIZED;
}

API cuCtxSetCurrent(Context *context) {
  if (!stack.empty()) stack.pop_back();
  if (context) stack.push_back(context);
  return OK;
}

API cuCtxPushCurrent_v2(Context *context) {
  LOCKED;
  bool alive = std::find(made.begin(), made.end(), context) != made.end();
  for (auto &known : primary) alive = alive || (&known == context && known.retained);
  if (!alive) return INVALID_CONTEXT;
  stack.push_back(context);
  return OK;
}

API cuCtxPopCurrent_v2(Context **context) {
  if (stack.empty()) return INVALID_CONTEXT;
  if (context) *context = stack.back();
  stack.pop_back();
  return OK;
}

API cuCtxGetDevice(int *device) {
  CURRENT;
  *device = context->device;
  return OK;
}

API cuCtxSynchronize() {
  CURRENT;
  Status status = advance(context->legacy, context->legacy->end());
  for (auto *stream : context->streams) status = advance(stream, stream->end());
  return status;
}

API cuMemGetInfo_v2(size_t *free, size_t *total) {
  CURRENT;
  *total = (size_t)setting("FAKE_GPU_MEMORY", 1L << 30);
  *free = *total - used();
  return OK;
}

API cuMemAlloc_v2(uintptr_t *pointer, size_t bytes) {
  CURRENT;
  if (!bytes) return INVALID_VALUE;
  if (used() + bytes > (size_t)setting("FAKE_GPU_MEMORY", 1L << 30)) return OUT_OF_MEMORY;
  void *block = malloc(bytes);
  memset(block, 0xA5, bytes);  // not cleared, and no number that looks right
  *pointer = (uintptr_t)block;
  memory[*pointer] = bytes;
  return OK;
}

// Unlike a GPU's, it does not wait for work that needs the memory: such work fails.
API cuMemFree_v2(uintptr_t pointer) {
  CURRENT;
  if (!memory.erase(pointer)) return INVALID_VALUE;
  free((void *)pointer);
  return OK;
}

API cuMemHostAlloc(void **pointer, size_t bytes, unsigned) {
  CURRENT;
  if (bytes > (size_t)setting("FAKE_GPU_MEMORY", 1L << 30)) return OUT_OF_MEMORY;
  *pointer = malloc(bytes);
  memset(*pointer, 0xA5, bytes);
  pinned[(uintptr_t)*pointer] = bytes;
  return OK;
}

API cuMemFreeHost(void *pointer) {
  CURRENT;
  if (!pinned.erase((uintptr_t)pointer)) return INVALID_VALUE;
  free(pointer);
  return OK;
}

API cuStreamCreate(Stream **stream, unsigned) {
  CURRENT;
  *stream = new Stream;
  context->streams.insert(*stream);
  return OK;
}

API cuStreamDestroy_v2(Stream *stream) {
  CURRENT;
  if (!context->streams.erase(stream)) return INVALID_HANDLE;
  graveyard.push_back(stream);
  return OK;
}

API cuStreamSynchronize(void *handle) {
  CURRENT;
  Stream *stream = stream_of(context, handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) {
    stream->invalid = true;
    return CAPTURE_INVALIDATED;
  }
  return advance(stream, stream->end());
}

API cuStreamQuery(void *handle) { return cuStreamSynchronize(handle); }

API cuStreamWaitEvent(void *handle, Event *event, unsigned) {
  LOCKED;
  Stream *stream = event->stream;  // where the event is now: recording it again later does not count
  long position = event->position;
  return enqueue(handle, [stream, position] { return stream ? advance(stream, position) : OK; });
}

API cuEventCreate(Event **event, unsigned flags) {
  CURRENT;
  *event = new Event;
  (*event)->timing = !(flags & 2);
  events.insert(*event);
  return OK;
}

API cuEventDestroy_v2(Event *event) {
  CURRENT;
  return events.erase(event) ? OK : INVALID_HANDLE;
}

API cuEventRecord(Event *event, void *handle) {
  CURRENT;
  Stream *stream = stream_of(context, handle);
  if (!events.count(event) || !stream) return INVALID_HANDLE;
  event->stream = stream;
  event->position = stream->end();
  return OK;
}

API cuEventSynchronize(Event *event) {
  CURRENT;
  if (!events.count(event)) return INVALID_HANDLE;
  return event->stream ? advance(event->stream, event->position) : OK;
}

// Asking does one thing more of the event's stream, so that a loop that asks ends.
API cuEventQuery(Event *event) {
  CURRENT;
  if (!events.count(event)) return INVALID_HANDLE;
  if (!event->stream || event->stream->done >= event->position) return OK;
  if (Status status = advance(event->stream, event->stream->done + 1)) return status;
  return NOT_READY;
}

API cuEventElapsedTime(float *milliseconds, Event *start, Event *end) {
  CURRENT;
  if (!start->timing || !end->timing) return INVALID_HANDLE;
  for (auto *event : {start, end})
    if (!event->stream || event->stream->done < event->position) return NOT_READY;
  *milliseconds = 0.5f;
  return OK;
}

API cuEventElapsedTime_v2(float *milliseconds, Event *start, Event *end) {
  return cuEventElapsedTime(milliseconds, start, end);
}

API cuMemcpyHtoDAsync_v2(uintptr_t target, const void *source, size_t bytes, void *stream) {
  return enqueue(stream, [=] {
    if (!on_device(target, bytes)) return ILLEGAL_ADDRESS;
    memcpy((void *)target, source, bytes);
    return OK;
  });
}

API cuMemcpyDtoHAsync_v2(void *target, uintptr_t source, size_t bytes, void *stream) {
  return enqueue(stream, [=] {
    if (!on_device(source, bytes)) return ILLEGAL_ADDRESS;
    memcpy(target, (void *)source, bytes);
    return OK;
  });
}

API cuMemcpyDtoDAsync_v2(uintptr_t target, uintptr_t source, size_t bytes, void *stream) {
  return enqueue(stream, [=] {
    if (!on_device(target, bytes) || !on_device(source, bytes)) return ILLEGAL_ADDRESS;
    memmove((void *)target, (void *)source, bytes);
    return OK;
  });
}

API cuMemsetD8Async(uintptr_t target, unsigned char value, size_t bytes, void *stream) {
  return enqueue(stream, [=] {
    if (!on_device(target, bytes)) return ILLEGAL_ADDRESS;
    memset((void *)target, value, bytes);
    return OK;
  });
}

API cuModuleLoadData(void **module, const void *image) {
  CURRENT;
  if (!strstr((const char *)image, ".version") || !strstr((const char *)image, ".entry")) return INVALID_PTX;
  *module = new char;
  modules.insert(*module);
  return OK;
}

API cuModuleLoadDataEx(void **module, const void *image, unsigned, void *, void *) {
  return cuModuleLoadData(module, image);
}

API cuModuleUnload(void *module) {
  CURRENT;
  return modules.erase(module) ? OK : INVALID_HANDLE;
}

API cuModuleGetFunction(Kernel **kernel, void *module, const char *name) {
  CURRENT;
  if (!modules.count(module)) return INVALID_HANDLE;
  for (auto &known : all_kernels)
    if (!strcmp(known.name, name)) {
      *kernel = &known;
      return OK;
    }
  return NOT_FOUND;
}

API cuFuncSetBlockShape(void *, int, int, int) { return OK; }

static const char *const POINTER = (const char *)1, *const SIZE = (const char *)2;  // of `extra`

API cuLaunchKernel(Kernel *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned, void *stream, void **parameters, void **extra) {
  bool fits = gx && gy && gz && gy <= 65535 && gz <= 65535 && bx && by && bz && bx * by * bz <= 1024;
  if (!fits || (!parameters && !extra)) return INVALID_VALUE;
  std::vector<std::vector<char>> values;
  const char *packed = nullptr;
  for (; extra && *extra; extra += 2)
    if (*extra == (void *)POINTER) packed = (const char *)extra[1];
  size_t offset = 0;
  for (size_t index = 0; index < kernel->sizes.size(); index++) {
    size_t size = kernel->sizes[index];
    offset = (offset + size - 1) / size * size;
    const char *value = packed ? packed + offset : (const char *)parameters[index];
    values.emplace_back(value, value + size);
    offset += size;
  }
  return enqueue(stream, [=] {
    for (auto &value : values) {  // an address of anything but memory of ours is an error; numbers are small
      uintptr_t address = 0;
      if (value.size() == 8) memcpy(&address, value.data(), 8);
      if ((int64_t)address > (int64_t)1 << 32 && !on_device(address, 1)) return ILLEGAL_ADDRESS;
    }
    launches++;
    gridDim = {gx, gy, gz};
    blockDim = {bx, by, bz};
    kernel->run(values);
    return OK;
  });
}

API cuStreamBeginCapture_v2(Stream *stream, int) {
  CURRENT;
  if (!context->streams.count(stream) || stream->capture) return INVALID_HANDLE;
  stream->capture = std::make_shared<Graph>();
  stream->invalid = false;
  return OK;
}

API cuStreamIsCapturing(Stream *stream, int *capturing) {
  CURRENT;
  *capturing = context->streams.count(stream) && stream->capture;
  return OK;
}

API cuStreamEndCapture(Stream *stream, Graph **graph) {
  CURRENT;
  if (!context->streams.count(stream) || !stream->capture) return INVALID_HANDLE;
  auto captured = std::move(stream->capture);
  stream->capture = nullptr;
  *graph = nullptr;
  if (stream->invalid) return CAPTURE_INVALIDATED;
  *graph = new Graph(*captured);
  graphs.insert(*graph);
  return OK;
}

API cuGraphInstantiateWithFlags(Graph **exec, Graph *graph, unsigned long long) {
  CURRENT;
  if (!graphs.count(graph)) return INVALID_HANDLE;
  *exec = new Graph(*graph);
  execs.insert(*exec);
  return OK;
}

API cuGraphInstantiate(Graph **exec, Graph *graph, unsigned long long flags) {
  return cuGraphInstantiateWithFlags(exec, graph, flags);
}

API cuGraphDestroy(Graph *graph) {
  CURRENT;
  return graphs.erase(graph) ? OK : INVALID_HANDLE;
}

API cuGraphExecDestroy(Graph *exec) {
  CURRENT;
  return execs.erase(exec) ? OK : INVALID_HANDLE;
}

API cuGraphLaunch(Graph *exec, void *stream) {
  LOCKED;
  if (!execs.count(exec)) return INVALID_HANDLE;
  for (auto &work : exec->work)
    if (Status status = enqueue(stream, work)) return status;
  return OK;
}

// For tests: let a stream call something, as a library's own kernels would run. Callable where no context is current.
API fake_enqueue(Stream *stream, void (*function)(void *), void *argument) {
  LOCKED;
  for (auto &context : primary)
    if (context.streams.count(stream)) {
      cuCtxPushCurrent_v2(&context);
      Status status = enqueue(stream, [=] {
        function(argument);
        return OK;
      });
      cuCtxPopCurrent_v2(nullptr);
      return status;
    }
  return enqueue(stream, [=] {
    function(argument);
    return OK;
  });
}

// For tests: forget a failure, after which a real context would be lost.
API fake_recover() {
  LOCKED;
  sticky = OK;
  return OK;
}

// --- how cuda-bindings finds them ----------------------------------------------------------------------------------

#include <dlfcn.h>

API cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t, int *found) {
  static void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  *function = nullptr;
  for (std::string suffix : {"_v4", "_v2", ""})
    if (!*function && (version >= 12050 || suffix != "_v4")) *function = dlsym(self, (name + suffix).c_str());
  if (found) *found = *function ? 0 : 1;
  return *function ? OK : NOT_FOUND;
}
