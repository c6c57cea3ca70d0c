# `make demo` and `make test` set up what they need and then do it. The rest is longer; see README.md.
PYTHON ?= python3
BIN := .venv/bin
# pytest runs one worker a core; TensorFlow's own threads share them.
WORKERS ?= 2
# Real pictures and reference models; export it for the tests to find.
EDGECNN_SHARED ?= ../shared
export EDGECNN_SHARED
TRUNK_V1_QUARTER := $(EDGECNN_SHARED)/reference_models/mobilenet_v1_0.25_128_quant.tflite
TRUNK_V1 := $(EDGECNN_SHARED)/reference_models/mobilenet_v1_1.0_224_quant_embedding_extractor.tflite
TRUNK_V2 := $(EDGECNN_SHARED)/reference_models/mobilenet_v2_1.0_224_quant.tflite

.PHONY: zoo left-out programs faults deploy-faults fleet soak demo test setup lint clean figures classics bench-ladder bench-heads bench-overhead bench-sizes bench-watch damage docs emulate
.SECONDARY:
# What was refused, a file over its budget for instance, is no file for the next run.
.DELETE_ON_ERROR:

demo: .venv/ready
	$(BIN)/edgecnn demo --out out/demo

test: .venv/ready programs lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

# What tests use for real, as command:package; they skip where it is absent and nobody may install it.
# A library has no command: GStreamer's RTSP server is known by the file that it installs.
RTSP := gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly
PROGRAMS := mosquitto:mosquitto faketime:faketime openssl:openssl chromium:chromium systemd-analyze:systemd ssh:openssh-client /usr/sbin/sshd:openssh-server gcc:gcc g++:g++ arm-none-eabi-gcc:gcc-arm-none-eabi

