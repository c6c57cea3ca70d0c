"""The sketch for the ESP32-CAM says nothing wrong to the interfaces that it calls.

ESP-IDF and its compiler are not here. The headers below declare what main.cc calls, as esp32-camera 2.0,
esp-tflite-micro 1.3 and ESP-IDF 5 declare it: this finds what main.cc gets wrong against them, and does not
prove that a board runs it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny_models

from edgecnn.bundle.flatbuffer import parse
from edgecnn.targets import c_array, micro

FOLDER = Path(__file__).resolve().parents[2] / "firmware_examples" / "microcontroller"
README = (FOLDER / "README.md").read_text(encoding="utf-8")

METHODS = """
Abs Add AddN ArgMax ArgMin AssignVariable AveragePool2D BatchMatMul BatchToSpaceNd BroadcastArgs BroadcastTo
CallOnce Cast Ceil Concatenation Conv2D Cos CumSum DepthToSpace DepthwiseConv2D Dequantize Div
DynamicUpdateSlice Elu EmbeddingLookup Equal Exp ExpandDims Fill Floor FloorDiv FloorMod FullyConnected Gather
GatherNd Greater GreaterEqual HardSwish If L2Normalization L2Pool2D LeakyRelu Less LessEqual Log LogSoftmax
LogicalAnd LogicalNot LogicalOr Logistic MaxPool2D Maximum Mean Minimum MirrorPad Mul Neg NotEqual Pack Pad
PadV2 Prelu Quantize ReadVariable ReduceAll ReduceMax ReduceMin Relu Relu6 Reshape ResizeBilinear
ResizeNearestNeighbor ReverseV2 Round Rsqrt SelectV2 Shape Sin Slice Softmax SpaceToBatchNd SpaceToDepth Split
SplitV Sqrt Square SquaredDifference Squeeze StridedSlice Sub Sum Svdf Tanh Transpose TransposeConv
UnidirectionalSequenceLSTM Unpack VarHandle While ZerosLike
"""
"""What can be added to the resolver, by tensorflow/lite/micro/micro_mutable_op_resolver.h."""

HEADERS = {
    "driver/gpio.h": """
        typedef enum { GPIO_NUM_33 = 33 } gpio_num_t;
        typedef enum { GPIO_MODE_OUTPUT = 2 } gpio_mode_t;
        extern "C" int gpio_set_direction(gpio_num_t, gpio_mode_t);
        extern "C" int gpio_set_level(gpio_num_t, unsigned);
    """,
    "esp_camera.h": """
        #include <cstddef>
        #include <cstdint>
        typedef int esp_err_t;
        #define ESP_OK 0
        typedef enum { LEDC_TIMER_0 } ledc_timer_t;
        typedef enum { LEDC_CHANNEL_0 } ledc_channel_t;
        typedef enum { PIXFORMAT_RGB565 } pixformat_t;
        typedef enum { FRAMESIZE_QVGA = 6 } framesize_t;
        typedef enum { CAMERA_FB_IN_PSRAM } camera_fb_location_t;
        typedef enum { CAMERA_GRAB_WHEN_EMPTY, CAMERA_GRAB_LATEST } camera_grab_mode_t;
        typedef struct {
          int pin_pwdn, pin_reset, pin_xclk, pin_sccb_sda, pin_sccb_scl;
          int pin_d7, pin_d6, pin_d5, pin_d4, pin_d3, pin_d2, pin_d1, pin_d0, pin_vsync, pin_href, pin_pclk;
          int xclk_freq_hz;
          ledc_timer_t ledc_timer;
          ledc_channel_t ledc_channel;
          pixformat_t pixel_format;
          framesize_t frame_size;
          int jpeg_quality;
          size_t fb_count;
          camera_fb_location_t fb_location;
          camera_grab_mode_t grab_mode;
        } camera_config_t;
        typedef struct { uint8_t *buf; size_t len, width, height; pixformat_t format; } camera_fb_t;
        extern "C" esp_err_t esp_camera_init(const camera_config_t *);
        extern "C" camera_fb_t *esp_camera_fb_get();
        extern "C" void esp_camera_fb_return(camera_fb_t *);
    """,
    "esp_heap_caps.h": """
        #include <cstddef>
        #include <cstdint>
        #define MALLOC_CAP_SPIRAM (1 << 10)
        extern "C" void *heap_caps_aligned_alloc(size_t, size_t, uint32_t);
    """,
    "esp_log.h": """
        extern "C" __attribute__((format(printf, 2, 3))) void esp_log(const char *, const char *, ...);
        #define ESP_LOGE esp_log
        #define ESP_LOGW esp_log
        #define ESP_LOGI esp_log
    """,
    "esp_timer.h": '#include <cstdint>\nextern "C" int64_t esp_timer_get_time();',
    "freertos/FreeRTOS.h": "#define pdMS_TO_TICKS(ms) (ms)",
    "freertos/task.h": 'extern "C" void vTaskDelay(unsigned);',
    "tensorflow/lite/schema/schema_generated.h": """
        namespace tflite { struct Model; const Model *GetModel(const void *); }
    """,
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
        namespace tflite {
        struct MicroOpResolver {};
        template <unsigned int count> struct MicroMutableOpResolver : MicroOpResolver { METHODS };
        }
    """.replace("METHODS", " ".join(f"int Add{method}();" for method in METHODS.split())),
    "tensorflow/lite/micro/micro_interpreter.h": """
        #include <cstddef>
        #include <cstdint>
        typedef enum { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;
        typedef struct { union { uint8_t *uint8; int8_t *int8; } data; } TfLiteTensor;
        namespace tflite {
        struct Model;
        struct MicroOpResolver;
        struct MicroInterpreter {
          MicroInterpreter(const Model *, const MicroOpResolver &, uint8_t *, size_t);
          TfLiteStatus AllocateTensors();
          TfLiteStatus Invoke();
          TfLiteTensor *input(size_t);
          TfLiteTensor *output(size_t);
          size_t arena_used_bytes() const;
        };
        }
    """,
}


