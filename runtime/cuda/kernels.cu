// fctl's CUDA kernels: kernels.py says what each does, and launches them.
// After a change, run: python runtime/cuda/make_kernels.py
//
// The numbers must be those of the CPU's path, so arithmetic that could be contracted to a fused multiply-add is
// written with the intrinsics that round after each step. No shared memory: a test compiles this file for the host.
//
// Planes (bands, classes) lie along z, in steps of the grid; x is the column, y the row of what is written.

#define COLUMN (int)(blockIdx.x * blockDim.x + threadIdx.x)
#define ROW (int)(blockIdx.y * blockDim.y + threadIdx.y)
#define FOR_PLANES(plane, planes) for (int plane = blockIdx.z; plane < planes; plane += gridDim.z)

#define NODATA 255
#define NOT_A_NUMBER (0.0f / 0.0f)

typedef unsigned char uint8;
typedef unsigned short uint16;

// Where pixel (row, column) of a turned image lies in the upright one of height x width: Turn.pixels of turns.py.
static __device__ void upright(int mirrored, int quarters, int height, int width, int *row, int *column) {
  int y = *row, x = *column;
  if (quarters == 1) {
    *row = x;
    *column = width - 1 - y;
  } else if (quarters == 2) {
    *row = height - 1 - y;
    *column = width - 1 - x;
  } else if (quarters == 3) {
    *row = height - 1 - x;
    *column = y;
  }
  if (mirrored) *column = width - 1 - *column;
}

// Whether a float is a measurement: not NaN, infinite, or beyond LARGEST of plausible.py.
static __device__ bool plausible(float value) { return value >= -1e30f && value <= 1e30f; }

// What a network may see of a value: 0 for a float that is no measurement.
static __device__ float seen(float value) { return plausible(value) ? value : 0; }
template <typename T>
static __device__ T seen(T value) { return value; }

// One value of an image with strides in bytes, as a network sees it; 0 beyond the image.
template <typename T>
static __device__ T pixel(const char *image, long long row_stride, long long column_stride, long long band_stride,
                          int height, int width, int y, int x, int band) {
  if (y < 0 || y >= height || x < 0 || x >= width) return 0;
  return seen(*(const T *)(image + y * row_stride + x * column_stride + band * band_stride));
}

#define IMAGE                                                                                                         \
  const char *image, long long row_stride, long long column_stride, long long band_stride, int height, int width,     \
      int bands
#define PIXEL(T, y, x, band) pixel<T>(image, row_stride, column_stride, band_stride, height, width, y, x, band)

// --- cut: a window (height, width, bands) -> (bands, height, width), turned ----------------------------------------

#define CUT(name, T)                                                                                                  \
  extern "C" __global__ void name(IMAGE, int y, int x, int window_height, int window_width, int mirrored,             \
                                  int quarters, T *target) {                                                          \
    int rows = quarters % 2 ? window_width : window_height, columns = quarters % 2 ? window_height : window_width;    \
    int row = ROW, column = COLUMN;                                                                                   \
    if (row >= rows || column >= columns) return;                                                                     \
    long long at = (long long)row * columns + column, plane = (long long)rows * columns;                              \
    upright(mirrored, quarters, window_height, window_width, &row, &column);                                          \
    FOR_PLANES(band, bands) target[band * plane + at] = PIXEL(T, y + row, x + column, band);                          \
  }

CUT(cut_1, uint8)
CUT(cut_2, uint16)
CUT(cut_4, float)

// --- resampling as Pillow does it, along rows and then along columns -----------------------------------------------
// spans: first pixel and number of pixels of every output pixel; weights: `taps` for each.

static const int PRECISION = 22;  // bits behind the point of the weights of uint8