programs:
	@missing=; for p in $(PROGRAMS); do command -v $${p%%:*} >/dev/null || missing="$$missing $${p##*:}"; done; \
	ls /usr/lib/*/girepository-1.0/GstRtspServer-1.0.typelib >/dev/null 2>&1 || missing="$$missing $(RTSP)"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	echo "Installing$$missing for the tests ..."; apt-get update -q && apt-get install -qy $$missing; fi

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'Installing python3-venv ...'; apt-get update -q && apt-get install -qy python3 python3-venv; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The main job on real pictures: train (a killed run goes on), convert, bench int8 against float.
figures: out/digits/report.html out/cifar10/report.html out/cifar10-parent/report.html out/fire/report.html out/scenes/report.html out/scenes-linear/report.html

# AlexNet and VGG-16 on scenes, to the end: about half an hour and one and a half on 2 cores.
classics: out/alexnet-scenes/report.html out/vgg16-scenes/report.html

DATA_digits := mnist.npz
DATA_lenet-caffe := mnist.npz
DATA_digits-small := mnist.npz
DATA_cifar10 := cifar10.tar.xz
DATA_cifar10-parent := cifar10.tar.xz
DATA_cifar10-distilled := cifar10.tar.xz
DATA_fire := fire.tar.xz fire_extra.tar.xz scenes.tar.xz
DATA_sentinel := scenes.tar.xz fire.tar.xz fire_extra.tar.xz
TEST_sentinel := fire.tar.xz
DATA_sentinel-alarm = $(DATA_sentinel)
DATA_sentinel-mosaics = $(DATA_sentinel)
TEST_sentinel-alarm = $(TEST_sentinel)
TEST_sentinel-mosaics = $(TEST_sentinel)
# Where flames are, marked by eye.
BOXES_sentinel := boxes/flames.json
DATA_fire-nano := fire.tar.xz fire_extra.tar.xz scenes.tar.xz
DATA_scenes := scenes.tar.xz
DATA_scenes-linear := scenes.tar.xz
DATA_alexnet-scenes := scenes.tar.xz
DATA_vgg16-scenes := scenes.tar.xz
# Copies of four test pictures lie in train; see the data's own notes.
WITHOUT_LEAKED := $(addprefix --leave-out ,5708.jpg 4275.jpg 4029.jpg 3259.jpg)
TRAIN_sentinel := $(WITHOUT_LEAKED)
TRAIN_sentinel-alarm := --init $(TRUNK_V2) $(WITHOUT_LEAKED)
TRAIN_sentinel-mosaics = $(TRAIN_sentinel-alarm)
TRAIN_fire := --init $(TRUNK_V2) $(WITHOUT_LEAKED)
TRAIN_fire-nano := --init $(TRUNK_V1_QUARTER) $(WITHOUT_LEAKED)
TRAIN_cifar10-parent := --init $(TRUNK_V2)
TRAIN_scenes := --init $(TRUNK_V2)
TRAIN_scenes-linear := --init $(TRUNK_V1)

# What a recipe is trained on: one set or several; it is benched on TEST, or else on the first.
data = $(foreach x,$1,--data $(EDGECNN_SHARED)/data/$x)
# All that a recipe learns from, and is converted with.
learned = $(call data,$(DATA_$1)) $(addprefix --boxes ,$(BOXES_$1))
test_data = $(call data,$(or $(TEST_$1),$(firstword $(DATA_$1))))

# Which training pictures a recipe is calibrated with: its own list, or that of a recipe with the same pictures.
LIST_cifar10-parent := cifar10
LIST_cifar10-distilled := cifar10
LIST_sentinel-alarm := sentinel
LIST_sentinel-mosaics := sentinel
list = calibration/$(or $(LIST_$1),$1).txt

out/%/model.h5: | .venv/ready
	$(BIN)/edgecnn train $* $(call learned,$*) $(TRAIN_$*) $(addprefix --teacher ,$(TEACHER_$*)) $(AVERAGED_$*:%=--average out/%/model.h5) $(STARTS_$*:%=--init out/%/model.h5) --out out/$* --resume

# Teachers are .tflite files, int8 or float32; those that ship lie on the shelf.
TEACHER_cifar10-distilled := out/cifar10-parent/int8.tflite
TEACHER_sentinel-alarm := edgecnn/zoo/scenes/scenes.tflite
TEACHER_sentinel-mosaics = $(TEACHER_sentinel-alarm)
TEACHER_fire := edgecnn/zoo/sentinel/sentinel.tflite
out/cifar10-distilled/model.h5: | $(TEACHER_cifar10-distilled)

# Recipes whose weights count as much as the model's own.
AVERAGED_sentinel-alarm := sentinel-mosaics
out/sentinel-alarm/model.h5: | $(AVERAGED_sentinel-alarm:%=out/%/model.h5)

# The recipe whose network another starts from.
STARTS_sentinel := sentinel-alarm
out/sentinel/model.h5: | $(STARTS_sentinel:%=out/%/model.h5)

# What int8 may cost the models that raise alarms, on val; of 1,943 pictures, a file that loses nothing has 0.2.
CONVERT_sentinel := --max-drop 0.25 --metric fire:top1
CONVERT_sentinel-alarm = $(CONVERT_sentinel)
CONVERT_sentinel-mosaics = $(CONVERT_sentinel)
CONVERT_fire := --max-drop 0.25 --metric top1

out/%/float32.tflite: out/%/model.h5
	$(BIN)/edgecnn convert $< --precision float32 $(call learned,$*) --out $@

out/%/int8.tflite: out/%/model.h5
	$(BIN)/edgecnn convert $< $(call learned,$*) --calibration $(call list,$*) $(CONVERT_$*) --out $@

out/%/report.html: out/%/int8.tflite out/%/float32.tflite
	$(BIN)/edgecnn bench $< --against out/$*/float32.tflite $(call test_data,$*) --split test $(BENCH_$*) --out out/$*

# On the scenes, and on rendered look-alikes that no training saw.
out/%/scenes/report.html: out/%/int8.tflite out/%/float32.tflite
	$(BIN)/edgecnn bench $< --against out/$*/float32.tflite $(call data,scenes.tar.xz) --split test --out $(@D)

out/%/stress/report.html: out/%/int8.tflite out/%/float32.tflite | out/stress
	$(BIN)/edgecnn bench $< --against out/$*/float32.tflite --data out/stress --split test --out $(@D)

out/stress: | .venv/ready
	$(BIN)/edgecnn data render stress --out $@

