# Everything happens in .venv; any Python from 3.10 on makes it.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt

NETWORKS ?= build/networks

.PHONY: demo test test-runtime networks lint docs docs-commands bench matrix gpu-check qgis-plugin qgis-test clean

demo: $(BIN)/python ## segment the shipped sample, without PyTorch
	$(PIP) --editable '.[cpu]' --config-settings editable_mode=strict
	$(BIN)/fctl-run samples/dubai.tif --out demo --overwrite

test: $(BIN)/python ## install what the tests need, and run all of them
	$(PIP) --editable '.[cpu,openvino,rtx,export,train,vector,remote,dask,view,docs,dev]' --config-settings editable_mode=strict
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-runtime: ## the runtime's tests on the built wheel, where neither torch nor onnx is installed
	rm -rf build/runtime-venv build/wheel
	$(PYTHON) -m venv build/runtime-venv
	$(PYTHON) -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir build/wheel .
	build/runtime-venv/bin/pip --disable-pip-version-check install --quiet --constraint constraints.txt \
		build/wheel/*.whl onnxruntime cuda-bindings matplotlib pytest pytest-xdist hypothesis
	build/runtime-venv/bin/python -c "import importlib.util as u; assert not u.find_spec('torch') and not u.find_spec('onnx')"
	build/runtime-venv/bin/python -m pytest --numprocesses auto --dist loadfile -m 'not once' tests/runtime

networks: $(NETWORKS)/torch/ready $(NETWORKS)/csmask/ready ## networks of other packages, which it installs (7 GB, 20 minutes; needs `make test` once)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --networks=$(NETWORKS) tests/networks
	@cat $(NETWORKS)/table.md

# An environment of another package, which asks for other versions than ours.
$(NETWORKS)/%/ready: tests/networks/environments/%.txt
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip --disable-pip-version-check install --quiet --requirement $<
	if test -f $(<:.txt=-alone.txt); then $(@D)/bin/pip --disable-pip-version-check install --quiet --no-deps --requirement $(<:.txt=-alone.txt); fi
	touch $@

lint: ## needs `make test` once, for the tools
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(BIN)/mkdocs ## the documentation as a site: site/index.html; broken links and anchors fail
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-commands: $(BIN)/mkdocs ## every command of the documentation: who runs it, or why nobody does
	@$(BIN)/python -m docsite.commands

bench: ## patches a second of the default bundle in every engine (needs `make test` once)
	$(BIN)/python -m benchmarks.engines

matrix: ## every preset at full width: size, work, parity, speed, TensorRT builds (hours; needs `make test` once)
	$(BIN)/python -m benchmarks.matrix
	$(BIN)/python -m benchmarks.builds

gpu-check: ## verify and time everything that this CUDA machine can run (needs `make test` once)
	$(BIN)/python -m benchmarks.gpu_check --out gpu-check

qgis-plugin: ## build/fctl_qgis.zip, which QGIS's plugin manager installs
	rm -rf build/qgis build/fctl_qgis.zip
	mkdir -p build/qgis/fctl_qgis
	cp $(wildcard integrations/qgis/fctl_qgis/*.*) LICENSE build/qgis/fctl_qgis
	cd build/qgis && $(PYTHON) -m zipfile --create ../fctl_qgis.zip fctl_qgis

qgis-test: ## the plugin in Debian's QGIS, without windows (needs `make test` once, and qgis)
	integrations/qgis/test.sh

clean:
	rm -rf .venv build demo gpu-check site dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/mkdocs: $(BIN)/python
	$(PIP) --editable '.[cpu,docs]' --config-settings editable_mode=strict

$(BIN)/python:
	$(PYTHON) -m venv .venv
