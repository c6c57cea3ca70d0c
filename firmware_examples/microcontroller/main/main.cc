// An ESP32-CAM that names what it sees, and lights its lamp when that is WATCHED.
// A frame as RGB565 -> vision_shrink -> the model -> vision_scores -> vision_decide -> serial line and lamp.
#include <cstdio>
#include <cstring>

#include "driver/gpio.h"
#include "esp_camera.h"
#include "esp_heap_caps.h"
#include "esp_log.h"
#include "esp_timer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

#include "model.h"
#include "vision.h"

#ifndef MODEL_ARENA_BYTES
#error "model.h has no arena: install tflite-micro on the workstation and convert again"
#endif

namespace {

constexpr char TAG[] = "edgecnn";
constexpr char WATCHED[] = "fire";       // the label that lights the lamp
constexpr int FRAMES_UNTIL_ALARM = 3;    // one frame alone is no alarm
constexpr gpio_num_t LAMP = GPIO_NUM_33; // the small red one; it is on at level 0

constexpr framesize_t FRAME_SIZE = FRAMESIZE_QVGA; // 320 x 240
constexpr int FRAME_WIDTH_PX = 320, FRAME_HEIGHT_PX = 240;
static_assert(MODEL_WIDTH_PX <= FRAME_WIDTH_PX && MODEL_HEIGHT_PX <= FRAME_HEIGHT_PX,
              "choose a FRAME_SIZE that is not smaller than the model's picture");

// Kernels for the ESP32 keep scratch buffers in the arena that the reference kernels do without. What is really
// used is printed at the start; a model that needs more says so when its tensors are allocated.
constexpr size_t ARENA_BYTES = MODEL_ARENA_BYTES + 64 * 1024;

// AI-Thinker's wiring of the OV2640.
camera_config_t camera_config() {
  camera_config_t config = {};
  config.pin_pwdn = 32;
  config.pin_reset = -1;
  config.pin_xclk = 0;
  config.pin_sccb_sda = 26;
  config.pin_sccb_scl = 27;
  config.pin_d7 = 35;
  config.pin_d6 = 34;
  config.pin_d5 = 39;
  config.pin_d4 = 36;
  config.pin_d3 = 21;
  config.pin_d2 = 19;
  config.pin_d1 = 18;
  config.pin_d0 = 5;
  config.pin_vsync = 25;
  config.pin_href = 23;
  config.pin_pclk = 22;
  config.xclk_freq_hz = 20000000;
  config.ledc_timer = LEDC_TIMER_0;
  config.ledc_channel = LEDC_CHANNEL_0;
  config.pixel_format = PIXFORMAT_RGB565;
  config.frame_size = FRAME_SIZE;
  config.fb_count = 1;
  config.fb_location = CAMERA_FB_IN_PSRAM;
  config.grab_mode = CAMERA_GRAB_LATEST;
  return config;
}

[[noreturn]] void stop(const char *why) {
  for (;;) {
    ESP_LOGE(TAG, "%s", why);
    vTaskDelay(pdMS_TO_TICKS(10000));
  }
}

// Looks at one frame; gives the number of the label that counts as seen, -1 for none, and -2 if it could not look.
int look(tflite::MicroInterpreter &interpreter, float *scores) {
  camera_fb_t *frame = esp_camera_fb_get();
  if (frame == nullptr) return -2;
  const vision_input input = {MODEL_HEIGHT_PX, MODEL_WIDTH_PX, MODEL_CHANNELS, MODEL_IS_LETTERBOXED};
  uint8_t *picture = interpreter.input(0)->data.uint8; // a byte of the picture is its code
  const bool is_shrunk = vision_shrink(frame->buf, static_cast<int>(frame->height), static_cast<int>(frame->width),
                                       vision_row_rgb565, input, picture);
  esp_camera_fb_return(frame);
  if (!is_shrunk || interpreter.Invoke() != kTfLiteOk) return -2;
  vision_scores(interpreter.output(0)->data.uint8, MODEL_OUTPUT_COUNT, MODEL_OUTPUT_SCALE, MODEL_OUTPUT_ZERO_POINT,
                scores, MODEL_LABEL_COUNT);
  return vision_decide(scores, model_thresholds, MODEL_LABEL_COUNT, MODEL_IS_SOFTMAX);
}

} // namespace

extern "C" void app_main() {
  gpio_set_direction(LAMP, GPIO_MODE_OUTPUT);
  gpio_set_level(LAMP, 1);
  const camera_config_t config = camera_config();
  if (esp_camera_init(&config) != ESP_OK) stop("no camera answers: look at its ribbon cable");

  auto *arena = static_cast<uint8_t *>(heap_caps_aligned_alloc(16, ARENA_BYTES, MALLOC_CAP_SPIRAM));
  if (arena == nullptr) stop("no memory for the arena: the board needs PSRAM, or the model is too large");
  static tflite::MicroMutableOpResolver<MODEL_OPERATOR_COUNT> resolver;
#define ADD(op) resolver.Add##op();
  MODEL_OPERATORS(ADD)
#undef ADD
  static tflite::MicroInterpreter interpreter(tflite::GetModel(model_data), resolver, arena, ARENA_BYTES);
  if (interpreter.AllocateTensors() != kTfLiteOk) stop("the tensors do not fit the arena: raise ARENA_BYTES");
  ESP_LOGI(TAG, "%s %.12s: arena %u of %u bytes", MODEL_NAME, MODEL_SHA256,
           static_cast<unsigned>(interpreter.arena_used_bytes()), static_cast<unsigned>(ARENA_BYTES));

  float scores[MODEL_LABEL_COUNT];
  for (int seen_count = 0;; vTaskDelay(1)) {
    const int64_t began_us = esp_timer_get_time();
    const int label = look(interpreter, scores);
    if (label == -2) {
      ESP_LOGW(TAG, "a frame could not be looked at");
      continue;
    }
    const bool is_seen = label >= 0 && std::strcmp(model_labels[label], WATCHED) == 0;
    seen_count = is_seen ? seen_count + 1 : 0;
    gpio_set_level(LAMP, seen_count >= FRAMES_UNTIL_ALARM ? 0 : 1);
    std::printf("%s %.2f, %d ms%s\n", label < 0 ? "nothing" : model_labels[label], label < 0 ? 0.0f : scores[label],
                static_cast<int>((esp_timer_get_time() - began_us) / 1000),
                seen_count == FRAMES_UNTIL_ALARM ? ", ALARM" : "");
  }
}
