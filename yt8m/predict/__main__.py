"""Write predictions: `python -m yt8m.predict ckpt_path=RUN/checkpoints/best.ckpt`."""

from yt8m.cli import command

main = command("predict", "yt8m.predict.predict:predict")

if __name__ == "__main__":
    main()
