"""Export a network: `python -m yt8m.export ckpt_path=RUN/checkpoints/best.ckpt output=model.onnx`."""

from yt8m.cli import command

main = command("export", "yt8m.export.export:export")

if __name__ == "__main__":
    main()
