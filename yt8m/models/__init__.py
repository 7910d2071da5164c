"""One network per file: `model=nn_stream_lstm` is `nn_stream_lstm.py` is `class NNStreamLSTM`."""