static __device__ uint8 clipped(int sum) {
  int value = sum >> PRECISION;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

static __device__ void store(float *target, float value) { *target = value; }
static __device__ void store(uint16 *target, float value) { *target = (uint16)(int)rintf(value); }
static __device__ void store(short *target, float value) { *target = (short)(int)rintf(value); }

// A window -> (bands, window_height, size): uint8, or float32 from the other types.
extern "C" __global__ void across_uint8(IMAGE, int y, int x, int window_height, const int *spans, const int *weights,
                                        int taps, int size, uint8 *target) {
  int row = ROW, column = COLUMN;
  if (row >= window_height || column >= size) return;
  int first = spans[2 * column], count = spans[2 * column + 1];
  FOR_PLANES(band, bands) {
    int sum = 1 << (PRECISION - 1);
    for (int tap = 0; tap < count; tap++)
      sum += PIXEL(uint8, y + row, x + first + tap, band) * weights[(long long)column * taps + tap];
    target[((long long)band * window_height + row) * size + column] = clipped(sum);
  }
}

#define ACROSS(name, T)                                                                                               \
  extern "C" __global__ void name(IMAGE, int y, int x, int window_height, const int *spans, const double *weights,    \
                                  int taps, int size, float *target) {                                                \
    int row = ROW, column = COLUMN;                                                                                   \
    if (row >= window_height || column >= size) return;                                                               \
    int first = spans[2 * column], count = spans[2 * column + 1];                                                     \
    FOR_PLANES(band, bands) {                                                                                         \
      double sum = 0;                                                                                                 \
      for (int tap = 0; tap < count; tap++)                                                                           \
        sum = __dadd_rn(sum, __dmul_rn((double)PIXEL(T, y + row, x + first + tap, band),                              \
                                       weights[(long long)column * taps + tap]));                                     \
      target[((long long)band * window_height + row) * size + column] = (float)sum;                                   \
    }                                                                                                                 \
  }

ACROSS(across_uint16, uint16)
ACROSS(across_int16, short)
ACROSS(across_float32, float)

// (bands, window_height, size) -> (bands, size, size), turned.
extern "C" __global__ void down_uint8(const uint8 *source, int bands, int window_height, const int *spans,
                                      const int *weights, int taps, int size, int mirrored, int quarters,
                                      uint8 *target) {
  int row = ROW, column = COLUMN;
  if (row >= size || column >= size) return;
  long long at = (long long)row * size + column;
  upright(mirrored, quarters, size, size, &row, &column);
  int first = spans[2 * row], count = spans[2 * row + 1];
  FOR_PLANES(band, bands) {
    int sum = 1 << (PRECISION - 1);
    for (int tap = 0; tap < count; tap++)
      sum += source[((long long)band * window_height + first + tap) * size + column] *
             weights[(long long)row * taps + tap];
    target[(long long)band * size * size + at] = clipped(sum);
  }
}

#define DOWN(name, T)                                                                                                 \
  extern "C" __global__ void name(const float *source, int bands, int window_height, const int *spans,                \
                                  const double *weights, int taps, int size, int mirrored, int quarters,              \
                                  T *target) {                                                                        \
    int row = ROW, column = COLUMN;                                                                                   \
    if (row >= size || column >= size) return;                                                                        \
    long long at = (long long)row * size + column;                                                                    \
    upright(mirrored, quarters, size, size, &row, &column);                                                           \
    int first = spans[2 * row], count = spans[2 * row + 1];                                                           \
    FOR_PLANES(band, bands) {                                                                                         \
      double sum = 0;                                                                                                 \
      for (int tap = 0; tap < count; tap++)                                                                           \
        sum = __dadd_rn(                                                                                              \
            sum, __dmul_rn((double)source[((long long)band * window_height + first + tap) * size + column],           \
                           weights[(long long)row * taps + tap]));                                                    \
      store(target + (long long)band * size * size + at, (float)sum);                                                 \
    }                                                                                                                 \
  }

DOWN(down_uint16, uint16)
DOWN(down_int16, short)
DOWN(down_float32, float)

// --- merging as merge.py does it -----------------------------------------------------------------------------------
// sums: (classes, tile, width), where row y of the raster lies in row y % tile.

// Add the first rows x columns of one tile's scores (classes, tile, tile), which lie at y, x.
extern "C" __global__ void add_tile(float *sums, const float *scores, const float *weight, int classes, int tile,
                                    int width, int y, int x, int rows, int columns) {
  int row = ROW, column = COLUMN;
  if (row >= rows || column >= columns) return;
  float share = __fmul_rn(weight[row], weight[column]);
  FOR_PLANES(index, classes) {
    float *sum = sums + ((long long)index * tile + (y + row) % tile) * width + x + column;
    *sum = __fadd_rn(*sum, __fmul_rn(scores[((long long)index * tile + row) * tile + column], share));
  }
}

// Average finished rows from y on, and clear them. shares: null, or (classes, rows, width) of scores or their softmax.
// Where a score is not finite, the id is 255 and all shares are NaN; lost: null, or a count of such pixels to add to.
extern "C" __global__ void finish(float *sums, const float *covered_rows, const float *covered_columns, int classes,
                                  int tile, int width, int y, int rows, uint8 *ids, float *shares, int softmax,
                                  unsigned int *lost) {
  int row = ROW, column = COLUMN;
  if (row >= rows || column >= width) return;
  float covered = __fmul_rn(covered_rows[y + row], covered_columns[column]);
  long long at = (long long)row * width + column, plane = (long long)rows * width;
  float *sum = sums + (long long)((y + row) % tile) * width + column;
  long long next = (long long)tile * width;
  float best = 0;
  int id = 0;
  bool finite = true;
  for (int index = 0; index < classes; index++) {
    float score = __fdiv_rn(sum[index * next], covered);
    finite = finite && __fsub_rn(score, score) == 0;
    if (index && score > best) id = index;
    if (!index || score > best) best = score;
    if (shares) shares[index * plane + at] = score;
    sum[index * next] = 0;
  }
  if (!finite) {
    ids[at] = NODATA;
    if (lost) atomicAdd(lost, 1u);
    for (int index = 0; shares && index < classes; index++) shares[index * plane + at] = NOT_A_NUMBER;
    return;
  }
  ids[at] = id;
  if (!shares || !softmax) return;
  float total = 0;
  for (int index = 0; index < classes; index++) {
    float *share = shares + index * plane + at;
    *share = expf(__fsub_rn(*share, best));
    total = __fadd_rn(total, *share);
  }
  for (int index = 0; index < classes; index++) {
    float *share = shares + index * plane + at;
    *share = __fdiv_rn(*share, total);
  }
}

// Mask pixels of a float image where a band is no measurement: id 255, and NaN in shares (null, or classes x pixels).
extern "C" __global__ void mask_missing(IMAGE, int classes, uint8 *ids, float *shares) {
  int row = ROW, column = COLUMN;
  if (row >= height || column >= width) return;
  long long at = (long long)row * width + column, plane = (long long)height * width;
  for (int band = 0; band < bands; band++) {
    if (plausible(*(const float *)(image + row * row_stride + column * column_stride + band * band_stride))) continue;
    ids[at] = NODATA;
    for (int index = 0; shares && index < classes; index++) shares[index * plane + at] = NOT_A_NUMBER;
    return;
  }
}

// --- averaging over turns ------------------------------------------------------------------------------------------

// Turn planes of side x side back and add them to a total, or begin the total with them.
extern "C" __global__ void add_turned(float *total, const float *scores, int planes, int side, int mirrored,
                                      int quarters, int begin) {
  int row = ROW, column = COLUMN;
  if (row >= side || column >= side) return;
  long long from = (long long)row * side + column, plane = (long long)side * side;
  upright(mirrored, quarters, side, side, &row, &column);
  long long to = (long long)row * side + column;
  FOR_PLANES(index, planes) {
    float score = scores[index * plane + from];
    total[index * plane + to] = begin ? score : __fadd_rn(total[index * plane + to], score);
  }
}

extern "C" __global__ void divide(float *values, long long count, float divisor) {
  long long step = (long long)gridDim.x * blockDim.x;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < count; at += step)
    values[at] = __fdiv_rn(values[at], divisor);
}