# The models that ship. 'make zoo MODEL=digits' makes one again, a killed run goes on, and says whether it
# reaches the figures on its card; PUBLISH=1 puts it on the shelf instead. Digits take minutes, sentinel three hours.
MODEL ?= digits
RECIPE_digits := digits-small
RECIPE_cifar10 := cifar10-distilled
REPORTS_sentinel := scenes stress
REPORTS_fire := stress
REPORTS_fire-nano := stress
BENCH_sentinel := --clips
BENCH_fire := --clips
BENCH_fire-nano := --clips
RECIPE := $(or $(RECIPE_$(MODEL)),$(MODEL))
zoo: $(foreach x,report.html $(addsuffix /report.html,$(REPORTS_$(MODEL))),out/$(RECIPE)/$x)
ifdef PUBLISH
	$(BIN)/edgecnn zoo publish out/$(RECIPE) --name $(MODEL) $(call data,$(DATA_$(RECIPE))) --calibration $(call list,$(RECIPE)) --into edgecnn/zoo
	$(BIN)/python tests/models_page.py
else
	$(BIN)/edgecnn zoo compare $(MODEL) out/$(RECIPE)
endif

# The same recipe without a source of pictures, or several, and without a teacher, who has seen them; measured on these,
# and with PUBLISH=1 put onto the card of the model on the shelf: make left-out MODEL=sentinel SOURCE='abonia_* dl2425_*'
WITHOUT = without-$(subst $() $(),-,$(subst *,,$(subst _*,,$(SOURCE))))
train_without = $(BIN)/edgecnn train $1 $(call learned,$1) $(TRAIN_$1) $(foreach x,$(SOURCE),--leave-out '$x') $(AVERAGED_$1:%=--average out/%-$(WITHOUT)/model.h5) $(STARTS_$1:%=--init out/%-$(WITHOUT)/model.h5) --out out/$1-$(WITHOUT) --resume
left-out: | .venv/ready
	$(foreach x,$(foreach y,$(STARTS_$(RECIPE)) $(RECIPE),$(AVERAGED_$y) $y),$(call train_without,$x) &&) true
	$(BIN)/edgecnn convert out/$(RECIPE)-$(WITHOUT)/model.h5 $(call learned,$(RECIPE)) $(CONVERT_$(RECIPE)) --out out/$(RECIPE)-$(WITHOUT)/int8.tflite
	$(BIN)/edgecnn bench out/$(RECIPE)-$(WITHOUT)/int8.tflite $(call data,$(DATA_$(RECIPE))) --split left_out $(foreach x,$(SOURCE),--only '$x') --out out/$(RECIPE)-$(WITHOUT)
ifdef PUBLISH
	$(BIN)/edgecnn zoo left-out $(MODEL) out/$(RECIPE)-$(WITHOUT) --into edgecnn/zoo
endif

# Accuracy against time of a model that ships at other sizes: at each a new last layer on its trunk, both fine-tuned
# for two epochs, and a chart of one of its answers: make bench-sizes MODEL=scenes HEAD=scene
SIZES ?= 96 128 160 192 224
HEAD ?= fire
SIZED := out/$(RECIPE)-sizes
SHELVED := edgecnn/zoo/$(MODEL)/$(MODEL).tflite
$(SIZES:%=$(SIZED)/%.toml): $(SIZED)/%.toml: edgecnn/workstation/recipes/$(or $(STARTS_$(RECIPE)),$(RECIPE)).toml
	mkdir -p $(@D)
	sed -E '0,/^name = "(.*)"/s//name = "\1-$*"/; s/^(height_px|width_px) = .*/\1 = $*/' $< > $@

$(SIZES:%=$(SIZED)/%/model.h5): $(SIZED)/%/model.h5: $(SIZED)/%.toml | .venv/ready
	$(BIN)/edgecnn train $< $(call data,$(DATA_$(RECIPE))) $(TRAIN_$(RECIPE)) --init $(SHELVED) --epochs 2 --out $(@D) --resume

