/* Around the model, without anything of ESP-IDF, so that any compiler takes it: from the camera's bytes to
 * the model's picture, and from the model's codes to a decision. Every result is bit by bit what edgecnn
 * computes on a workstation; tests/firmware_examples/test_microcontroller_vision.py compares them. */
#ifndef EDGECNN_VISION_H
#define EDGECNN_VISION_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Writes row y of a frame as width_px times red, green, blue. */
typedef void (*vision_row)(const uint8_t *frame, int width_px, int y, uint8_t *rgb);

/* RGB565 as the OV2640 sends it, high byte first: rrrrrggg gggbbbbb. */
void vision_row_rgb565(const uint8_t *frame, int width_px, int y, uint8_t *rgb);

/* Blue, green, red: what fmt2rgb888() of esp32-camera makes of a JPEG. */
void vision_row_bgr888(const uint8_t *frame, int width_px, int y, uint8_t *rgb);

/* What a model expects of a picture; from model.h. */
typedef struct {
  int height_px, width_px, channels; /* 3: red, green, blue; 1: luma */
  bool is_letterboxed;               /* keeps the proportions, with black bars; else stretches */
} vision_input;

/* Shrinks a frame to picture, height_px * width_px * channels bytes, by averaging over the area.
 * Returns false, and writes nothing that counts, if a side would grow or memory is short. */
bool vision_shrink(const uint8_t *frame, int height_px, int width_px, vision_row row, vision_input input,
                   uint8_t *picture);

/* Turns the model's codes into a score in [0, 1] for each label. One code for two labels is a sigmoid:
 * its score is the second label's. */
void vision_scores(const uint8_t *codes, int code_count, float scale, int zero_point, float *scores,
                   int label_count);

/* Gives the number of the label that counts as seen. A softmax decides for the highest score; of two labels
 * the second counts from its threshold on, else the first; of others the highest that reaches its own
 * threshold, and -1 if none does. */
int vision_decide(const float *scores, const float *thresholds, int label_count, bool is_softmax);

#ifdef __cplusplus
}
#endif

#endif
