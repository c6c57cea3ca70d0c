# `make demo` and `make test` set up what they need and then do it. The rest is longer; see README.md.
PYTHON ?= python3
BIN := .venv/bin
# pytest runs one worker a core; TensorFlow's own threads share them.
WORKERS ?= 2
# Real pictures and reference models; export it for the tests to find.
EDGECNN_SHARED ?= ../shared
export EDGECNN_SHARED
TRUNK_V1 := $(EDGECNN_SHARED)/reference_models/mobilenet_v1_1.0_224_quant_embedding_extractor.tflite
TRUNK_V2 := $(EDGECNN_SHARED)/reference_models/mobilenet_v2_1.0_224_quant.tflite

.PHONY: programs faults demo test setup lint clean figures classics bench-overhead damage docs
.SECONDARY:

demo: .venv/ready
	$(BIN)/edgecnn demo --out out/demo

test: .venv/ready programs lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

# What tests use for real, as command:package; they skip where it is absent and nobody may install it.
PROGRAMS := mosquitto:mosquitto faketime:faketime openssl:openssl

programs:
	@missing=; for p in $(PROGRAMS); do command -v $${p%%:*} >/dev/null || missing="$$missing $${p##*:}"; done; \
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
figures: out/digits/report.html out/cifar10/report.html out/fire/report.html out/scenes/report.html out/scenes-linear/report.html

# AlexNet and VGG-16, one epoch each; EPOCHS=30 trains them to the end.
EPOCHS ?= 1
classics: out/alexnet-scenes/report.html out/vgg16-scenes/report.html

DATA_digits := mnist.npz
DATA_cifar10 := cifar10.tar.xz
DATA_fire := fire.tar.xz
DATA_scenes := scenes.tar.xz
DATA_scenes-linear := scenes.tar.xz
DATA_alexnet-scenes := scenes.tar.xz
DATA_vgg16-scenes := scenes.tar.xz
TRAIN_fire := --init $(TRUNK_V2)
TRAIN_scenes := --init $(TRUNK_V2)
TRAIN_scenes-linear := --init $(TRUNK_V1)
TRAIN_alexnet-scenes := --epochs $(EPOCHS)
TRAIN_vgg16-scenes := --epochs $(EPOCHS)

out/%/model.h5: | .venv/ready
	$(BIN)/edgecnn train $* --data $(EDGECNN_SHARED)/data/$(DATA_$*) $(TRAIN_$*) --out out/$* --resume

out/%/float32.tflite: out/%/model.h5
	$(BIN)/edgecnn convert $< --precision float32 --data $(EDGECNN_SHARED)/data/$(DATA_$*) --out $@

out/%/int8.tflite: out/%/model.h5
	$(BIN)/edgecnn convert $< --data $(EDGECNN_SHARED)/data/$(DATA_$*) --calibration calibration/$*.txt --out $@

out/%/report.html: out/%/int8.tflite out/%/float32.tflite
	$(BIN)/edgecnn bench $< --against out/$*/float32.tflite --data $(EDGECNN_SHARED)/data/$(DATA_$*) --split test --out out/$*

# 5,000 damaged copies of a model file through the runtime, each in a child process.
damage: .venv/ready
	$(BIN)/python tests/damage.py --count 5000

# Ratios, measured side by side.
bench-overhead: .venv/ready
	$(BIN)/python tests/benchmarks/predict_overhead.py $(EDGECNN_SHARED)/reference_models/mobilenet_v1_0.5_160_quant.tflite
	$(BIN)/python tests/benchmarks/help_time.py

# 200 kill -9 with the broker going up and down, then every fault that a camera box meets. A table.
faults: .venv/ready programs
	$(BIN)/python tests/faults.py --kills 200

docs: .venv/ready
	$(BIN)/python tests/commands_page.py

clean:
	rm -rf .venv out build dist .mypy_cache .pytest_cache .ruff_cache
