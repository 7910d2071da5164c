"""Evaluate a checkpoint: `python -m yt8m.eval ckpt_path=RUN/checkpoints/best.ckpt`."""

from yt8m.cli import command

main = command("eval", "yt8m.eval.evaluate:evaluate")

if __name__ == "__main__":
    main()