// --- cells of a context that is encoded once a raster, as host.py gathers them --------------------------------------

// float16 as bits: rounded to nearest, ties to even, as NumPy does after each step.
static __device__ float widened(uint16 half) {
  union { unsigned int bits; float value; } all;
  unsigned int exponent = half >> 10 & 31, mantissa = half & 1023;
  if (exponent == 0) {
    all.value = mantissa * (1.0f / 16777216);
    all.bits |= (unsigned int)(half & 0x8000) << 16;
    return all.value;
  }
  all.bits = (unsigned int)(half & 0x8000) << 16 | (exponent == 31 ? 255 : exponent + 112) << 23 | mantissa << 13;
  return all.value;
}

static __device__ uint16 narrowed(float value) {
  union { float value; unsigned int bits; } all = {value};
  unsigned int sign = all.bits >> 16 & 0x8000;
  all.bits &= 0x7fffffff;
  if (all.bits > 0x7f800000) return (uint16)(sign | 0x7e00);
  if (all.bits >= 0x477ff000) return (uint16)(sign | 0x7c00);
  if (all.bits < 0x38800000) {  // its last place is that of 0.5f in float32
    all.value = __fadd_rn(all.value, 0.5f);
    return (uint16)(sign | (all.bits - 0x3f000000));
  }
  return (uint16)(sign | (all.bits - 0x38000000 + 0xfff + (all.bits >> 13 & 1)) >> 13);
}

