"""Try a checkpoint in the browser: `python -m yt8m.demo ckpt_path=RUN/checkpoints/best.ckpt dataset.root=PATH`."""

from yt8m.cli import command

main = command("demo", "yt8m.demo.demo:demo")

if __name__ == "__main__":
    main()
