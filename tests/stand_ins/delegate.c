/* An accelerator that a test can pull out: a TFLite delegate that takes over the first operator of a network,
 * the QUANTIZE of the picture, and fails as the file that TEST_DELEGATE names tells it to:
 *   absent    no device is found when the delegate is loaded
 *   N         a number: the kernel computes N times, then reports an error
 *   abort N   it computes N times, then ends the whole process, as libedgetpu does when a transfer fails
 *
 * The parts of the structures that are used here are declared as in tensorflow/lite/core/c/common.h of
 * TensorFlow 2.21; the entry points as in tensorflow/lite/delegates/external/external_delegate_interface.h. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int TfLiteStatus; /* kTfLiteOk = 0, kTfLiteError = 1 */
typedef struct { int size; int data[]; } TfLiteIntArray;

typedef struct {
  int type;
  union { void *raw; uint8_t *uint8; } data;
  TfLiteIntArray *dims;
  struct { float scale; int32_t zero_point; } params;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  void *delegate;
  int buffer_handle;
  _Bool data_is_stale, is_variable;
  struct { int type; void *params; } quantization;
  void *sparsity;
  const TfLiteIntArray *dims_signature;
} TfLiteTensor;

typedef struct {
  TfLiteIntArray *inputs, *outputs; /* more follows */
} TfLiteNode;

struct TfLiteContext;
typedef struct {
  void *(*init)(struct TfLiteContext *, const char *, size_t);
  void (*free)(struct TfLiteContext *, void *);
  TfLiteStatus (*prepare)(struct TfLiteContext *, TfLiteNode *);
  TfLiteStatus (*invoke)(struct TfLiteContext *, TfLiteNode *);
  const char *(*profiling_string)(const struct TfLiteContext *, const TfLiteNode *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external;
  void *(*async_kernel)(struct TfLiteContext *, TfLiteNode *);
  uint64_t inplace_operator;
} TfLiteRegistration;

typedef struct TfLiteDelegate {
  void *data_;
  TfLiteStatus (*Prepare)(struct TfLiteContext *, struct TfLiteDelegate *);
  void *copy_from_buffer_handle, *copy_to_buffer_handle, *free_buffer_handle;
  int64_t flags;
  void *opaque_delegate_builder;
} TfLiteDelegate;

typedef struct TfLiteContext {
  size_t tensors_size;
  TfLiteStatus (*GetExecutionPlan)(struct TfLiteContext *, TfLiteIntArray **);
  TfLiteTensor *tensors;
  void *impl_;
  void *resize_tensor;
  void (*ReportError)(struct TfLiteContext *, const char *, ...);
  void *add_tensors;
  TfLiteStatus (*GetNodeAndRegistration)(struct TfLiteContext *, int, TfLiteNode **, TfLiteRegistration **);
  TfLiteStatus (*ReplaceNodeSubsetsWithDelegateKernels)(struct TfLiteContext *, TfLiteRegistration,
                                                        const TfLiteIntArray *, struct TfLiteDelegate *);
  /* more follows */
} TfLiteContext;

static int runs, calls_left, aborts;

/* Reads what is wrong with the device now; returns whether there is one. */
static int look_at_device(void) {
  char text[32] = "";
  const char *path = getenv("TEST_DELEGATE");
  FILE *file = path ? fopen(path, "r") : NULL;
  if (file == NULL) return 0;
  if (fgets(text, sizeof text, file) == NULL) text[0] = 0;
  fclose(file);
  if (strncmp(text, "absent", 6) == 0) return 0;
  aborts = strncmp(text, "abort", 5) == 0;
  calls_left = atoi(aborts ? text + 5 : text);
  return 1;
}

/* uint8 codes with zero point z become int8 codes with z - 128: the highest bit turns over. */
static TfLiteStatus invoke(TfLiteContext *context, TfLiteNode *node) {
  const TfLiteTensor *from = &context->tensors[node->inputs->data[0]];
  TfLiteTensor *to = &context->tensors[node->outputs->data[0]];
  if (calls_left-- <= 0) {
    if (aborts) abort();
    context->ReportError(context, "stand-in: the transfer failed");
    return 1;
  }
  for (size_t i = 0; i < to->bytes; i++) to->data.uint8[i] = from->data.uint8[i] ^ 0x80;
  runs++;
  return 0;
}

static TfLiteStatus prepare(TfLiteContext *context, TfLiteDelegate *delegate) {
  struct { int size; int data[1]; } first = {1, {0}};
  TfLiteIntArray *plan;
  TfLiteRegistration kernel = {.invoke = invoke, .custom_name = "stand-in", .version = 1};
  if (context->GetExecutionPlan(context, &plan) != 0 || plan->size < 1) return 1;
  first.data[0] = plan->data[0];
  return context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, (TfLiteIntArray *)&first, delegate);
}

TfLiteDelegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count,
                                              void (*report_error)(const char *)) {
  (void)keys, (void)values, (void)count;
  if (!look_at_device()) {
    report_error("stand-in: no device is attached");
    return NULL;
  }
  TfLiteDelegate *delegate = calloc(1, sizeof *delegate);
  delegate->Prepare = prepare;
  return delegate;
}

void tflite_plugin_destroy_delegate(TfLiteDelegate *delegate) { free(delegate); }

/* How often it has computed since the library was loaded. */
int stand_in_runs(void) { return runs; }