def check(folder: Path, header: str) -> subprocess.CompletedProcess[str]:
    """Check main.cc against the declarations and a model.h."""
    for name, text in HEADERS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"#pragma once\n{text}\n")
    (folder / "model.h").write_text(header)
    # Beside main.cc there may be a model.h of the user's own, which quotes would find first.
    for name in ("main.cc", "vision.h"):
        shutil.copy(FOLDER / "main" / name, folder)
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{folder}"]
    return subprocess.run([*command, str(folder / "main.cc")], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> str:
    bundle = tiny_models.write(tmp_path_factory.mktemp("model") / "model.tflite")
    text = c_array.header(bundle, micro.check(parse(bundle.model), bundle.model))
    return (
        text
        if "MODEL_ARENA_BYTES" in text
        else text.replace("#include", "#define MODEL_ARENA_BYTES 1\n#include")
    )


def test_every_kernel_that_the_check_knows_has_a_method_of_the_resolver() -> None:
    assert {c_array.method_of(op) for op in micro.KERNELS} <= set(METHODS.split())


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_sketch_takes_a_generated_header_and_the_interfaces_that_it_calls(
    header: str, tmp_path: Path
) -> None:
    done = check(tmp_path, header)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize(
    ("changed", "to", "said"),
    [
        ("#define MODEL_ARENA_BYTES", "#define OTHER", "install tflite-micro"),
        ("#define MODEL_WIDTH_PX 16", "#define MODEL_WIDTH_PX 400", "choose a FRAME_SIZE"),
    ],
)
def test_a_model_that_cannot_fit_is_refused_when_it_is_built_and_not_on_the_hill(
    header: str, tmp_path: Path, changed: str, to: str, said: str
) -> None:
    done = check(tmp_path, header.replace(changed, to))

    assert done.returncode != 0
    assert said in done.stderr


def test_every_file_that_the_build_names_is_there_or_made_by_the_command_of_the_readme() -> None:
    (sources,) = re.findall(r"SRCS ([^)]*?) INCLUDE_DIRS", (FOLDER / "main" / "CMakeLists.txt").read_text())
    (out,) = re.findall(r"--target micro --out (\S+)", README)

    made = {Path(out).with_suffix(suffix).name for suffix in (".h", ".c")}

    assert Path(out).parent.name == "main"
    assert [n for n in re.findall(r'"(.+?)"', sources) if not (FOLDER / "main" / n).is_file()] == ["model.c"]
    assert made == {"model.h", "model.c"}