$(SIZED)/%.int8.tflite: $(SIZED)/%/model.h5
	$(BIN)/edgecnn convert $< $(call data,$(DATA_$(RECIPE))) --calibration $(call list,$(RECIPE)) $(CONVERT_$(RECIPE)) --out $@

$(SIZED)/%.float32.tflite: $(SIZED)/%/model.h5
	$(BIN)/edgecnn convert $< --precision float32 $(call data,$(DATA_$(RECIPE))) --out $@

bench-sizes: $(foreach x,$(SIZES),$(SIZED)/$x.int8.tflite $(SIZED)/$x.float32.tflite)
	$(BIN)/edgecnn bench $(firstword $^) $(patsubst %,--against %,$(wordlist 2,99,$^)) $(call test_data,$(RECIPE)) --split test --threads 1 --out $(SIZED)
	$(BIN)/python tests/benchmarks/tradeoff.py $(SIZED)/report.json --head $(HEAD) --out docs/models-$(RECIPE)-sizes.svg

# Channel pruning: an int8 MobileNetV2 on scenes against its parent and against magnitude pruning.
# Fine-tuning takes 20 minutes on 2 cores, the parent 10. One thread: two wait for each other where
# other programs run.
SCENES := --data $(EDGECNN_SHARED)/data/scenes.tar.xz
out/prune-scenes/channels.h5: out/scenes/model.h5
	$(BIN)/edgecnn prune $< $(SCENES) --channels 0.64 --epochs 20 --learning-rate 5e-4 --out $@ --resume

out/prune-scenes/sparse.h5: out/scenes/model.h5
	$(BIN)/edgecnn prune $< $(SCENES) --sparsity 0.4 --epochs 2 --out $@

out/prune-scenes/unpruned.h5: out/scenes/model.h5
	mkdir -p $(@D) && cp $< $@

out/prune-scenes/%.tflite: out/prune-scenes/%.h5
	$(BIN)/edgecnn convert $< $(SCENES) --calibration calibration/scenes.txt --out $@

bench-prune: $(foreach x,channels sparse unpruned,out/prune-scenes/$x.tflite)
	$(BIN)/edgecnn bench $(patsubst %,--against %,$(wordlist 2,3,$^)) $< $(SCENES) --split test --threads 1 --calls 1000 --out out/prune-scenes
	$(BIN)/python tests/benchmarks/pruning_verdict.py out/prune-scenes/report.json unpruned --faster 1.8 --drop 1.0

# Deep Compression's headline: a LeNet through channel pruning, magnitude pruning, clustering and int8.
DIGITS := --data $(EDGECNN_SHARED)/data/mnist.npz
LENET := out/lenet-caffe
$(LENET)/channels.h5: $(LENET)/model.h5
	$(BIN)/edgecnn prune $< $(DIGITS) --channels 0.88 --cost parameters --epochs 16 --learning-rate 2e-3 --out $@ --resume

$(LENET)/sparse.h5: $(LENET)/channels.h5
	$(BIN)/edgecnn prune $< $(DIGITS) --sparsity 0.4 --epochs 8 --out $@

$(LENET)/clustered.h5: $(LENET)/sparse.h5
	$(BIN)/edgecnn prune $< $(DIGITS) --clusters 32 --epochs 4 --out $@

$(LENET)/channels.tflite $(LENET)/sparse.tflite $(LENET)/clustered.tflite: $(LENET)/%.tflite: $(LENET)/%.h5
	$(BIN)/edgecnn convert $< $(DIGITS) --calibration calibration/lenet-caffe.txt --out $@

bench-lenet: $(foreach x,clustered sparse channels int8 float32,$(LENET)/$x.tflite)
	$(BIN)/edgecnn bench $(patsubst %,--against %,$(wordlist 2,5,$^)) $< $(DIGITS) --split test --out $(LENET)
	$(BIN)/python tests/benchmarks/pruning_verdict.py $(LENET)/report.json float32 --smaller 40 --drop 0.1

# Every rung of the quantization ladder on networks with planted faults, and on trained ones.
bench-ladder: out/scenes/model.h5 out/digits/model.h5
	$(BIN)/python tests/benchmarks/ladder.py --budget 1 \
	  --model out/digits/model.h5 $(EDGECNN_SHARED)/data/mnist.npz calibration/digits.txt \
	  --model out/scenes/model.h5 $(EDGECNN_SHARED)/data/scenes.tar.xz calibration/scenes.txt

