"""Train a network: `python -m yt8m.train model=nn_stream_lstm`."""

from yt8m.cli import command

main = command("train", "yt8m.train.run:train")

if __name__ == "__main__":
    main()