static __device__ float loaded(const float *from) { return *from; }
static __device__ float loaded(const uint16 *from) { return widened(*from); }
static __device__ float rounded(const float *, float value) { return value; }
static __device__ float rounded(const uint16 *, float value) { return widened(narrowed(value)); }
static __device__ void kept(float *to, float value) { *to = value; }
static __device__ void kept(uint16 *to, float value) { *to = narrowed(value); }

// near + (far - near) * share, rounded after each step.
template <typename T>
static __device__ float between(const T *kind, float near, float far, float share) {
  return rounded(kind, __fadd_rn(near, rounded(kind, __fmul_rn(rounded(kind, __fsub_rn(far, near)), share))));
}

// rows x columns cells of a window (channels, side, side), from (first_row, first_column) on, go to (row, column) of
// (channels, height, width).
#define PASTE(name, T)                                                                                                \
  extern "C" __global__ void name(const T *cells, int channels, int side, int first_row, int first_column, int rows,  \
                                  int columns, T *target, int height, int width, int to_row, int to_column) {         \
    int row = ROW, column = COLUMN;                                                                                   \
    if (row >= rows || column >= columns) return;                                                                     \
    FOR_PLANES(channel, channels)                                                                                     \
    target[((long long)channel * height + to_row + row) * width + to_column + column] =                               \
        cells[((long long)channel * side + first_row + row) * side + first_column + column];                          \
  }

PASTE(paste_2, uint16)
PASTE(paste_4, unsigned int)

// Interpolate (channels, height + down, width + across) to (channels, height, width): along rows, then along columns.
#define INTERPOLATE(name, T)                                                                                          \
  extern "C" __global__ void name(const T *cells, int channels, int height, int width, int down, int across,          \
                                  float share_down, float share_across, T *target) {                                  \
    int row = ROW, column = COLUMN;                                                                                   \
    if (row >= height || column >= width) return;                                                                     \
    FOR_PLANES(channel, channels) {                                                                                   \
      const T *from = cells + ((long long)channel * (height + down) + row) * (width + across) + column;               \
      float sides[2];                                                                                                 \
      for (int side = 0; side <= across; side++) {                                                                    \
        sides[side] = loaded(from + side);                                                                            \
        if (down) sides[side] = between(from, sides[side], loaded(from + width + across + side), share_down);         \
      }                                                                                                               \
      float found = across ? between(from, sides[0], sides[1], share_across) : sides[0];                              \
      kept(target + ((long long)channel * height + row) * width + column, found);                                     \
    }                                                                                                                 \
  }

INTERPOLATE(interpolate_float16, uint16)
INTERPOLATE(interpolate_float32, float)
