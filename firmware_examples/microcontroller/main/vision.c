#include "vision.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHANNELS_MAX 3

void vision_row_rgb565(const uint8_t *frame, int width_px, int y, uint8_t *rgb) {
  const uint8_t *at = frame + (size_t)y * width_px * 2;
  for (int x = 0; x < width_px; x++, at += 2, rgb += 3) {
    const unsigned word = (unsigned)at[0] << 8 | at[1];
    const unsigned red = word >> 11, green = word >> 5 & 63, blue = word & 31;
    /* The high bits again in the low ones, so that 31 becomes 255. */
    rgb[0] = (uint8_t)(red << 3 | red >> 2);
    rgb[1] = (uint8_t)(green << 2 | green >> 4);
    rgb[2] = (uint8_t)(blue << 3 | blue >> 2);
  }
}

void vision_row_bgr888(const uint8_t *frame, int width_px, int y, uint8_t *rgb) {
  const uint8_t *at = frame + (size_t)y * width_px * 3;
  for (int x = 0; x < width_px; x++, at += 3, rgb += 3) {
    rgb[0] = at[2], rgb[1] = at[1], rgb[2] = at[0];
  }
}

/* Red, green, blue to luma in place. Source: OpenCV, color_rgb.simd.hpp: Rec. 601 in 15 bits. */
static void to_luma(uint8_t *rgb, int width_px) {
  for (int x = 0; x < width_px; x++) {
    const uint8_t *at = rgb + 3 * x;
    rgb[x] = (uint8_t)((at[0] * 9798 + at[1] * 19235 + at[2] * 3735 + (1 << 14)) >> 15);
  }
}

/* How many source pixels one pixel of the result is wide. OpenCV divides twice: 49 and 98 do not come back whole. */
static double scale_of(int source_px, int result_px) { return 1.0 / ((double)result_px / source_px); }

static bool is_whole(double scale) { return fabs(scale - rint(scale)) < DBL_EPSILON; }

/* The source pixels that one pixel of the result covers, and what each of them counts.
 * Source: OpenCV, resize.cpp, computeResizeAreaTab(). */
typedef struct {
  int start, count;
  float first, middle, last;
} span;

static span span_of(int index, int source_px, int result_px) {
  const double scale = scale_of(source_px, result_px);
  const double from = index * scale, to = from + scale;
  const double cell = fmin(scale, source_px - from);
  int end = (int)floor(to), start = (int)ceil(from);
  if (end > source_px - 1) end = source_px - 1;
  if (start > end) start = end;
  span s = {start, end - start, (float)(1.0 / cell), (float)(1.0 / cell), (float)(1.0 / cell)};
  if (start - from > 1e-3) {
    s.start--, s.count++;
    s.first = (float)((start - from) / cell);
  }
  if (to - end > 1e-3) {
    s.last = (float)(fmin(fmin(to - end, 1.0), cell) / cell);
    if (s.count++ == 0) s.first = s.last;
  }
  return s;
}

static float weight(const span *s, int position) {
  if (position == 0) return s->first;
  return position == s->count - 1 ? s->last : s->middle;
}

static uint8_t to_byte(float value) {
  const long rounded = lrintf(value); /* to the nearest, halves to even */
  return (uint8_t)(rounded < 0 ? 0 : rounded > 255 ? 255 : rounded);
}

/* The memory of one shrinking: a row of the frame, the same row shrunk, and the sum of such rows. */
typedef struct {
  const uint8_t *frame;
  int source_px, result_px, channels; /* widths */
  vision_row row;
  span *spans;
  uint8_t *pixels;
  float *shrunk, *sum;
} bench;

static void read_row(const bench *b, int y) {
  b->row(b->frame, b->source_px, y, b->pixels);
  if (b->channels == 1) to_luma(b->pixels, b->source_px);
}

static void shrink_row(const bench *b) {
  for (int x = 0; x < b->result_px; x++) {
    const span *s = &b->spans[x];
    for (int c = 0; c < b->channels; c++) {
      const uint8_t *at = b->pixels + (size_t)s->start * b->channels + c;
      float total = 0.0f;
      for (int k = 0; k < s->count; k++) total += at[k * b->channels] * weight(s, k);
      b->shrunk[x * b->channels + c] = total;
    }
  }
}