# AlexNet and VGG-16 with a tenth of their parameters.
out/%/tenth.h5: out/%/model.h5
	$(BIN)/edgecnn prune $< $(SCENES) --channels 0.9 --cost parameters --epochs 12 --out $@ --resume

out/%/tenth.tflite: out/%/tenth.h5
	$(BIN)/edgecnn convert $< $(SCENES) --calibration calibration/$*.txt --out $@

out/%/tenth/report.html: out/%/tenth.tflite out/%/int8.tflite
	$(BIN)/edgecnn bench $< --against out/$*/int8.tflite $(SCENES) --split test --out out/$*/tenth

bench-classics: out/alexnet-scenes/tenth/report.html out/vgg16-scenes/tenth/report.html

# p50 of int8 layers of 8 k channels and of a few more.
bench-multiples: .venv/ready
	$(BIN)/python tests/benchmarks/channel_multiples.py

# 5,000 damaged copies of a model file through the runtime, each in a child process.
damage: .venv/ready
	$(BIN)/python tests/damage.py --count 5000

# Ratios, measured side by side.
bench-overhead: .venv/ready
	$(BIN)/python tests/benchmarks/predict_overhead.py $(EDGECNN_SHARED)/reference_models/mobilenet_v1_0.5_160_quant.tflite
	$(BIN)/python tests/benchmarks/help_time.py

# What each head of a model costs, by turns with the same file without it.
bench-heads: .venv/ready
	$(BIN)/python tests/benchmarks/head_cost.py $(MODEL)

# 200 kill -9 with the broker going up and down, then every fault that a camera box meets. A table.
faults: .venv/ready programs
	$(BIN)/python tests/faults.py --kills 200

# A deploy broken after each of its steps in each way. A table; 20 to 40 minutes on 2 cores.
deploy-faults: .venv/ready programs
	$(BIN)/python tests/deploy_faults.py

# An emulated 64-bit Pi: its tests, then every int8 model at hand on it and here. The first time it fetches
# 240 MB and takes one to two minutes.
EMULATOR := debootstrap:debootstrap proot:proot qemu-aarch64-static:qemu-user-static
REFERENCES := $(foreach x,mobilenet_v1_0.25_128_quant mobilenet_v1_0.5_160_quant mobilenet_v2_1.0_224_quant vww_96_int8 pretrainedResnet_quant,$(EDGECNN_SHARED)/reference_models/$x.tflite)
emulate: .venv/ready
	@$(MAKE) --no-print-directory programs PROGRAMS='$(PROGRAMS) $(EMULATOR)'
	EDGECNN_EMULATE=1 $(BIN)/python -m pytest tests/deploy/test_emulator.py
	$(BIN)/python tests/emulated_parity.py $(wildcard edgecnn/zoo/*/*.tflite out/*/int8.tflite) $(REFERENCES) $(SCENES) --count 50

# The Ansible playbook rolls out to three devices, of which one fails; minutes. Its first steps are in `make test`.
fleet: .venv/ready programs
	EDGECNN_FLEET=1 $(BIN)/python -m pytest tests/firmware_examples/test_fleet.py

# One hour at 30 frames/s: memory, descriptors, age of frames; MINUTES=2 for a look. The model is a small one
# that is made for it, or SOAKED=FILE, one that sees fire.
MINUTES ?= 60
soak: .venv/ready
	$(BIN)/python tests/soak.py --minutes $(MINUTES) $(if $(SOAKED),--model $(SOAKED))

# Our loop against a plain OpenCV one by turns: rate, cost a frame, age of a frame at its decision.
bench-watch: .venv/ready
	$(BIN)/python tests/benchmarks/watch.py $(TRUNK_V2)

docs: .venv/ready
	$(BIN)/python tests/commands_page.py
	$(BIN)/python tests/models_page.py
	$(BIN)/python tests/recipe_page.py

clean:
	rm -rf .venv out build dist .mypy_cache .pytest_cache .ruff_cache
