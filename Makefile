# `make train` and `make test` set themselves up on a fresh machine: Python 3.11+ is all they need.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test study order docs clean

train: .venv/installed
	$(BIN)/python -m yt8m.train experiment=quickstart

# Three workers keep two cores busy: many tests wait for processes of their own.
test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3

# The study's comparison from real runs: all eight networks at an eighth of their width on the embedded sample.
study: .venv/installed
	$(BIN)/python -m yt8m.train -m model=nn,bi_lstm,stream_lstm,nn_stream_lstm \
	  model.width=0.125 trainer.max_epochs=15 hydra.sweep.dir=multirun/study/PyTorch
	$(BIN)/python -m yt8m.train -m model=keras_nn,keras_bi_lstm,keras_stream_lstm,keras_nn_stream_lstm \
	  model.width=0.125 trainer.max_epochs=15 hydra.sweep.dir=multirun/study/Keras
	$(MAKE) docs/study.md

# Which networks tell the order of events, from real runs on the embedded sample: the networks that are not the study's,
# at an eighth of their width, and the study's, if `make study` was run.
order: MORE = model.width=0.125 test=false dataset.root=data/sample_$(1) +dataset.sample.train_videos=$(1)
order: .venv/installed
	$(BIN)/python -m yt8m.train -m model=logistic,moe,resmlp,fourier_net,frame_logistic,fourier_attention,dbof,soft_dbow,gated_dbof,netvlad,netrvlad,netfv,nextvlad,mix_nextvlad,attention,lstm,gru,transformer \
	  model.width=0.125 trainer.max_epochs=15 test=false hydra.sweep.dir=multirun/order
	$(BIN)/python -m yt8m.train model=nn_stream_lstm trainer.max_epochs=8 $(call MORE,9600) hydra.run.dir=multirun/order_more/nn_stream_lstm
	$(BIN)/python -m yt8m.train model=keras_stream_lstm trainer.max_epochs=16 $(call MORE,9600) hydra.run.dir=multirun/order_more/keras_stream_lstm
	$(BIN)/python -m yt8m.train model=keras_bi_lstm trainer.max_epochs=12 $(call MORE,9600) hydra.run.dir=multirun/order_more/keras_bi_lstm
	$(BIN)/python -m yt8m.train model=keras_nn_stream_lstm trainer.max_epochs=12 $(call MORE,19200) hydra.run.dir=multirun/order_more/keras_nn_stream_lstm
	$(BIN)/python docs/order.py multirun/order multirun/order_more $(wildcard multirun/study)

# The generated parts of docs/models.md, from the classes of the networks.
docs: .venv/installed
	$(BIN)/python docs/generate.py

docs/study.md: multirun/study/PyTorch multirun/study/Keras
	printf '%s\n\n%s\n' "# The study's two tables" \
	  'All eight networks at `model.width=0.125` on the embedded sample, 15 epochs each, by `make study`.' > $@
	for build in PyTorch Keras; do \
	  $(BIN)/python -m yt8m.report multirun/study/$$build output=multirun/study/report_$$build \
	    classes=false overwrite=true > /dev/null && \
	  { echo; sed "1s/.*/## The $$build builds/" multirun/study/report_$$build/leaderboard.md; } >> $@ || exit 1; \
	done

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"yt8m needs Python 3.11 or newer, found {sys.version.split()[0]}; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv build dist