/* Any ratio: rows and columns are weighted by how much of them is covered. */
static void shrink_by_area(const bench *b, int source_height_px, int height_px, uint8_t *out, int stride) {
  const int width = b->result_px * b->channels;
  int known = -1; /* the last row of one result is often the first of the next */
  for (int y = 0; y < height_px; y++, out += stride) {
    const span rows = span_of(y, source_height_px, height_px);
    for (int k = 0; k < rows.count; k++) {
      if (known != rows.start + k) {
        known = rows.start + k;
        read_row(b, known);
        shrink_row(b);
      }
      const float share = weight(&rows, k);
      for (int i = 0; i < width; i++) b->sum[i] = (k ? b->sum[i] : 0.0f) + share * b->shrunk[i];
    }
    for (int i = 0; i < width; i++) out[i] = to_byte(b->sum[i]);
  }
}

/* Whole ratios: OpenCV adds the bytes up and divides once. */
static void shrink_by_blocks(const bench *b, int rows, int columns, int height_px, uint8_t *out, int stride) {
  uint32_t *sum = (uint32_t *)b->sum;
  const int width = b->result_px * b->channels;
  const float share = 1.0f / (float)(rows * columns);
  for (int y = 0; y < height_px; y++, out += stride) {
    memset(sum, 0, (size_t)width * sizeof *sum);
    for (int k = 0; k < rows; k++) {
      read_row(b, y * rows + k);
      for (int i = 0; i < width; i++) {
        const uint8_t *at = b->pixels + (size_t)(i / b->channels) * columns * b->channels + i % b->channels;
        for (int j = 0; j < columns; j++) sum[i] += at[j * b->channels];
      }
    }
    for (int i = 0; i < width; i++) {
      out[i] = rows == 2 && columns == 2 ? (uint8_t)((sum[i] + 2) >> 2) : to_byte((float)sum[i] * share);
    }
  }
}

static bool shrink(const uint8_t *frame, int source_height_px, int source_width_px, vision_row row, int height_px,
                   int width_px, int channels, uint8_t *out, int stride) {
  bench b = {frame, source_width_px, width_px, channels, row, NULL, NULL, NULL, NULL};
  const size_t width = (size_t)width_px * channels;
  b.pixels = malloc((size_t)source_width_px * CHANNELS_MAX);
  b.spans = malloc((size_t)width_px * sizeof *b.spans);
  b.shrunk = malloc(width * sizeof *b.shrunk);
  b.sum = malloc(width * sizeof *b.sum);
  const bool has_room = b.pixels && b.spans && b.shrunk && b.sum;
  if (has_room) {
    for (int x = 0; x < width_px; x++) b.spans[x] = span_of(x, source_width_px, width_px);
    if (is_whole(scale_of(source_height_px, height_px)) && is_whole(scale_of(source_width_px, width_px))) {
      shrink_by_blocks(&b, source_height_px / height_px, source_width_px / width_px, height_px, out, stride);
    } else {
      shrink_by_area(&b, source_height_px, height_px, out, stride);
    }
  }
  free(b.pixels), free(b.spans), free(b.shrunk), free(b.sum);
  return has_room;
}

bool vision_shrink(const uint8_t *frame, int height_px, int width_px, vision_row row, vision_input input,
                   uint8_t *picture) {
  int inner_height_px = input.height_px, inner_width_px = input.width_px;
  if (input.is_letterboxed) {
    const double ratio = fmin((double)input.height_px / height_px, (double)input.width_px / width_px);
    inner_height_px = (int)fmax(1.0, rint(height_px * ratio));
    inner_width_px = (int)fmax(1.0, rint(width_px * ratio));
    memset(picture, 0, (size_t)input.height_px * input.width_px * input.channels);
  }
  if (inner_height_px > height_px || inner_width_px > width_px) return false;
  const int top_px = (input.height_px - inner_height_px) / 2, left_px = (input.width_px - inner_width_px) / 2;
  const int stride = input.width_px * input.channels;
  uint8_t *out = picture + (size_t)top_px * stride + (size_t)left_px * input.channels;
  return shrink(frame, height_px, width_px, row, inner_height_px, inner_width_px, input.channels, out, stride);
}

void vision_scores(const uint8_t *codes, int code_count, float scale, int zero_point, float *scores,
                   int label_count) {
  const bool is_binary = code_count == 1 && label_count == 2;
  for (int i = 0; i < code_count; i++) {
    const float real = scale * (float)(codes[i] - zero_point);
    /* Codes at the end of a scale stand for slightly more than 1. */
    scores[is_binary ? 1 : i] = fminf(fmaxf(real, 0.0f), 1.0f);
  }
  if (is_binary) scores[0] = 1.0f - scores[1];
}

int vision_decide(const float *scores, const float *thresholds, int label_count, bool is_softmax) {
  if (!is_softmax && label_count == 2) return scores[1] >= thresholds[1];
  int best = -1;
  for (int i = 0; i < label_count; i++) {
    if ((is_softmax || scores[i] >= thresholds[i]) && (best < 0 || scores[i] > scores[best])) best = i;
  }
  return best;
}
